"""What every kind of video network is asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.backbones.kind import Settled
from pipeline.backbones.load import BackboneConfig, load_backbones
from tests.pipeline.backbones.conftest import moving_picture, prepared, quietly, relative_error
from tests.pipeline.backbones.flops import gflop

every_network = pytest.mark.skipif(
    not os.environ.get("ONEPASS_EVERY_NETWORK"), reason="minutes a network: ONEPASS_EVERY_NETWORK=1 runs them"
)
"""For what is the same for all networks of a kind, of which a small one is always run."""


def loaded(text: str, **settings: Any) -> Any:
    """The one backbone that `text` describes, float32 on the CPU."""
    config = BackboneConfig.of((text,), **({"device": "cpu", "precision": "fp32"} | settings))
    return load_backbones(config)[config.names[0]]


def trained(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's state after BatchNorms and scales of zero did something: what a training leaves, in place."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm3d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.normal_(0, 0.1, generator=generator)
    return module.state_dict()


def error_against_plain(backbone: Any) -> float:
    """Largest difference of `embed` to `embed_plainly`, relative to the largest feature, on a made window."""
    frames = moving_picture(backbone.plan.sampling.window)
    batch = prepared(frames, backbone)
    size = backbone.batching.batch_size
    with torch.inference_mode():
        found = backbone.embed(batch.expand(size, *batch.shape[1:]).contiguous())
    assert found.dtype == torch.float32 and found.shape == (size, backbone.dim)
    plain = backbone.embed_plainly(frames)
    assert plain.std() > 0, "all features alike: nothing is compared"
    return relative_error(found[0].numpy(), plain)


def saved(state: dict[str, torch.Tensor], path: Path, wrapper: str = "") -> Path:
    """A checkpoint as it is published: the state, or under a name."""
    torch.save({wrapper: state} if wrapper else state, path)
    return path


def counted_gflop(module: nn.Module, settled: Settled) -> tuple[int, float]:
    """Width and GFLOP (2 a multiply-add) of one token [B, C, T, H, W], by a pass that computes nothing."""
    frames, height, width, channels = settled.plan.token_shape
    blank = torch.empty(1, channels, frames, height, width, device="meta")
    shape, found = gflop(module.to("meta").eval().requires_grad_(False), blank)
    return shape[-1], found


__all__ = ["counted_gflop", "error_against_plain", "every_network", "loaded", "quietly", "saved", "trained"]
