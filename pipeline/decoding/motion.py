"""How a picture changes, without a network: statistics of neighbouring grey frames, one vector a window, in the decode worker.

Differences alone see every change, flashes included; dense flow sees what moves, and flow less its median what moves otherwise
than the camera. H, W: of a grey frame whose long side is 160; D numbers a pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LONG_SIDE = 160
PERCENTILES = (0.5, 0.9, 0.99)
CHANGED_LEVELS = (0.05, 0.15)
"""Shares of the grey range; how many pixels change by more is counted."""
N_DIRECTIONS = 8
FLOW_STEP = 2
"""Every second vector in both directions is looked at: DIS lays its patches of 8 pixels wider than that."""
SMALLEST_DIFFERENCE = 1e-3
"""Added before the logarithm, as a share of the grey range: a quarter of a grey level."""
SMALLEST_FLOW = 1e-4
"""Likewise, as a share of the long side: a sixtieth of a pixel. Sizes of motion are ratios (near to and far from the camera)."""
PAIR_WIDTH = 2 + len(PERCENTILES) + len(CHANGED_LEVELS) + 2 * (2 + len(PERCENTILES)) + N_DIRECTIONS
TOKEN_WIDTH = 2 * PAIR_WIDTH
LEVELS = np.arange(256) / 255
MEASURES = np.column_stack([LEVELS, LEVELS**2, *(level < LEVELS for level in CHANGED_LEVELS)])
"""What is summed over pixels by their level: mean, mean square, shares changed."""


def motion_statistics(frames: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """float32 [TOKEN_WIDTH]: mean and maximum over the pairs of neighbouring `grey` frames (uint8 [H, W]) of a window.

    A single frame is compared with itself: nothing moves. Where the picture changes its shape, frames are brought to the last's.
    """
    height, width = frames[-1].shape
    alike = [f if f.shape == (height, width) else cv2.resize(f, (width, height)) for f in frames]
    pairs = pair_statistics(alike if len(alike) > 1 else [*alike, *alike])
    return np.concatenate([pairs.mean(axis=0), pairs.max(axis=0)])


def pair_statistics(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """float32 [pairs, PAIR_WIDTH], logarithms: of the absolute difference (share of the grey range), of the flow's magnitude, of

    the magnitude of the flow less its median, and of the latter by direction (shares of the long side).
    """
    flow = _flow()
    vectors = np.stack([flow.calc(a, b, None)[::FLOW_STEP, ::FLOW_STEP] for a, b in pairwise(frames)])
    n_pairs = len(vectors)
    x, y = np.moveaxis(vectors.reshape(n_pairs, -1, 2) * np.float32(1 / LONG_SIDE), 2, 0)
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    own_x, own_y = x - _median(x), y - _median(y)
    magnitude, own = cv2.magnitude(x, y), cv2.magnitude(own_x, own_y)
    # whole eighths of a turn, counted from the right towards the bottom
    eighth = (cv2.phase(own_x, own_y) * np.float32(N_DIRECTIONS / (2 * np.pi))).astype(np.intp)
    np.minimum(eighth, N_DIRECTIONS - 1, out=eighth)
    eighth += N_DIRECTIONS * np.arange(n_pairs)[:, None]
    sums = np.bincount(eighth.ravel(), weights=own.ravel(), minlength=N_DIRECTIONS * n_pairs)
    directions = sums.reshape(n_pairs, N_DIRECTIONS) / own.shape[1]
    of_flow = np.log(np.hstack([_spread(magnitude), _spread(own), directions]) + SMALLEST_FLOW)
    of_levels = [_of_levels(cv2.absdiff(a, b)) for a, b in pairwise(frames)]
    return np.hstack([np.log(np.array(of_levels) + SMALLEST_DIFFERENCE), of_flow]).astype(np.float32)


def _of_levels(difference: NDArray[np.uint8]) -> list[float]:
    """Mean, standard deviation, percentiles and shares changed, from the counts of the 256 levels."""
    counts = cv2.calcHist([difference], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    mean, square, *changed = (counts @ MEASURES / difference.size).tolist()
    ranks = np.array(PERCENTILES) * difference.size
    high = LEVELS[np.searchsorted(np.cumsum(counts), ranks)].tolist()
    return [mean, math.sqrt(max(0.0, square - mean**2)), *high, *changed]


def _spread(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of [pairs, N]: mean, standard deviation and percentiles of each pair, [pairs, 2 + percentiles]."""
    length = values.shape[1]
    ranks = [min(length - 1, int(p * length)) for p in PERCENTILES]
    ordered = np.sort(values, axis=1)[:, ranks]
    return np.column_stack([values.mean(axis=1), values.std(axis=1), ordered]).astype(np.float64)


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    middle = values.shape[1] // 2
    return np.partition(values, middle, axis=1)[:, middle : middle + 1]


@cache
def _flow() -> Any:
    """It keeps its buffers, so one a worker."""
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
