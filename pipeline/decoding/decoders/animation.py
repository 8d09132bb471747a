"""Animated WebP through Pillow: FFmpeg reads still WebP only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from pipeline.decoding.decoders.base import Declared, DecodeProblem, DecoderName, FrameRef
from pipeline.decoding.decoders.timeline import Timed, Timeline
from pipeline.decoding.frames import RgbFrame

ANIMATION_FLAG = 0x02
"""Bit of the flags of a VP8X chunk: the file is an animation (RFC 9649, section 2.7)."""
HEADER_BYTES = 21
UNSAID_SECONDS = 0.1
"""How long a picture is shown whose duration is 0: what FFmpeg takes for GIF, and browsers for both."""


def is_animated_webp(path: Path) -> bool:
    """Whether the file's first bytes are those of an animated WebP."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    extended = len(head) == HEADER_BYTES and head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X"
    return extended and bool(head[20] & ANIMATION_FLAG)


class AnimationFrames:
    """Frames of one animation, each shown for as long as the file says. Raises `DecodeProblem` on open."""

    decoder: DecoderName = "pillow"

    def __init__(self, path: Path) -> None:
        try:
            self._image = Image.open(path, formats=("WEBP",))
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise DecodeProblem("unreadable-container", f"Pillow: {error}") from error
        n_frames = int(getattr(self._image, "n_frames", 1))
        self.declared = Declared(n_frames=n_frames, fps=0.0, duration_seconds=0.0)
        self.notes: list[str] = []
        self.n_frames = 0
        self.n_errors = 0
        self.tail_seconds = 0.0
        self.first_seconds: float | None = None
        self._n_unsaid = 0

    def __iter__(self) -> Iterator[FrameRef]:
        timeline = Timeline(declared_fps=0.0, declared_seconds=0.0)
        held: tuple[float, RgbFrame] | None = None
        for pts, picture in timeline.run(self._decode()):
            if held is not None:
                yield FrameRef(held[0], pts, partial(_same, held[1]))
            held = (pts, picture)
        self.n_errors += timeline.repairs
        if self._n_unsaid:
            self.notes.append(
                f"{self._n_unsaid} of {self.n_frames} pictures have a duration of 0 ms: taken as {UNSAID_SECONDS * 1000:.0f} ms"
            )
        if held is not None:
            self.tail_seconds = timeline.tail(self._shown_seconds)
            yield FrameRef(held[0], None, partial(_same, held[1]))

    def _decode(self) -> Iterator[Timed[RgbFrame]]:
        seconds = 0.0
        try:
            for frame in ImageSequence.Iterator(self._image):
                picture = np.asarray(frame.convert("RGB"))
                said = float(frame.info.get("duration", 0)) / 1000
                self._shown_seconds = said or UNSAID_SECONDS
                self._n_unsaid += not said
                self.n_frames += 1
                yield Timed(picture, seconds, None, self._shown_seconds)
                seconds += self._shown_seconds
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            self.n_errors += 1
            if not self.n_frames:
                raise DecodeProblem("no-frames", f"Pillow: {error}") from error

    def close(self) -> None:
        """Free the decoder."""
        self._image.close()


def _same(picture: RgbFrame) -> RgbFrame:
    return picture
