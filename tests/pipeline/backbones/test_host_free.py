"""Whatever network a stream is, its pass on a device needs nothing of the host, and so can be recorded (`graph.py`)."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.backbones.choice import parse_stream
from pipeline.backbones.kind import Machine, kind_named, settle
from tests.pipeline.backbones import hearing_models
from tests.pipeline.backbones.conftest import quietly
from tests.pipeline.backbones.kinds import test_transformers as seeing_models
from tests.pipeline.host_free import HostWatch

ON_DEVICE = Machine(torch.device("meta"), "bf16", batch_size=2, gpu_engine="eager")


def asked_of_host(stream: str) -> list[str]:
    """What a pass of the stream asks of the host, after the one that its loading makes."""
    settled = settle(parse_stream(stream))
    backbone: Any = quietly(lambda: kind_named(settled.choice.kind).load(settled, ON_DEVICE))
    batch = backbone._engine._blank(2)
    assert batch.is_meta
    with HostWatch() as watch:
        features = backbone.embed(batch)
    assert features.is_meta and features.shape == (2, backbone.dim)
    return watch.asked


@pytest.mark.parametrize("family", seeing_models.CONFIGS)
def test_models_of_transformers_that_see(family: str, tmp_path: Path) -> None:
    folder = seeing_models.save(tmp_path / family, family)
    assert asked_of_host(f"a=transformers:{folder}") == []


@pytest.mark.parametrize("name", hearing_models.MODELS)
def test_models_of_transformers_that_hear(name: str, tmp_path: Path) -> None:
    hearing_models.save(tmp_path / name, name)
    assert asked_of_host(f"a=transformers:{tmp_path / name}") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        *("timm:vit_small_patch16_dinov3", "timm:edgenext_xx_small", "timm:tf_efficientnet_lite0"),
        *("torchvision:mvit_v2_s", "torchvision:swin3d_t", "torchvision:s3d"),
        *("pytorchvideo:x3d_xs", "pytorchvideo:mvit_base_16x4", "open_clip:ViT-B-32"),
    ],
)
def test_networks_of_other_libraries(model: str) -> None:
    """DINOv3's positions, EdgeNeXt's and MViT's distances are made anew in every pass."""
    if "dinov3" in model and tuple(map(int, version("timm").split(".")[:3])) < (1, 0, 31):
        pytest.skip("an older timm makes DINOv3's positions on the processor: it takes --gpu-engine eager")
    assert asked_of_host(f"a={model},weights=random") == []


def test_a_batch_that_was_asked_for_is_taken() -> None:
    settled = settle(parse_stream("slowfast=pytorchvideo:slowfast_r50,weights=random"))
    assert kind_named("pytorchvideo").load(settled, ON_DEVICE).batching.batch_size == 2


def test_the_watch_sees_what_cannot_be_recorded() -> None:
    """Without this the tests above could not fail."""
    on_device, of_host = torch.zeros(3, device="meta"), torch.arange(3)
    for wrong in (
        lambda: on_device + of_host.to("meta"),
        lambda: on_device[of_host],
        lambda: of_host.float().type_as(on_device),
    ):
        with HostWatch() as watch:
            wrong()
        assert watch.asked
    with HostWatch() as watch:
        _ = on_device * torch.tensor(2.0) + 1
    assert watch.asked == []
