"""Averaged weights: torch's own arithmetic, a warm-up, and the followed model's buffers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from heads.training.average import AveragedWeights


def test_average_warms_up_then_follows_slowly() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = AveragedWeights(model, 0.9)
    average.update()
    nn.init.ones_(model.weight)
    seen = []
    for _ in range(200):
        average.update()
        seen.append(float(average.model.weight))  # type: ignore[arg-type]
    assert seen[0] == pytest.approx(1 - 2 / 11)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1, abs=1e-3)


def test_the_same_bits_as_torch_s_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    own = AveragedWeights(model, 0.8)

    def lerp(old: list[torch.Tensor], new: list[torch.Tensor], n: torch.Tensor) -> None:
        torch._foreach_lerp_(list(old), list(new), 1 - min(0.8, (1 + float(n)) / (10 + float(n))))

    other = AveragedModel(model, multi_avg_fn=lerp, use_buffers=False)  # type: ignore[arg-type]
    for _ in range(20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(8, 3))  # moves the buffers
        own.update()
        other.update_parameters(model)
    found, expected = own.model.state_dict(), other.module.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_buffers_are_those_of_the_time_it_is_read() -> None:
    model = nn.BatchNorm1d(4)
    average = AveragedWeights(model, 0.8)
    average.update()
    model(torch.randn(8, 4))
    assert torch.equal(average.model.running_mean, model.running_mean)  # type: ignore[arg-type]
    assert not any(p.requires_grad for p in average.model.parameters())
