from __future__ import annotations

import pytest
import torch
from torch import nn

from cache.errors import InputError
from heads.training.adamw import AdamW
from heads.training.optim import OptimConfig, clip_divisor, lr_factor, parameter_groups


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


@pytest.mark.parametrize("clip_norm", [0.5, 1e6])
def test_clipping_is_torch_s_own(clip_norm: float) -> None:
    torch.manual_seed(0)
    start = [torch.randn(7, 5), torch.randn(5), torch.randn(3)]
    own, other = ([nn.Parameter(x.clone()) for x in start] for _ in range(2))
    groups = [{"params": own, "lr": 0.01, "weight_decay": 0.1, "divisor": None}]
    mine, torchs = AdamW(groups), torch.optim.AdamW(other, lr=0.01, weight_decay=0.1)
    for _ in range(5):
        for one, two in zip(own[:2], other[:2], strict=True):  # the third has no gradient
            one.grad = torch.randn_like(one)
            two.grad = one.grad.clone()
        divisor = clip_divisor(own, clip_norm)
        norm = nn.utils.clip_grad_norm_(other, clip_norm)
        assert float(divisor) == pytest.approx(max(1.0, float(norm) / clip_norm), rel=1e-5)
        groups[0]["divisor"] = divisor
        mine.step()
        torchs.step()
    for one, two in zip(own, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_weight_decay_is_for_matrices_only() -> None:
    groups = parameter_groups(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), OptimConfig())
    decays = {p.ndim: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays == {2: 0.01, 1: 0.0}


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
