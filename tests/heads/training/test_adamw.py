"""The same bits as torch's own AdamW, and no compiler on the way to the first step."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from heads.training.adamw import AdamW


def test_the_same_bits_as_torch_s_own() -> None:
    torch.manual_seed(0)
    start = [torch.randn(7, 5), torch.randn(5), torch.randn(3)]
    sides = []
    for make in (AdamW, lambda groups: torch.optim.AdamW(groups, fused=True)):
        parameters = [torch.nn.Parameter(x.clone()) for x in start]
        groups = [
            {"params": parameters[:1], "lr": 1e-2, "weight_decay": 0.1},
            {"params": parameters[1:], "lr": 1e-2, "weight_decay": 0.0},
        ]
        optimizer = make(groups)
        torch.manual_seed(1)
        for number in range(12):
            optimizer.zero_grad()
            for index, parameter in enumerate(parameters):
                gradient = torch.randn_like(parameter)
                if (number + index) % 3:  # some have no gradient in some steps
                    parameter.grad = gradient
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (1 + number)
            optimizer.step()
        sides.append(parameters)
    for own, other in zip(*sides, strict=True):
        assert torch.equal(own, other)


@pytest.mark.slow
def test_training_imports_no_compiler() -> None:
    code = """
import sys
import numpy as np
from heads.training.batched import FitJob, fit_together
from heads.training.config import TrainConfig
from heads.data.dataset import in_memory
from cache.tables import TokenArray
values = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
spans = np.stack([np.arange(16), np.arange(1, 17)], axis=1).astype(np.float32)
tokens = in_memory({"clip": TokenArray(values, spans, np.arange(17, dtype=np.int64))}, separate_streams=False)
job = FitJob(TrainConfig().updated({"epochs": 2, "batch_size": 4}), np.arange(12), np.arange(12, 16))
(result,) = fit_together(tokens, (np.arange(16) % 2).astype(np.int8), [job], stream_dims=(6,))
assert not isinstance(result, Exception)
assert "torch._dynamo" not in sys.modules, "seconds of start-up"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_where_torch_lacks_the_kernel_its_optimiser_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    start = [torch.randn(7, 5), torch.randn(5)]
    sides = []
    for missing in (False, True):
        if missing:
            monkeypatch.delattr(torch, "_fused_adamw_")
        parameters = [torch.nn.Parameter(x.clone()) for x in start]
        scale = torch.tensor(4.0)
        groups = [
            {"params": parameters[:1], "lr": 1e-2, "weight_decay": 0.1, "divisor": scale},
            {"params": parameters[1:], "lr": 1e-2, "weight_decay": 0.0, "divisor": None},
        ]
        optimizer = AdamW(groups)
        torch.manual_seed(1)
        for number in range(6):
            optimizer.zero_grad()
            for index, parameter in enumerate(parameters):
                gradient = torch.randn_like(parameter)
                if (number + index) % 3:
                    parameter.grad = gradient
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (1 + number)
            optimizer.step()
        sides.append(parameters)
    for own, other in zip(*sides, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
    assert not torch.equal(sides[0][0], start[0])
