"""What the stand-in for a device cannot show. Skipped without a real one; ONEPASS_REQUIRE_CUDA=1 makes that a failure."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbones.base import MAX_RELATIVE_ERROR
from pipeline.backbones.launch import pin_memory
from pipeline.backbones.load import BackboneConfig, load_backbones
from tests.pipeline.backbones.conftest import moving_picture, prepared, quietly, relative_error
from tests.pipeline.backbones.kinds.test_transformers import CONFIGS, save

pytestmark = pytest.mark.cuda
DEVICE = "cuda"
MOST_TURNS = 200


@pytest.fixture(autouse=True)
def required() -> None:
    if not torch.cuda.is_available():
        assert not os.environ.get("ONEPASS_REQUIRE_CUDA"), "a CUDA device is required and missing"
        pytest.skip("no CUDA device")


def loaded(*streams: str, device: str = DEVICE, precision: str = "fp32") -> dict[str, Any]:
    """In batches of two."""
    config = BackboneConfig.of(streams, device=device, precision=precision, runtime="torch")
    sizes = tuple((name, 2) for name in config.names)
    return quietly(lambda: load_backbones(BackboneConfig(config.streams, device, precision, "torch", sizes)))  # type: ignore[no-any-return]


def noise(backbone: Any, device: str = DEVICE) -> torch.Tensor:
    """A whole batch."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(0, 256, (2, *backbone.plan.token_shape), generator=generator, dtype=torch.int16)
    return batch.to(torch.from_numpy(np.empty(0, backbone.plan.token_dtype)).dtype).to(device)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_model_type_is_recorded_and_keeps_parity(family: str, tmp_path: Path) -> None:
    backbone = loaded(f"a=transformers:{save(tmp_path / family, family)}")["a"]
    frames = moving_picture(backbone.plan.sampling.window)
    batch = prepared(frames, backbone).to(DEVICE)
    for given in (batch.repeat(2, 1, 1, 1, 1), batch):  # whole, and padded
        found = backbone.embed(given)[0].cpu().numpy()
        assert relative_error(found, backbone.embed_plainly(frames)) <= MAX_RELATIVE_ERROR


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        *("timm:vit_small_patch16_dinov3", "timm:edgenext_xx_small", "torchvision:mvit_v2_s"),
        *("pytorchvideo:x3d_xs", "pytorchvideo:slowfast_r50", "open_clip:ViT-B-32"),
    ],
)
def test_networks_of_other_libraries_are_recorded(model: str) -> None:
    backbone = loaded(f"a={model},weights=random", precision="auto")["a"]
    features = backbone.embed(noise(backbone))
    assert features.shape == (2, backbone.dim) and bool(features.isfinite().all())


def test_recordings_that_replay_at_once_keep_their_bits_and_outlive_each_other(tmp_path: Path) -> None:
    folders = {name: save(tmp_path / name, name) for name in ("vit", "siglip", "videomae")}
    backbones = loaded(
        *(f"{name}=transformers:{folder}" for name, folder in folders.items()), precision="auto"
    )
    batches = {name: noise(backbone) for name, backbone in backbones.items()}
    expected = {name: backbone.embed(batches[name]) for name, backbone in backbones.items()}
    beside = {name: torch.cuda.Stream() for name in backbones}  # type: ignore[no-untyped-call]
    while len(backbones) > 1:
        torch.cuda.synchronize()
        found: list[tuple[str, torch.Tensor]] = []
        for _ in range(MOST_TURNS):
            for name, backbone in backbones.items():
                with torch.cuda.stream(beside[name]):
                    found.append((name, backbone.embed(batches[name])))
        torch.cuda.synchronize()
        assert all(torch.equal(features, expected[name]) for name, features in found)
        del backbones[next(iter(backbones))], backbone
        gc.collect()
        torch.cuda.empty_cache()
    (name,) = backbones
    assert torch.equal(backbones[name].embed(batches[name]), expected[name])


def test_every_device_records_its_own(tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    spread = loaded(f"a=transformers:{save(tmp_path / 'vit', 'vit')}", device="cuda:0,cuda:1")["a"]
    features = [each.embed(noise(each, device)).cpu() for device, each in spread.on.items()]
    turned = [each.embed(noise(each, device).flip(0)).cpu().flip(0) for device, each in spread.on.items()]
    for found in (*features, *turned):
        torch.testing.assert_close(found, features[0])


def test_a_refusal_to_pin_is_forgotten() -> None:
    block = memoryview(bytearray(1 << 20))
    unpin, refused = (pin_memory(block, torch.device(DEVICE)) for _ in range(2))
    assert unpin is not None and refused is None  # it is pinned already
    assert float((torch.ones(8, device=DEVICE) * 2).sum()) == 16
    unpin()
