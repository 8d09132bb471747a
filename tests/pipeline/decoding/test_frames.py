"""Frame preparation against the transforms that it stands for."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.decoding.frames import FIXED_POINT_SCALE, FramePlan, prepare_frame

SIZES = [
    *((48, 64), (64, 48), (121, 161), (161, 121), (240, 320), (224, 224), (225, 224), (224, 225), (223, 223)),
    *((7, 300), (300, 7), (1, 1), (2, 1), (256, 256), (257, 513), (360, 640), (359, 641)),
]


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise and edges: what resizing gets wrong first."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 128)
    return pixels


def open_clip_pixels(rgb: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """open_clip's own transform up to the point where it makes floats, by its own ToTensor afterwards."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    tensor = image_transform_v2(config, is_train=False)(Image.fromarray(rgb))
    return (tensor * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def own_pixels(transform: Any, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What another library's chain of transforms gives up to the point where it makes floats."""
    from torchvision.transforms import Compose

    steps = [
        step
        for step in transform.transforms
        if type(step).__name__ not in ("MaybeToTensor", "ToTensor", "Normalize")
    ]
    return np.asarray(Compose(steps)(Image.fromarray(rgb)))


def scaled_floats(rgb: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """pytorchvideo's short-side scale (torch, bilinear) and centre crop, in grey levels.

    In float64: torch's float32 coordinates alone are off by up to 0.015 grey levels at these sizes.
    """
    height, width = rgb.shape[:2]
    if width < height:
        new = (int(np.floor((float(height) / width) * size)), size)
    else:
        new = (size, int(np.floor((float(width) / height) * size)))
    chw = torch.from_numpy(rgb).permute(2, 0, 1)[None].double()
    wide = F.interpolate(chw, size=new, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    top, left = round((new[0] - size) / 2), round((new[1] - size) / 2)
    return wide[top : top + size, left : left + size]


@pytest.mark.parametrize("size", [224, 336, 33])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_bicubic_equals_open_clip_bit_for_bit(height: int, width: int, size: int) -> None:
    rgb = picture(height, width)
    prepared = prepare_frame(rgb, FramePlan("pil-bicubic", size))
    assert prepared.shape == (size, size, 3) and prepared.dtype == np.uint8
    np.testing.assert_array_equal(prepared, open_clip_pixels(rgb, size))


@pytest.mark.parametrize("size", [64, (48, 80)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("mode", "fit"), [("shortest", "short"), ("squash", "exact"), ("longest", "inside")])
def test_open_clip_s_other_transforms(mode: str, fit: str, interpolation: str, size: Any) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    if fit == "short" and size != 64:
        size = 96
    config = PreprocessCfg(size=size, interpolation=interpolation, resize_mode=mode)
    transform = image_transform_v2(config, is_train=False)
    height, width = (size, size) if isinstance(size, int) else size
    plan = FramePlan(f"pil-{interpolation}", height, width, fit=fit)  # type: ignore[arg-type]
    for shape in SIZES:
        if fit == "inside" and min(shape) * 64 < max(shape):
            continue  # a side would round to nothing, which PIL refuses in their code and in ours
        rgb = picture(*shape)
        np.testing.assert_array_equal(prepare_frame(rgb, plan), own_pixels(transform, rgb), str(shape))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize(
    ("mode", "size", "fit"),
    [
        ("center", (64, 64), "short"),
        ("center", (48, 80), "cover"),
        ("squash", (48, 80), "exact"),
        ("border", (64, 64), "inside"),
        ("border", (48, 80), "inside"),
    ],
)
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.95])
def test_timm_s_transforms(
    mode: str, size: tuple[int, int], fit: str, crop_pct: float, interpolation: str
) -> None:
    from timm.data.transforms import str_to_interp_mode
    from timm.data.transforms_factory import transforms_imagenet_eval

    transform = transforms_imagenet_eval(size, crop_pct, mode, interpolation=interpolation)
    if fit == "cover":  # timm before 1.0.31 forgets it there
        transform.transforms[0].interpolation = str_to_interp_mode(interpolation)
    scaled = tuple(int(side / crop_pct) for side in size)
    plan = FramePlan(f"pil-{interpolation}", *size, scaled, fit, (124, 116, 104))  # type: ignore[arg-type]
    for shape in SIZES:
        if fit == "inside" and min(shape) * 40 < max(shape):
            continue
        rgb = picture(*shape)
        np.testing.assert_array_equal(prepare_frame(rgb, plan), own_pixels(transform, rgb), str(shape))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_linear_is_the_exact_value_rounded_to_a_unit(height: int, width: int) -> None:
    rgb = picture(height, width)
    prepared = prepare_frame(rgb, FramePlan("linear-fixed", 256))
    assert prepared.shape == (256, 256, 3) and prepared.dtype == np.int16
    error = np.abs(prepared / FIXED_POINT_SCALE - scaled_floats(rgb, 256)).max()
    assert error <= 0.5 / FIXED_POINT_SCALE + 1e-4


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 3))
def test_any_size_is_prepared_as_the_references_do(height: int, width: int, seed: int) -> None:
    rgb = picture(height, width, seed)
    np.testing.assert_array_equal(prepare_frame(rgb, FramePlan("pil-bicubic", 64)), open_clip_pixels(rgb, 64))
    error = np.abs(
        prepare_frame(rgb, FramePlan("linear-fixed", 64)) / FIXED_POINT_SCALE - scaled_floats(rgb, 64)
    )
    assert error.max() <= 0.5 / FIXED_POINT_SCALE + 1e-4


def test_grey_levels_keep_their_ends_in_fixed_point() -> None:
    white = np.full((10, 20, 3), 255, np.uint8)
    assert (prepare_frame(white, FramePlan("linear-fixed", 16)) == 255 * FIXED_POINT_SCALE).all()
    assert (prepare_frame(white * 0, FramePlan("linear-fixed", 16)) == 0).all()


@pytest.mark.parametrize("recipe", ["pil-bicubic", "linear-fixed"])
@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 32), (16, 16)])
def test_a_prepared_frame_does_not_keep_the_whole_one_alive(recipe: str, height: int, width: int) -> None:
    """32 crops of very wide frames wait in a window; they must cost crops."""
    plan = FramePlan(recipe, 16)  # type: ignore[arg-type]
    prepared = prepare_frame(picture(height, width), plan)
    root = prepared
    while isinstance(root.base, np.ndarray):
        root = root.base
    assert root.nbytes <= plan.nbytes
    gone = weakref.ref(prepared)
    del prepared, root
    gc.collect()
    assert gone() is None


def test_a_plan_knows_its_bytes() -> None:
    assert FramePlan("pil-bicubic", 224).nbytes == 224 * 224 * 3
    assert FramePlan("linear-fixed", 256).nbytes == 256 * 256 * 3 * 2
    with pytest.raises(ValueError, match="at least 1"):
        FramePlan("linear-fixed", 0)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
)
def test_what_is_no_rgb_frame_is_refused(frame: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        prepare_frame(frame, FramePlan("linear-fixed", 8))
