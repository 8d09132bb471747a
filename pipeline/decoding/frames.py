"""Frame preparation in the decode worker: resize and centre crop, with the arithmetic of the model's own preprocessing.

Only what the backbone needs leaves the worker. Two recipes, each equal to the reference it stands for:

`pil-bicubic`     open_clip's image transform: PIL bicubic with antialiasing, short side to `size`, centre crop. uint8 out,
                  bit for bit what open_clip's own transform sees before it scales to floats.
`linear-fixed`    pytorchvideo's short-side scale: bilinear without antialiasing on half-pixel centres. Rounding to uint8 here
                  would cost up to 1.2e-3 relative error in SlowFast features (measured on real clips), more than the parity
                  bound, so samples keep 7 fractional bits: int16 = grey level * 128.

Nothing here imports torch: a decode worker starts in a fraction of a second and stays small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

FIXED_POINT_SCALE = 128
"""int16 units per grey level of `linear-fixed` frames: the largest power of two for which 255 * scale fits int16."""

Recipe = Literal["pil-bicubic", "linear-fixed"]
RgbFrame = NDArray[np.uint8]
PreparedFrame = NDArray[np.uint8] | NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class FramePlan:
    """What a stream wants a frame to look like: `recipe` and the side of the square it ends as, in pixels."""

    recipe: Recipe
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"frame size must be at least 1 pixel, got {self.size}")

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.int16]:
        """dtype of a prepared frame."""
        return np.dtype(np.uint8) if self.recipe == "pil-bicubic" else np.dtype(np.int16)

    @property
    def shape(self) -> tuple[int, int, int]:
        """[H, W, C] of a prepared frame."""
        return (self.size, self.size, 3)

    @property
    def nbytes(self) -> int:
        """Bytes of one prepared frame."""
        return math.prod(self.shape) * self.dtype.itemsize


def prepare_frame(rgb: RgbFrame, plan: FramePlan) -> PreparedFrame:
    """Resize the short side of `rgb` (uint8 [H, W, 3], RGB) to `plan.size` and crop the centre square.

    Returns [size, size, 3] in `plan.dtype`.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
    return _pil_bicubic(rgb, plan.size) if plan.recipe == "pil-bicubic" else _linear_fixed(rgb, plan.size)


def _short_side_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width after scaling the short side to `size`; the long side is rounded down.

    Both references do so: torchvision's resize (`int(size * long / short)`) and pytorchvideo's `short_side_scale`
    (`floor(long / short * size)`); the order of operations below is pytorchvideo's.
    """
    if width < height:
        return math.floor((float(height) / width) * size), size
    return size, math.floor((float(width) / height) * size)


def _crop_offset(length: int, size: int) -> int:
    """torchvision's centre crop: half the excess, rounded half to even."""
    return round((length - size) / 2.0)


def _pil_bicubic(rgb: RgbFrame, size: int) -> NDArray[np.uint8]:
    from PIL import Image

    height, width = rgb.shape[:2]
    # torchvision's own order of operations for the long side
    new_height, new_width = (
        (int(size * height / width), size) if width <= height else (size, int(size * width / height))
    )
    image = Image.fromarray(rgb)
    if (new_width, new_height) != (width, height):
        image = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
    left, top = _crop_offset(new_width, size), _crop_offset(new_height, size)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _linear_fixed(rgb: RgbFrame, size: int) -> NDArray[np.int16]:
    new_height, new_width = _short_side_shape(rgb.shape[0], rgb.shape[1], size)
    wide = np.multiply(rgb, FIXED_POINT_SCALE, dtype=np.int16)
    if (new_height, new_width) != rgb.shape[:2]:
        wide = cv2.resize(wide, (new_width, new_height), interpolation=cv2.INTER_LINEAR).astype(
            np.int16, copy=False
        )
    top, left = _crop_offset(new_height, size), _crop_offset(new_width, size)
    return wide[top : top + size, left : left + size].copy()  # a view would keep the whole frame alive
