from __future__ import annotations

import pytest
import torch
from torch import nn

from cache.errors import InputError
from heads.optim import OptimConfig, averaged, lr_factor, parameter_groups, uses_bf16


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = OptimConfig(warmup_share=0.2)
    rates = [lr_factor(step, n_steps=100, config=config) for step in range(100)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[0] == pytest.approx(1 / 21)
    assert max(rates) == rates[20] == 1
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 0.001
    constant = OptimConfig(schedule="constant", warmup_share=0.0)
    assert {lr_factor(step, n_steps=5, config=constant) for step in range(5)} == {1.0}


def test_average_warms_up_then_follows_slowly() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = averaged(model, 0.9)
    average.update_parameters(model)
    nn.init.ones_(model.weight)
    seen = []
    for _ in range(200):
        average.update_parameters(model)
        seen.append(average.module.weight.item())  # type: ignore[union-attr, operator]
    assert seen[0] == pytest.approx(1 - 2 / 11)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1, abs=1e-3)


def test_weight_decay_is_for_matrices_only() -> None:
    groups = parameter_groups(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), OptimConfig())
    decays = {p.ndim: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays == {2: 0.01, 1: 0.0}


def test_bf16_where_it_is_asked_for_or_worth_it() -> None:
    cpu = torch.device("cpu")
    assert uses_bf16("bf16", width=8, device=cpu)
    assert not uses_bf16("fp32", width=4096, device=cpu)
    assert not uses_bf16("auto", width=8, device=cpu)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"weight_decay": -1.0},
        {"schedule": "step"},
        {"warmup_share": 0.6},
        {"clip_norm": 0.0},
        {"ema_decay": 1.0},
        {"patience": 0},
        {"sampler": "stratified"},
        {"precision": "fp16"},
    ],
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        OptimConfig(**options)  # type: ignore[arg-type]
