"""SlowFast by planes is the folded model: the same maps, whatever the batch, in the order of its frames."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.backbones import slowfast_planes
from pipeline.backbones.choice import StreamChoice, parse_stream
from pipeline.backbones.kind import settle
from pipeline.backbones.kinds.pytorchvideo import MEAN, STD, load_model
from pipeline.backbones.slowfast import _head_mean, fold, slow_frame_index
from pipeline.backbones.slowfast_planes import STEM_FRAMES, PlanesSlowFast, _apart, plane_conv
from tests.pipeline.backbones.kinds.checks import error_against_plain, every_network, loaded, saved, trained
from tests.pipeline.host_free import HostWatch

SIDE = 64


@pytest.fixture(scope="module")
def blocks() -> Any:
    """Folded blocks whose BatchNorms did something: at the start of a training their statistics are 0 and 1."""
    model, _ = load_model(settle(StreamChoice("slowfast", "pytorchvideo", "slowfast_r50", weights="random")))
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return fold(copy.deepcopy(model)).blocks[:5]


@torch.inference_mode()
@pytest.mark.parametrize("beside", [slowfast_planes.FAST_BESIDE, (8, 4, 2, 1), (2, 2, 1, 1), (8, 8, 8, 8)])
def test_maps_are_those_of_the_folded_model(
    blocks: Any, beside: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many frames of the fast pathway are computed side by side."""
    monkeypatch.setattr(slowfast_planes, "FAST_BESIDE", beside)
    x_BTHWC = torch.randn(2, 32, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(1))
    pathways = [x_BTHWC.permute(0, 4, 1, 2, 3)[:, :, slow_frame_index()], x_BTHWC.permute(0, 4, 1, 2, 3)]
    for block in blocks:
        pathways = block(pathways)
    found = PlanesSlowFast(blocks)(x_BTHWC[:, slow_frame_index()], x_BTHWC)
    for expected_BCTHW, got_BTHWC in zip(pathways, found, strict=True):
        got = got_BTHWC.permute(0, 4, 1, 2, 3)
        assert got.shape == expected_BCTHW.shape
        assert float((got - expected_BCTHW).norm() / expected_BCTHW.norm()) < 1e-5


@torch.inference_mode()
def test_every_frame_of_the_fast_pathway_counts_where_it_stands(blocks: Any) -> None:
    """A change in one frame shows in the stem's output at that frame and at most two beside it, across groups of frames."""
    banded = PlanesSlowFast(blocks)._fast_stem

    def stem(x_BTHWC: torch.Tensor) -> torch.Tensor:
        return _apart(banded(x_BTHWC), STEM_FRAMES)

    x_BTHWC = torch.zeros(1, 32, SIDE, SIDE, 3)
    still = stem(x_BTHWC)
    for changed in (0, 7, 8, 15, 31):
        moved = x_BTHWC.clone()
        moved[:, changed] = 1
        differs = (stem(moved) != still).flatten(2).any(-1)[0].nonzero().flatten().tolist()
        assert differs == [t for t in range(changed - 2, changed + 3) if 0 <= t < 32]


@pytest.mark.slow
@every_network
def test_slowfast_r101_by_planes_is_the_published_network(tmp_path: Path) -> None:
    """The path of CUDA, run here: 101 layers, BatchNorms of a training, features against the network as published."""
    described = "a=pytorchvideo:slowfast_r101,weights="
    state = trained(load_model(settle(parse_stream(f"{described}random")))[0])
    backbone = loaded(f"{described}{saved(state, tmp_path / 'w.pyth', 'model_state')}", runtime="torch")
    backbone._planes = PlanesSlowFast(fold(copy.deepcopy(backbone._plain)).blocks[:5])
    backbone._shift = torch.tensor(-MEAN / STD)
    backbone._blocks = None  # nothing else computes
    assert error_against_plain(backbone) <= 1e-3


@torch.inference_mode()
def test_a_pass_asks_nothing_of_the_host(blocks: Any) -> None:
    """What CUDA runs, head and all: it is recorded once, and a copy from the host could not be."""
    planes = PlanesSlowFast(copy.deepcopy(blocks).to("meta"))
    fast, slow_index = torch.empty(2, 32, 256, 256, 3, device="meta"), slow_frame_index().to("meta")
    with HostWatch() as watch:
        maps = planes(fast[:, slow_index], fast)
        means = [_head_mean(x_BTHWC.permute(0, 4, 1, 2, 3)) for x_BTHWC in maps]
    assert [mean.shape for mean in means] == [(2, 2048), (2, 256)]
    assert watch.asked == []


def test_strides_are_numbers_that_a_compiler_takes() -> None:
    """pytorchvideo leaves numpy's, on which torch.compile fails."""
    conv = nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1))
    conv.stride = tuple(np.array([1, 2, 2]))  # type: ignore[assignment]
    found = plane_conv(conv)
    assert found.stride == (2, 2) and found.padding == (1, 1)
    assert {type(number) for number in (*found.stride, *found.padding)} == {int}


def test_a_kernel_over_time_and_space_is_refused() -> None:
    with pytest.raises(AssertionError, match="over time and space"):
        plane_conv(nn.Conv3d(3, 8, (5, 7, 7), padding=(2, 3, 3)))
    with pytest.raises(AssertionError, match="not a plain convolution"):
        plane_conv(nn.Conv3d(8, 8, (1, 3, 3), groups=2))
    with pytest.raises(AssertionError, match="not centred"):
        plane_conv(nn.Conv3d(8, 8, (3, 1, 1)))
    with pytest.raises(AssertionError, match="3 frames side by side, every 4th wanted"):
        plane_conv(nn.Conv3d(8, 8, (7, 1, 1), stride=(4, 1, 1), padding=(3, 0, 0)), beside=3)
