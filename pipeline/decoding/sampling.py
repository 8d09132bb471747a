"""Which frames a stream wants, by timestamp: a uniform time grid, nearest frame, and windows over the grid.

A stream samples the video on the grid t_k = k / fps, k = 0, 1, ..., for every t_k before the end of the video. Each grid
point is answered by the frame whose timestamp is nearest to it (the earlier one on a tie), so a container that rounds
timestamps to milliseconds and one that does not give the same frames, and a variable frame rate needs no special case.
A token is a window of `window` consecutive grid samples. Windows start every `stride` samples; the last one is moved back so
that it ends at the end of the video, and a video shorter than a window repeats its last sample.

Grid points are handed out while frames arrive: no decision needs more than the next frame's timestamp, so a video is sampled
in one sequential pass and in memory that does not depend on its length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TIE_SECONDS = 1e-6
"""Two distances in time closer than this are a tie: far below a frame interval, far above float64 rounding of a day."""

SLIVER_SECONDS = 9e-4
"""A grid point closer than this to the end of a video is not sampled: what is left there is rounding to
milliseconds of its start and of its length. Just under 1 ms, since 30 frames at 29.97 a second are 1.001 s."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one stream samples time.

    fps: grid rate in samples per second. window: samples a token. stride: samples from one window's start to the next.
    """

    fps: float
    window: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"sampling fps must be a positive number, got {self.fps}")
        if self.window < 1 or not 1 <= self.stride <= self.window:
            raise ValueError(
                f"need window >= 1 and 1 <= stride <= window, got {self.window} and {self.stride}"
            )

    @property
    def window_seconds(self) -> float:
        """Time that one window stands for, in seconds (32 samples at 15 fps: 64/30 s)."""
        return self.window / self.fps


def grid_size(duration_seconds: float, sampling: Sampling) -> int:
    """Number of grid points before the end of a video; at least 1, since every stored video has a first frame."""
    return max(1, math.ceil((duration_seconds - SLIVER_SECONDS) * sampling.fps))


def window_starts(n_samples: int, sampling: Sampling) -> list[int]:
    """First grid sample of every window over `n_samples` grid samples; the last window ends at the last sample.

    Streaming counterpart: a window is complete as soon as its last sample arrives, only the final one needs the end.
    """
    if n_samples <= sampling.window:
        return [0]
    starts = list(range(0, n_samples - sampling.window + 1, sampling.stride))
    last = n_samples - sampling.window
    if starts[-1] != last:
        starts.append(last)
    return starts


def token_spans(duration_seconds: float, sampling: Sampling) -> NDArray[np.float32]:
    """Spans of all tokens of a video of this duration: float32 [T, 2], start and end in seconds, inside the duration."""
    starts = np.asarray(window_starts(grid_size(duration_seconds, sampling), sampling), dtype=np.float64)
    spans = np.stack([starts / sampling.fps, (starts + sampling.window) / sampling.fps], axis=1)
    return np.minimum(spans, max(duration_seconds, 0.0)).astype(np.float32)


class GridCursor:
    """Hands out the grid points that each frame answers while timestamps arrive in order."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._next = 0

    def take(self, pts_seconds: float, next_pts_seconds: float) -> int:
        """Number of further grid points for which the frame at `pts_seconds` is the nearest one.

        `next_pts_seconds` is the following frame's timestamp, which must be later.
        """
        middle_seconds = (pts_seconds + next_pts_seconds) / 2
        nearer = math.floor((middle_seconds + TIE_SECONDS) * self._sampling.fps) + 1
        return self._advance(min(nearer, grid_size(next_pts_seconds, self._sampling)))

    def finish(self, duration_seconds: float) -> int:
        """Number of grid points that remain for the last frame, given the end of the video."""
        return self._advance(grid_size(duration_seconds, self._sampling))

    def _advance(self, stop: int) -> int:
        count = max(0, stop - self._next)
        self._next += count
        return count
