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

DecoderName = Literal["decord", "pyav", "opencv"]


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


def open_frames(path: Path, decoder: DecoderName) -> FrameSource:
    """Open a video. Raises `DecodeProblem` where it cannot be opened or holds no video stream."""
    if decoder == "pyav":
        from pipeline.decoders.pyav import PyAVFrames

        return PyAVFrames(path)
    if decoder == "decord":
        from pipeline.decoders.decord import DecordFrames

        return DecordFrames(path)
    from pipeline.decoders.opencv import OpenCVFrames

    return OpenCVFrames(path)
