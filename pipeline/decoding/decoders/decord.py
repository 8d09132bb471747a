"""decord: fast, frame times known from the index before anything is decoded, frames that nobody wants skipped undisturbed.

decord hides damage: it prints FFmpeg's complaints to stderr and fills in copies of neighbouring frames. The worker therefore
takes a decord result only from a decode without complaints and lets PyAV judge the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import decord
import numpy as np

from pipeline.decoding.decoders.base import Declared, DecodeProblem, DecoderName, FrameRef
from pipeline.decoding.decoders.timeline import Timed, Timeline
from pipeline.decoding.frames import RgbFrame

LONGEST_SECONDS = 600.0
"""Longer videos are left to PyAV: on two hours of 1080p decord grew to 4 GiB (benchmarks/memory.py)."""
NO_TIME_SECONDS = 1e9
"""Beyond this a time is FFmpeg's mark for none (the smallest int64), divided by some clock rate."""


class DecordFrames:
    """Frames of one video through decord, on one thread. Raises `DecodeProblem` on open and while decoding."""

    decoder: DecoderName = "decord"

    def __init__(self, path: Path) -> None:
        decord.logging.set_level(decord.logging.ERROR)
        try:
            self._reader = decord.VideoReader(str(path), num_threads=1)
            n_frames = len(self._reader)
            if n_frames == 0:
                raise DecodeProblem("no-frames", "decord found no frames")
            self._shown = np.asarray(self._reader.get_frame_timestamp(range(n_frames)), dtype=np.float64)
            fps = float(self._reader.get_avg_fps())
        except (decord.DECORDError, RuntimeError, IndexError, ValueError) as error:
            raise DecodeProblem("unreadable-container", _plain(error)) from error
        if not np.all(np.abs(self._shown) < NO_TIME_SECONDS):
            raise DecodeProblem("decode-errors", "decord has no time for some of its frames")
        if self._shown[0, 0] < 0:
            # an edit list cuts the start: decord counts the frames that are not to be shown and fills in copies for them
            raise DecodeProblem("decode-errors", f"its first frame is at {self._shown[0, 0]:.3f} s")
        duration = float(self._shown[-1, 1])
        if duration > LONGEST_SECONDS:
            raise DecodeProblem(
                "decode-errors", f"{duration:.0f} s are too long for decord, whose memory grows"
            )
        self.declared = Declared(
            n_frames=n_frames,
            fps=fps if np.isfinite(fps) else 0.0,
            duration_seconds=duration,
            longest_seconds=duration,
        )
        self.n_frames = 0
        self.n_errors = 0
        self.tail_seconds = 0.0
        self.first_seconds: float | None = None
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[FrameRef]:
        timeline = Timeline(declared_fps=self.declared.fps, declared_seconds=self.declared.longest_seconds)
        # decord keeps times as float32; a microsecond grid gives back what the container said
        starts = np.round(self._shown[:, 0], 6)
        times = timeline.place_all(Timed(None, float(start)) for start in starts)
        self.n_errors += timeline.repairs
        self.tail_seconds = timeline.tail(float(self._shown[-1, 1] - self._shown[-1, 0]))
        for index, pts in enumerate(times):
            following = times[index + 1] if index + 1 < len(times) else None
            picture = self._next(index)
            yield FrameRef(pts, following, partial(_same, picture))

    def _next(self, index: int) -> RgbFrame:
        """The next picture. Never skipped to: decord seeks to skip, and its position is then a guess."""
        try:
            picture: RgbFrame = self._reader.next().asnumpy()
        except (decord.DECORDError, StopIteration, RuntimeError) as error:
            raise DecodeProblem(
                "decode-errors", f"decord stopped at frame {index}: {_plain(error)}"
            ) from error
        self.n_frames = index + 1
        return picture

    def close(self) -> None:
        """Free the decoder."""
        del self._reader


def _same(picture: RgbFrame) -> RgbFrame:
    return picture


def _plain(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "Error:" in line or "ERROR" in line]
    text = lines[-1] if lines else (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text.split("Error:", 1)[-1].split(" ERROR ", 1)[-1].strip()
