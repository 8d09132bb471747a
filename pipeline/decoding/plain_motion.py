"""`motion` once more, for `onepass verify`: one pair of pictures at a time, by sorting and counting.

Nothing is shared with `motion.py` and with `prepare_frame`, not even constants. OpenCV scales by area and gives the flow and its
directions on both sides: its angles are good to a hundredth of a turn's eighth, which would show where many lie between two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.decoding.frames import Luma, RgbFrame

Float = NDArray[np.float64]


def plain_motion(frames: Sequence[RgbFrame | Luma]) -> NDArray[np.float32]:
    """The token of a window of decoded frames: mean and maximum of each number over the pairs of neighbours. float32 [50]."""
    greys = [_grey(frame) for frame in frames]
    height, width = greys[-1].shape
    greys = [g if g.shape == (height, width) else cv2.resize(g, (width, height)) for g in greys]
    if len(greys) == 1:
        greys = greys * 2
    columns = list(zip(*(_of_pair(a, b) for a, b in pairwise(greys)), strict=True))
    return np.array([sum(c) / len(c) for c in columns] + [max(c) for c in columns], np.float32)


def _grey(frame: RgbFrame | Luma) -> NDArray[np.uint8]:
    """Long side 160, short side 32 or more: halved while that goes, the rest in one step; then limited range made full."""
    grey = frame.plane if isinstance(frame, Luma) else cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    wide, high = (max(32, round(side * 160 / max(height, width))) for side in (width, height))
    while grey.shape[0] // 2 >= high and grey.shape[1] // 2 >= wide:
        half_high, half_wide = grey.shape[0] // 2, grey.shape[1] // 2
        grey = cv2.resize(
            grey[: half_high * 2, : half_wide * 2], (half_wide, half_high), interpolation=cv2.INTER_AREA
        )
    if grey.shape != (high, wide):
        grey = cv2.resize(grey, (wide, high), interpolation=cv2.INTER_AREA)
    if isinstance(frame, Luma) and frame.limited:
        return np.clip(np.rint((grey.astype(np.float64) - 16) * 255 / 219), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(grey, dtype=np.uint8)


def _of_pair(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> list[float]:
    """25 logarithms: of the grey difference 7, of the flow 5, of the flow less its median 5, of the latter by direction 8."""
    change = np.abs(before.astype(np.float64) - after).ravel() / 255
    levels = np.sort(change)
    of_change = [change.mean(), change.std()]
    of_change += [levels[math.ceil(share * len(levels)) - 1] for share in (0.5, 0.9, 0.99)]
    of_change += [(change > 0.05).mean(), (change > 0.15).mean()]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST).calc(before, after, None)
    # float32 up to the eighths: what lies between two of them falls to either by its last bit
    x, y = np.ascontiguousarray(flow[::2, ::2].reshape(-1, 2).T) * np.float32(1 / 160)
    own_x, own_y = x - np.sort(x)[len(x) // 2], y - np.sort(y)[len(y) // 2]
    eighth = np.minimum(np.floor(cv2.phase(own_x, own_y).ravel() * np.float32(8 / math.tau)), 7)
    own = np.hypot(own_x.astype(np.float64), own_y)
    by_direction = [own[eighth == n].sum() / len(own) for n in range(8)]
    of_flow = [*_spread(np.hypot(x.astype(np.float64), y)), *_spread(own), *by_direction]
    return [math.log(value + 1e-3) for value in of_change] + [math.log(value + 1e-4) for value in of_flow]


def _spread(sizes: Float) -> list[float]:
    ordered = np.sort(sizes)
    return [sizes.mean(), sizes.std(), *(ordered[int(share * len(ordered))] for share in (0.5, 0.9, 0.99))]
