"""Crops: several features of one moment, from crops of its frames. They become their mean, or tokens of the same span."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache.errors import InputError
from cache.token_arrays import UnusableFeatures

Crops = Literal["mean", "tokens"]
CROP_COUNTS = (1, 5, 10)
"""How many crops a frame are usual: the middle, four corners beside it, and their mirror images."""


def crop_axis(shapes: Iterable[tuple[int, ...]], *, given: int | None) -> int | None:
    """Which axis of 3-D arrays counts crops, None where there are none. given: `--crops-axis`.

    It has one size in all arrays, 1, 5 or 10. Raises InputError where that holds for both axes, or for neither.
    """
    cubes = [shape for shape in shapes if len(shape) == 3]
    if not cubes:
        return None
    if given is not None:
        if given not in (0, 1):
            raise InputError(f"--crops-axis {given}: 0 for [crops, T, D], 1 for [T, crops, D]")
        return given
    sizes = [{shape[axis] for shape in cubes} for axis in (0, 1)]
    likely = [axis for axis in (0, 1) if len(sizes[axis]) == 1 and sizes[axis] <= set(CROP_COUNTS)]
    if len(likely) != 1:
        raise InputError(
            f"arrays such as {list(cubes[0])} may be [T, crops, D] or [crops, T, D]: say which with --crops-axis 1 or "
            "--crops-axis 0"
        )
    return likely[0]


def without_crops(
    arrays: Sequence[NDArray[Any]], *, axis: int | None, crops: Crops
) -> tuple[NDArray[Any], int]:
    """The features of one video, [T, D], and how many of them share one span. arrays: one, or a crop each.

    Raises UnusableFeatures for shapes that do not fit.
    """
    if len(arrays) > 1:
        if len({array.shape for array in arrays}) > 1:
            shapes = ", ".join(str(list(array.shape)) for array in arrays)
            raise UnusableFeatures("unusable-array", f"its crops differ in shape: {shapes}")
        rows = [array[None] if array.ndim == 1 else array for array in arrays]
        if rows[0].ndim != 2:
            raise UnusableFeatures(
                "unusable-array", f"has crop files of the shape {list(arrays[0].shape)}, not [T, D]"
            )
        cube = np.stack(rows, axis=1)
    else:
        array = arrays[0]
        if array.ndim < 3:
            return array, 1
        if array.ndim > 3 or axis is None:
            raise UnusableFeatures(
                "unusable-array",
                f"has the shape {list(array.shape)}, not [T, D], [D], [T, crops, D] or [crops, T, D]",
            )
        cube = array if axis == 1 else array.swapaxes(0, 1)
    if not cube.size:
        raise UnusableFeatures("unusable-array", f"is empty: {list(cube.shape)}")
    if crops == "tokens":
        return cube.reshape(-1, cube.shape[2]), cube.shape[1]
    return cube.mean(axis=1, dtype=np.float64 if cube.dtype == np.float64 else np.float32), 1
