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


def motion_statistics(frames: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """float32 [TOKEN_WIDTH]: mean and maximum over the pairs of neighbouring `grey` frames (uint8 [H, W]) of a window.

    A single frame is compared with itself: nothing moves.
    """
    frames = frames if len(frames) > 1 else [*frames, *frames]
    pairs = np.stack([pair_statistics(a, b) for a, b in pairwise(frames)])
    return np.concatenate([pairs.mean(axis=0), pairs.max(axis=0)])


def pair_statistics(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [PAIR_WIDTH], logarithms: of the absolute difference (share of the grey range), of the flow's magnitude, of the

    magnitude of the flow less its median, and of the latter by direction (shares of the long side).
    """
    vectors = _flow().calc(before, after, None)[::FLOW_STEP, ::FLOW_STEP] * np.float32(1 / LONG_SIDE)
    x, y = vectors[..., 0].ravel(), vectors[..., 1].ravel()
    own_x, own_y = x - _median(x), y - _median(y)
    magnitude, own = cv2.magnitude(x, y).ravel(), cv2.magnitude(own_x, own_y).ravel()
    # whole eighths of a turn, counted from the right towards the bottom
    eighth = (cv2.phase(own_x, own_y).ravel() * np.float32(N_DIRECTIONS / (2 * np.pi))).astype(np.intp)
    np.minimum(eighth, N_DIRECTIONS - 1, out=eighth)
    directions = np.bincount(eighth, weights=own, minlength=N_DIRECTIONS) / own.size
    of_flow = np.log(np.concatenate([_spread(magnitude), _spread(own), directions]) + SMALLEST_FLOW)
    return np.concatenate([_of_levels(cv2.absdiff(before, after)), of_flow]).astype(np.float32)


def _of_levels(difference: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Logarithms of mean, standard deviation, percentiles and shares changed, from the counts of the 256 levels."""
    counts = cv2.calcHist([difference], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    shares = counts / difference.size
    levels = LEVELS
    mean = float(shares @ levels)
    deviation = math.sqrt(max(0.0, float(shares @ (levels - mean) ** 2)))
    below = np.cumsum(counts)
    high = [float(levels[np.searchsorted(below, share * difference.size)]) for share in PERCENTILES]
    changed = [float(shares[levels > level].sum()) for level in CHANGED_LEVELS]
    found: NDArray[np.float64] = np.log(np.array([mean, deviation, *high, *changed]) + SMALLEST_DIFFERENCE)
    return found


def _spread(values: NDArray[np.float32]) -> NDArray[np.float64]:
    ranks = [min(values.size - 1, int(p * values.size)) for p in PERCENTILES]
    ordered = np.partition(values, ranks)
    return np.array([values.mean(), values.std(), *(ordered[rank] for rank in ranks)], dtype=np.float64)


def _median(values: NDArray[np.float32]) -> np.float32:
    middle = values.size // 2
    found: np.float32 = np.partition(values, middle)[middle]
    return found


@cache
def _flow() -> Any:
    """It keeps its buffers, so one a worker."""
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
