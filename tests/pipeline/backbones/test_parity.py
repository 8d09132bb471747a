"""The parity contract: what the fast path gives equals the published model, run plainly by code that is written here alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from pipeline.backbones.base import MAX_RELATIVE_ERROR, MIN_COSINE
from tests.pipeline.backbones.conftest import (
    Loader,
    cosine,
    moving_picture,
    prepared,
    quietly,
    relative_error,
)

N_FRAMES = 32


@pytest.fixture(scope="module")
def plain_slowfast() -> Any:
    """slowfast_r50 as pytorchvideo's hub makes it, with the weights of seed 0."""
    from pytorchvideo.models.slowfast import create_slowfast

    torch.manual_seed(0)
    return create_slowfast(model_depth=50, slowfast_fusion_conv_kernel_size=(7, 1, 1)).eval()


def slowfast_features(model: Any, frames: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """The tutorial's preprocessing and the whole model; features are caught on their way into the head's projection."""
    video = torch.stack([torch.from_numpy(frame) for frame in frames]).permute(3, 0, 1, 2).float()  # C T H W
    height, width = video.shape[2:]
    scale = 256 / min(height, width)
    size = (int(np.floor(height * scale + 1e-9)), int(np.floor(width * scale + 1e-9)))
    video = torch.stack([F.interpolate(x[None], size=size, mode="bilinear")[0] for x in video.unbind(1)], 1)
    video = (video / 255 - 0.45) / 0.225
    top, left = (size[0] - 256) // 2, (size[1] - 256) // 2
    video = video[:, :, top : top + 256, left : left + 256]
    slow = video[:, torch.linspace(0, N_FRAMES - 1, N_FRAMES // 4).long()]
    caught: list[torch.Tensor] = []
    handle = model.blocks[-1].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        model([slow[None], video[None]])
    handle.remove()
    features: NDArray[np.float32] = caught[0].mean(dim=(2, 3, 4))[0].numpy()
    return features


@pytest.fixture(scope="module")
def plain_clip() -> tuple[Any, Any]:
    import open_clip

    torch.manual_seed(0)
    model, _, transform = quietly(lambda: open_clip.create_model_and_transforms("ViT-B-32", pretrained=None))
    return model.eval(), transform


def clip_features(plain: tuple[Any, Any], frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    model, transform = plain
    with torch.no_grad():
        features: NDArray[np.float32] = model.encode_image(transform(Image.fromarray(frame))[None])[0].numpy()
    return features


SIZE = (241, 135)
"""Odd and upright: rounding of the long side and of the crop both count."""


@pytest.fixture(scope="module")
def window() -> list[NDArray[np.uint8]]:
    return moving_picture(N_FRAMES, *SIZE)


@pytest.fixture(scope="module")
def expected_slowfast(plain_slowfast: Any, window: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return slowfast_features(plain_slowfast, window)


def test_slowfast_fp32(
    backbone: Loader, expected_slowfast: NDArray[np.float32], window: list[NDArray[np.uint8]]
) -> None:
    model = backbone("slowfast", "fp32")
    batch = prepared(window, model)
    assert len(batch) == model.batching.batch_size == 1  # a window has no neighbours on a CPU
    found = model.embed(batch)[0].numpy()
    assert found.shape == (model.dim,) == (2304,) and found.dtype == np.float32
    assert relative_error(found, expected_slowfast) < 1e-4 < MAX_RELATIVE_ERROR


@pytest.mark.slow
def test_slowfast_gives_the_same_bits_again_and_plainly_what_verify_compares_with(
    backbone: Loader, expected_slowfast: NDArray[np.float32], window: list[NDArray[np.uint8]]
) -> None:
    model = backbone("slowfast", "fp32")
    batch = prepared(window, model)
    assert torch.equal(model.embed(batch), model.embed(batch))
    assert relative_error(backbone("slowfast", "fp32").embed_plainly(window), expected_slowfast) < 1e-5


def test_slowfast_bf16(
    backbone: Loader, expected_slowfast: NDArray[np.float32], window: list[NDArray[np.uint8]]
) -> None:
    model = backbone("slowfast", "bf16")
    found = model.embed(prepared(window, model))[0].numpy()
    assert found.dtype == np.float32
    assert cosine(found, expected_slowfast) >= MIN_COSINE


def test_clip_fp32(backbone: Loader, plain_clip: tuple[Any, Any]) -> None:
    model = backbone("clip", "fp32")
    frames = [*moving_picture(1, 120, 160), *moving_picture(1, *SIZE, seed=1)]
    found = model.embed(torch.cat([prepared([frame], model) for frame in frames])).numpy()
    assert found.shape == (2, model.dim) == (2, 512) and found.dtype == np.float32
    for frame, vector in zip(frames, found, strict=True):
        expected = clip_features(plain_clip, frame)
        assert relative_error(vector, expected) < 1e-4 < MAX_RELATIVE_ERROR
        assert relative_error(model.embed_plainly([frame]), expected) < 1e-5


def test_clip_bf16(backbone: Loader, plain_clip: tuple[Any, Any]) -> None:
    model = backbone("clip", "bf16")
    frame = moving_picture(1)[0]
    assert (
        cosine(model.embed(prepared([frame], model))[0].numpy(), clip_features(plain_clip, frame))
        >= MIN_COSINE
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_clip_token_does_not_depend_on_its_neighbours(backbone: Loader, precision: str) -> None:
    """Bit for bit: otherwise a resumed run, whose batches are cut elsewhere, would differ."""
    model = backbone("clip", precision)  # type: ignore[arg-type]
    frames = moving_picture(model.batching.batch_size)
    batch = torch.cat([prepared([frame], model) for frame in frames])
    together = model.embed(batch)
    lonely = torch.zeros_like(batch)
    lonely[model.batching.batch_size // 2] = batch[0]
    assert torch.equal(model.embed(lonely)[model.batching.batch_size // 2], together[0])


def test_features_are_neither_constant_nor_alike(backbone: Loader) -> None:
    """Black, white and moving windows: finite, not constant, and not the same."""
    model = backbone("clip", "fp32")
    black, white = np.zeros((48, 64, 3), np.uint8), np.full((48, 64, 3), 255, np.uint8)
    batch = torch.cat([prepared([f], model) for f in (black, white, moving_picture(1)[0])])
    found = model.embed(batch).numpy()
    assert np.isfinite(found).all()
    assert (found.std(axis=1) > 1e-3).all()
    assert not np.array_equal(found[0], found[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stream", "precision"), [("clip", "fp32"), ("slowfast", "fp32"), ("slowfast", "bf16")]
)
def test_openvino(
    stream: str,
    precision: str,
    plain_clip: tuple[Any, Any],
    expected_slowfast: NDArray[np.float32],
    window: list[NDArray[np.uint8]],
) -> None:
    """The other runtime holds the same bound, and a converted model read from disk gives the same bits."""
    pytest.importorskip("openvino")
    from pipeline.backbones.base import cpu_has_bf16
    from pipeline.backbones.converted import cache_folder
    from pipeline.backbones.load import BackboneConfig, load_backbones

    if precision == "bf16" and not cpu_has_bf16():
        pytest.skip("this CPU does not multiply bfloat16")
    config = BackboneConfig.of(
        streams=(stream,),
        clip_weights="random",
        slowfast_weights="random",
        device="cpu",
        precision=precision,
        runtime="openvino",
    )
    model = load_backbones(config)[stream]
    frames = window if stream == "slowfast" else window[:1]
    batch = torch.cat([prepared(frames, model)] * model.batching.batch_size)
    found = model.embed(batch)[0].numpy()
    expected = expected_slowfast if stream == "slowfast" else clip_features(plain_clip, frames[0])
    assert cosine(found, expected) >= MIN_COSINE
    if precision == "fp32":
        assert relative_error(found, expected) <= MAX_RELATIVE_ERROR
    assert list((cache_folder() / "openvino").glob("*.xml"))
    if stream == "clip":
        again = load_backbones(config)[stream]
        np.testing.assert_array_equal(again.embed(batch)[0].numpy(), found)
    fields = model.fingerprint()
    assert fields["runtime"] == "openvino" and "openvino" in fields["libraries"]
