"""What every decoder gives: frames in presentation order, each with its time, converted to RGB only when asked for.

Protocol of use: iterate; at each `FrameRef`, `rgb()` may be called until the iterator is advanced; after the last one, read
`n_frames`, `n_errors` and `tail_seconds`. Times are seconds from the first frame. What the container declares is kept apart, as
a hint, in `declared`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipeline.frames import RgbFrame
from pipeline.trouble import reading_trouble

DecoderName = Literal["decord", "pyav", "opencv"]
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


@dataclass(frozen=True, slots=True)
class FrameRef:
    """One decoded frame: time since the first frame, time of the next one (None at the end), and a way to get its pixels."""

    pts_seconds: float
    next_pts_seconds: float | None
    rgb: Callable[[], RgbFrame]


class FrameSource(Protocol):
    """One opened video. Iterating decodes it once, in order."""

    declared: Declared
    n_frames: int
    """Frames decoded so far."""
    n_errors: int
    """Frames or packets so far that the decoder reported as damaged."""
    tail_seconds: float
    """How long the last frame is shown; valid after the end."""

    def __iter__(self) -> Iterator[FrameRef]: ...

    def close(self) -> None: ...


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
    """Open a video. Raises `DecodeProblem` where it cannot be opened or holds no video stream."""
    path = checked_path(path)
    if decoder == "pyav":
        from pipeline.decoders.pyav import PyAVFrames

        return PyAVFrames(path)
    if decoder == "decord":
        from pipeline.decoders.decord import DecordFrames

        return DecordFrames(path)
    from pipeline.decoders.opencv import OpenCVFrames

    return OpenCVFrames(path)
