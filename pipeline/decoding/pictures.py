"""What ties a picture to its time, checked by a decoder that did not make it: two decoders side by side over one file."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.decoding.decoders.base import (
    Declared,
    DecodeProblem,
    DecoderName,
    FrameRef,
    FrameSource,
    checked_path,
    open_frames,
)
from pipeline.decoding.frames import RgbFrame

SAME_SECONDS = 2e-3
"""Times of one frame from two decoders differ by rounding to milliseconds at most."""
SAME_LEVELS = 4.0
"""Grey levels by which one picture may differ on average: decoders convert colours with other roundings. Where they scale chroma
with other filters too, as for 10 bits, both pictures are converted with one of them, which left 0 to 0.3 (2.4 at odd widths); as
each converts it they must then be alike in greys and in squares, where right ones differed by 3.1 at most, another range by 5."""
SQUARE = 8
"""Side in pixels of squares whose means are compared."""
NEIGHBOUR_SHARE = 0.8
"""A picture that is nearer than this share of its own difference to a neighbour of its place stands in the wrong place."""
OTHERS: Mapping[DecoderName, tuple[DecoderName, ...]] = {
    "pyav": ("opencv", "decord"),
    "pillow": (),
    "decord": ("pyav", "opencv"),
    "opencv": ("pyav", "decord"),
}
"""Who is asked about what a decoder stored, in this order."""
_TwoWays = tuple[RgbFrame, RgbFrame]
"""A picture as its decoder converts it to RGB, and as the one that it is compared with does."""


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """Time of every frame in seconds, float64 [T], the end, and how many frames were damaged."""

    times: NDArray[np.float64]
    duration_seconds: float
    n_errors: int


@dataclass(frozen=True, slots=True)
class Opinion:
    """`decoder` sees the same pictures at the same times; `equal`: bit for bit."""

    decoder: DecoderName
    equal: bool


class ImageFrames:
    """A still image through Pillow, as a source of one frame: the second opinion on pictures. Raises `DecodeProblem` on open."""

    decoder: DecoderName = "pillow"

    def __init__(self, path: Path) -> None:
        from PIL import Image, ImageOps, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                self._picture: RgbFrame = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise DecodeProblem("unreadable-container", str(error)) from error
        self.declared = Declared(1, 0.0, 0.0)
        self.notes: list[str] = []
        self.n_frames, self.n_errors, self.tail_seconds = 1, 0, 0.0
        self.first_seconds: float | None = None

    def __iter__(self) -> Iterator[FrameRef]:
        yield FrameRef(0.0, None, partial(np.copy, self._picture))

    def close(self) -> None:
        """Nothing is open."""


def quiet_decoders() -> None:
    """What decoders have to complain of was said when the file was extracted."""
    import av.logging

    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"  # libavutil/log.h: AV_LOG_QUIET
    av.logging.set_level(None)


def known_decoder(name: str) -> DecoderName:
    """The decoder on record. Raises DecodeProblem for one that this version does not know."""
    for known in get_args(DecoderName):
        if known == name:
            decoder: DecoderName = known
            return decoder
    raise DecodeProblem(
        "unreadable-container", f"stored with decoder {name!r}, which this version does not know"
    )


def frame_times(path: Path, decoder: DecoderName) -> Times:
    """Decode a file from end to end, converting nothing. Raises DecodeProblem."""
    with closing(open_frames(path, decoder)) as source:
        times = [frame.pts_seconds for frame in source]
    if not times:
        raise DecodeProblem("no-frames", "the video stream gave no frame")
    return Times(np.asarray(times), times[-1] + source.tail_seconds, source.n_errors)


def second_opinion(
    path: Path, decoder: DecoderName, wanted: Collection[int], *, still: bool
) -> tuple[Opinion | None, bool, str]:
    """The first other decoder that sees the same times and the same `wanted` pictures (frame numbers).

    still: the file is one picture, of which Pillow is asked first. Returns the opinion, None where there is none; whether another
    decoder read the file and disagrees; and what each one said.
    """
    said: list[str] = []
    disagreed = False
    images: tuple[DecoderName, ...] = ("pillow",) if still and decoder != "pillow" else ()
    for other in (*images, *OTHERS[decoder]):
        try:
            source = ImageFrames(checked_path(path)) if other == "pillow" else open_frames(path, other)
            with closing(open_frames(path, decoder)) as first, closing(source) as second:
                difference, equal = compare(first, second, wanted)
                lost = second.n_errors > first.n_errors  # it found the file's times broken, or lost frames
                if not second.n_frames:  # OpenCV opens AV1 and has no decoder for it
                    raise DecodeProblem("no-frames", "it opens the file and gives no picture")
        except (DecodeProblem, ImportError) as problem:
            said.append(f"{other}: {getattr(problem, 'detail', problem)}")
            continue
        if not difference:
            return Opinion(other, equal), False, ""
        disagreed |= not lost
        said.append(f"{other}: {difference}" + (", and it is unsure itself" if lost else ""))
    return None, disagreed, "; ".join(said) or "no other decoder reads such files"


def compare(first: FrameSource, second: FrameSource, wanted: Collection[int]) -> tuple[str, bool]:
    """How two sources differ in times and `wanted` pictures, "" where they do not, and whether all pictures are equal.

    A picture must also not be nearer to what the other has one place before or after. Both are read to their ends, where their
    counts are complete.
    """
    ours, theirs = iter(first), iter(second)
    found = _compare(ours, theirs, wanted, (first.decoder, second.decoder))
    for rest in (ours, theirs):
        for _ in rest:
            pass
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """Our picture of one place, theirs of it and of the place before: as each converts it, and both converted alike."""

    number: int
    seconds: float
    ours: _TwoWays
    here: _TwoWays
    before: _TwoWays | None

    def wrong(self, after: _TwoWays | None) -> str:
        """What is wrong with the picture, "" for nothing, in the way in which it fits best, wherever it fits."""
        alike = self.ours[0] is not self.ours[1] or self.here[0] is not self.here[1]
        distances = [
            [
                math.inf if at is None else difference(self.ours[way], at[way])
                for at in (self.here, self.before, after)
            ]
            for way in range(1 + alike)
        ]
        best = min(distances, key=min)
        own, to_before, to_after = best
        if not own <= SAME_LEVELS:
            return f"another picture in frame {self.number}, at {self.seconds:.3f} s"
        for distance, other in ((to_before, self.number - 1), (to_after, self.number + 1)):
            if distance < NEIGHBOUR_SHARE * own:
                return f"the picture of frame {self.number} is that of frame {other}"
        if best is not distances[0] and not _difference_of_colours(self.ours[0], self.here[0]) <= SAME_LEVELS:
            return f"other colours in frame {self.number}, at {self.seconds:.3f} s"
        return ""


def _compare(
    ours: Iterator[FrameRef],
    theirs: Iterator[FrameRef],
    wanted: Collection[int],
    names: tuple[DecoderName, DecoderName],
) -> tuple[str, bool]:
    equal = True
    number = -1
    waiting: _Placed | None = None
    before: _TwoWays | None = None
    while True:
        a, b = next(ours, None), next(theirs, None)
        if a is None or b is None:
            break
        number += 1
        if abs(a.pts_seconds - b.pts_seconds) > SAME_SECONDS:
            return f"frame {number} is at {b.pts_seconds:.3f} s, not at {a.pts_seconds:.3f} s", False
        near = [n in wanted for n in (number - 1, number, number + 1)]
        here = None
        if any(near):
            shown, alike = b.rgb(), b.rgb_as(names[0])
            here = shown, shown if alike is None else alike
        if waiting is not None and (wrong := waiting.wrong(here)):
            return wrong, False
        waiting = None
        if near[1] and here is not None:
            picture = a.rgb()
            same = difference(picture, here[0]) == 0
            alike = None if same else a.rgb_as(names[1])
            ours_here = picture, picture if alike is None else alike
            waiting = _Placed(number, a.pts_seconds, ours_here, here, before)
            equal &= same
        before = here
    if waiting is not None and (wrong := waiting.wrong(None)):
        return wrong, False
    if (a is None) != (b is None):
        rest = sum(1 for _ in (ours if b is None else theirs)) + 1
        return (
            f"{rest} frames {'fewer' if b is None else 'more'} than {number + 1 + rest * (b is None)}",
            False,
        )
    return "", equal


def difference(a: RgbFrame, b: RgbFrame) -> float:
    """Mean absolute difference of two pictures (uint8 [H, W, 3]) in grey levels; infinite where their shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a.astype(np.int16) - b).mean())


def _difference_of_colours(a: RgbFrame, b: RgbFrame) -> float:
    """The same where filters for chroma hardly show: of greys, or of the means of squares. a, b: of one shape."""
    height, width = (max(1, side // SQUARE) for side in a.shape[:2])
    small = [cv2.resize(x.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) for x in (a, b)]
    grey = [cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).astype(np.int16) for x in (a, b)]
    return max(float(np.abs(x - y).mean()) for x, y in (small, grey))
