"""Frame preparation in the decode worker: resize and crop, with the arithmetic of the model's own preprocessing.

Only what the backbone needs leaves the worker. Each recipe is equal to the reference that it stands for:

`pil-...`         the image transforms of open_clip and timm: PIL with antialiasing, then a centre crop. uint8 out, bit for bit
                  what their own transforms see before they scale to floats.
`pil-bilinear-fixed`  the same filter on floats, for transforms that scale to floats first: int16 = grey level * 128, as below.
`linear-fixed`    pytorchvideo's short-side scale: bilinear without antialiasing on half-pixel centres. Rounding to uint8 here
                  would cost up to 1.2e-3 relative error in SlowFast features (measured on real clips), more than the parity
                  bound, so samples keep 7 fractional bits: int16 = grey level * 128.
`linear-rounded`  the same, rounded to whole grey levels: torchvision's resize of uint8 videos. uint8 out.
`grey`            one channel, the long side scaled to `size` by averaging over areas: uint8 [H, W], for measures of motion. Of
                  the luma as it was decoded, where the decoder gives it: no picture is converted to colours for this.

Nothing here imports torch: a decode worker starts in a fraction of a second and stays small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

FIXED_POINT_SCALE = 128
"""int16 units per grey level of `-fixed` frames: the largest power of two for which 255 * scale fits int16."""
STRETCHED = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)
"""Limited range, 16 to 235, to 0 to 255."""
SMALLEST_GREY = 32
"""Pixels of the short side of a `grey` frame at least: OpenCV's DIS flow dies of a picture of 24 by 160."""

Recipe = Literal[
    "pil-bicubic",
    "pil-bilinear",
    "pil-lanczos",
    "pil-bilinear-fixed",
    "linear-fixed",
    "linear-rounded",
    "grey",
]
Fit = Literal["short", "exact", "cover", "inside"]
RgbFrame = NDArray[np.uint8]
PreparedFrame = NDArray[np.uint8] | NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Luma:
    """The luma of a decoded frame. plane: uint8 [H, W], valid as long as the frame. limited: 16 is black and 235 white."""

    plane: NDArray[np.uint8]
    limited: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.plane.shape
        return height, width

    def kept(self) -> Luma:
        """The same in memory of its own."""
        return Luma(self.plane.copy(), self.limited)


@dataclass(frozen=True, slots=True)
class FramePlan:
    """What a stream wants a frame to look like.

    size, width: pixels of what is cut out of the middle; width 0: a square. scaled: height and width of the box that the frame
    is scaled to before; empty: what is cut out. fit: `short` scales the short side to the (square) box's side and rounds the
    long one down; `exact` gives up the aspect ratio; `cover` keeps it and covers the box; `inside` keeps it, stays inside, and
    fills up with `fill` (RGB, 0 to 255). crop_down: where the crop begins is rounded down, as transformers does, and not half to
    even. `grey` frames take `size` alone, as their long side.
    """

    recipe: Recipe
    size: int
    width: int = 0
    scaled: tuple[int, ...] = ()
    fit: Fit = "short"
    fill: tuple[int, int, int] = (0, 0, 0)
    crop_down: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.width < 0 or any(side < 1 for side in self.scaled):
            raise ValueError(
                f"frame sizes are at least 1 pixel, got {self.size}, {self.width}, {self.scaled}"
            )
        if self.recipe not in get_args(Recipe) or self.fit not in get_args(Fit):
            raise ValueError(f"unknown recipe or fit: {self.recipe}, {self.fit}")
        box = self.box
        if self.fit == "short" and box[0] != box[1]:
            raise ValueError(f"the short side is scaled to one length, got {box}")

    @property
    def box(self) -> tuple[int, int]:
        """Height and width that the frame is scaled to."""
        height, width = self.scaled or (self.size, self.width or self.size)
        return height, width

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.int16]:
        """dtype of a prepared frame."""
        return np.dtype(np.int16) if self.recipe.endswith("-fixed") else np.dtype(np.uint8)

    @property
    def levels(self) -> int:
        """Units of a prepared frame that stand for one grey level."""
        return FIXED_POINT_SCALE if self.recipe.endswith("-fixed") else 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """[H, W, C] of a prepared frame in colour."""
        return (self.size, self.width or self.size, 3)

    @property
    def nbytes(self) -> int:
        """Bytes of one prepared frame in colour."""
        return math.prod(self.shape) * self.dtype.itemsize


def prepare_frame(picture: RgbFrame | Luma, plan: FramePlan) -> PreparedFrame:
    """Resize and crop a frame (uint8 [H, W, 3], RGB; a `grey` plan takes luma too) as `plan` says.

    In colour `plan.shape` in `plan.dtype`.
    """
    if isinstance(picture, Luma):
        if plan.recipe != "grey":
            raise ValueError(f"a plan of {plan.recipe} takes RGB, not luma")
        small = _shrunk(picture.plane, plan.size)
        return np.asarray(cv2.LUT(small, STRETCHED), dtype=np.uint8) if picture.limited else small.copy()
    rgb = picture
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
    if plan.recipe == "grey":
        return _shrunk(np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8), plan.size)
    if plan.recipe == "pil-bilinear-fixed":
        return _pil_fixed(rgb, plan)
    if plan.recipe.startswith("pil-"):
        return _pil(rgb, plan)
    return _linear(rgb, plan)


