"""What every decoder gives: frames in presentation order, each with its own time, converted to RGB only when asked for.

Protocol of use: iterate; at each `FrameRef`, `rgb()` may be called until the iterator is advanced; after the last one, read
`n_frames`, `n_errors`, `tail_seconds` and `notes`. Times are seconds from the first frame. What the container declares is kept
apart, as a hint, in `declared`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipeline.decoding.frames import Luma, RgbFrame
from pipeline.decoding.trouble import reading_trouble

DecoderName = Literal["decord", "pyav", "opencv", "pillow"]
"""`pillow` is never asked for: it reads animated WebP, which FFmpeg cannot."""
DECODING_RULES = 2
"""Version of all that decides which picture stands at which time; part of every fingerprint (docs/sampling.md says what 1
was)."""
PLAYLIST_MARKS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0")
"""First bytes of the text formats with which FFmpeg opens other files or addresses: HLS, concat, DASH and other XML, SDP."""


class DecodeProblem(Exception):
    """One video cannot be decoded: `reason` is a reject code of `cache.schema.REJECT_REASONS`, `detail` the evidence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Declared:
    """What the container header says; 0 where it says nothing. Never trusted, only compared with what was decoded."""

    n_frames: int
    fps: float
    duration_seconds: float
    """Of the video stream itself."""
    longest_seconds: float = 0.0
    """The most that anything in the header allows: the stream's duration or the container's."""


@dataclass(frozen=True, slots=True)
class FrameRef:
    """One decoded frame: time since the first frame, time of the next one (None at the end), and a way to get its pixels.

    luma: None where the decoder does not give it. rgb_as: the same picture converted as another decoder has it converted
    (`conversion.py`), None where this one cannot say.
    """

    pts_seconds: float
    next_pts_seconds: float | None
    rgb: Callable[[], RgbFrame]
    luma: Callable[[], Luma | None] = lambda: None
    rgb_as: Callable[[DecoderName], RgbFrame | None] = lambda decoder: None


class FrameSource(Protocol):
    """One opened video. Iterating decodes it once, in order."""

    decoder: DecoderName
    declared: Declared
    n_frames: int
    """Frames decoded so far."""
    n_errors: int
    """Frames or packets so far that the decoder reported as damaged."""
    tail_seconds: float
    """How long the last frame is shown; valid after the end."""
    notes: list[str]
    """What a user should know of this file though it decodes: complete after the end."""
    first_seconds: float | None
    """The first frame's time on the container's clock, None where the decoder does not say it; valid after the end."""

    def __iter__(self) -> Iterator[FrameRef]: ...

    def close(self) -> None: ...


def takes_over(decoder: DecoderName) -> DecoderName | None:
    """Who reads a video again that `decoder` could not read whole; None: it had the last word."""
    return None if decoder in ("pyav", "pillow") else "pyav"


def checked_path(path: Path) -> Path:
    """The path as FFmpeg must see it: absolute, since it takes `12:30.mp4` for a protocol.

    Raises `DecodeProblem` for a playlist, which would be answered with the frames of other files.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise DecodeProblem(*reading_trouble(error)) from error
    if start.startswith(PLAYLIST_MARKS):
        raise DecodeProblem(
            "unreadable-container", "a playlist or text file that refers to others, not a video"
        )
    return path.absolute()


def open_frames(path: Path, decoder: DecoderName) -> FrameSource:
    """Open a video.

    Raises `DecodeProblem` where it cannot be opened, holds no video stream, or is of a kind for which `decoder` cannot say which
    picture stands at which time (`pipeline/decoding/decoders/suited.py`).
    """
    path = checked_path(path)
    if decoder in ("pyav", "pillow"):
        from pipeline.decoding.decoders.animation import AnimationFrames, is_animated_webp
        from pipeline.decoding.decoders.pyav import PyAVFrames

        return AnimationFrames(path) if is_animated_webp(path) else PyAVFrames(path)
    from pipeline.decoding.decoders.suited import declared_if_suited

    declared = declared_if_suited(path, decoder)
    source: FrameSource
    if decoder == "decord":
        from pipeline.decoding.decoders.decord import DecordFrames

        source = DecordFrames(path)
    else:
        from pipeline.decoding.decoders.opencv import OpenCVFrames

        source = OpenCVFrames(path)
    source.declared = declared  # decord's is what it indexed, OpenCV's counts the sound beside the video
    return source