def scaled_shape(shape: Sequence[int], plan: FramePlan, *, whole: bool) -> tuple[int, int]:
    """Height and width that a frame of `shape` [H, W, ...] is scaled to.

    whole: the long side is rounded as torchvision's resize does (`int(size * long / short)`), else as pytorchvideo's
    `short_side_scale` (`floor(long / short * size)`); the order of operations matters to the last bit.
    """
    height, width = shape[:2]
    box_height, box_width = plan.box
    if plan.fit == "exact":
        return box_height, box_width
    if plan.fit != "short":  # timm's and open_clip's ResizeKeepRatio
        ratios = height / box_height, width / box_width
        ratio = max(ratios) if plan.fit == "inside" else min(ratios)
        return round(height / ratio), round(width / ratio)
    side = box_height
    if whole:
        return (int(side * height / width), side) if width <= height else (side, int(side * width / height))
    if width < height:
        return math.floor((float(height) / width) * side), side
    return side, math.floor((float(width) / height) * side)


def crop_offset(length: int, size: int, *, down: bool = False) -> int:
    """torchvision's centre crop: half the excess, rounded half to even; `down`: transformers' own, rounded down."""
    return (length - size) // 2 if down else round((length - size) / 2.0)


def _pil(rgb: RgbFrame, plan: FramePlan) -> NDArray[np.uint8]:
    from PIL import Image

    filters = {
        "pil-bicubic": Image.Resampling.BICUBIC,
        "pil-bilinear": Image.Resampling.BILINEAR,
        "pil-lanczos": Image.Resampling.LANCZOS,
    }
    new_height, new_width = scaled_shape(rgb.shape, plan, whole=True)
    image = Image.fromarray(rgb)
    if (new_width, new_height) != image.size:
        image = image.resize((new_width, new_height), filters[plan.recipe])
    height, width = plan.shape[:2]
    if new_height < height or new_width < width:
        wide = Image.new("RGB", (max(width, new_width), max(height, new_height)), plan.fill)
        wide.paste(image, (max(0, width - new_width) // 2, max(0, height - new_height) // 2))
        image = wide
    down = plan.crop_down
    left, top = crop_offset(image.width, width, down=down), crop_offset(image.height, height, down=down)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def _pil_fixed(rgb: RgbFrame, plan: FramePlan) -> NDArray[np.int16]:
    from PIL import Image

    new_height, new_width = scaled_shape(rgb.shape, plan, whole=True)
    wide = np.empty((new_height, new_width, 3), np.float32)
    for channel in range(3):
        plane = Image.fromarray(rgb[..., channel].astype(np.float32))
        wide[..., channel] = np.asarray(plane.resize((new_width, new_height), Image.Resampling.BILINEAR))
    height, width = plan.shape[:2]
    top, left = (
        crop_offset(length, size, down=plan.crop_down)
        for length, size in ((new_height, height), (new_width, width))
    )
    return np.rint(wide[top : top + height, left : left + width] * FIXED_POINT_SCALE).astype(np.int16)


def _linear(rgb: RgbFrame, plan: FramePlan) -> PreparedFrame:
    new_height, new_width = scaled_shape(rgb.shape, plan, whole=plan.recipe == "linear-rounded")
    fixed = plan.recipe == "linear-fixed"
    wide: NDArray[Any] = (
        np.multiply(rgb, FIXED_POINT_SCALE, dtype=np.int16) if fixed else rgb.astype(np.float32)
    )
    if (new_height, new_width) != rgb.shape[:2]:
        resized = cv2.resize(wide, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        wide = resized.astype(wide.dtype, copy=False)
    height, width = plan.shape[:2]
    top, left = crop_offset(new_height, height), crop_offset(new_width, width)
    cut = wide[top : top + height, left : left + width]
    # a view would keep the whole frame alive
    return cut.copy() if fixed else np.rint(cut).astype(np.uint8)


def _shrunk(grey: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """The long side brought to `long_side` by mean over areas: halved as often as that goes, which is faster, then the rest.

    A bilinear last step would be faster still, and costs 0.01 of AUROC on real clips.
    """
    height, width = grey.shape
    scale = long_side / max(height, width)
    new_height, new_width = (max(SMALLEST_GREY, round(side * scale)) for side in (height, width))
    while height >= 2 * new_height and width >= 2 * new_width:
        height, width = height // 2, width // 2
        even = grey[: 2 * height, : 2 * width]
        grey = np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if (height, width) != (new_height, new_width):
        small = cv2.resize(grey, (new_width, new_height), interpolation=cv2.INTER_AREA)
        grey = np.asarray(small, dtype=np.uint8)
    return grey
