"""`--profile`: time by stage, the share of the ceiling, and the one setting most worth changing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from cache.process.cores import usable_cores
from pipeline.reporting import profile
from pipeline.reporting.report import ExtractReport
from tests.pipeline.tiny import tiny_backbones

CPU = torch.device("cpu")


def lines(monkeypatch: pytest.MonkeyPatch, **changes: float) -> list[str]:
    """A run of 100 s after start-up, at a matrix rate of 1 GFLOP/s and 1 GFLOP a token."""
    monkeypatch.setattr(profile, "matrix_rate", lambda *_: 1e9)
    monkeypatch.setattr(profile, "token_flops", lambda *_: 1e9)
    report = ExtractReport(src="a", out="b")
    report.seconds, report.setup_seconds, report.stored_now = 110.0, 10.0, 5
    report.tokens = {"clip": 10, "slowfast": 40}
    report.embed_seconds, report.model_seconds = {"clip": 20.0, "slowfast": 60.0}, 75.0  # 5 s side by side
    report.decode_seconds, report.write_seconds = 30.0, 1.0
    for name, value in changes.items():
        setattr(report, name, value)
    return profile.profile_lines(report, tiny_backbones(), devices=(CPU,), workers=2)


def test_times_and_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(lines(monkeypatch))
    assert "100.0 s after start-up; 2 decode workers" in text
    assert "60.0 s (60%) with a pass under way, 0.04 TFLOP" in text
    assert "75.0 s (75%) with any pass under way, 1 GFLOP/s = 67% of the matrix rate (fp32 " in text
    assert f"{30 / usable_cores() + 50:8.1f} s = decode / cores + FLOPs / matrix rate" in text
    assert lines(monkeypatch)[-1].startswith("change first: ")


def test_the_advice_follows_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, waiting = lines(monkeypatch)[-1], lines(monkeypatch, idle_seconds=70.0)[-1]
    assert busy != waiting


def test_flops_are_counted_on_the_plain_model() -> None:
    backbone = tiny_backbones("clip")["clip"]
    assert profile.token_flops(backbone) >= 2 * 8 * 8 * 3 * 8  # one matrix product


def test_attention_is_counted_whole() -> None:
    """In eval mode on a CPU torch fuses an encoder layer into one kernel, which its counter does not know."""
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()

    def embed_plainly(_frames: Any) -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = layer(torch.zeros(1, 4, 8))
        return found

    plan = SimpleNamespace(reduce=None, sampling=SimpleNamespace(window=1), sound=None, words=None)
    backbone: Any = SimpleNamespace(plan=plan, embed_plainly=embed_plainly)
    projections, attention, feedforward = 4 * 8 * (24 + 8), 2 * 4 * 4 * 8, 2 * 4 * 8 * 16
    assert profile.token_flops(backbone) == 2 * (projections + attention + feedforward)
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_matrix_rate_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "RATE_SIDE", 64)
    monkeypatch.setattr(profile, "RATE_SECONDS", 0.05)
    assert profile.matrix_rate(CPU, "fp32") > 1e6


def test_the_matrix_rate_of_float32_is_not_that_of_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[bool] = set()

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.Tensor.matmul or function is torch.Tensor.__matmul__:
                seen.add(torch.backends.cuda.matmul.allow_tf32)
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(profile, "RATE_SIDE", 8)
    monkeypatch.setattr(profile, "RATE_SECONDS", 0.0)
    torch.set_float32_matmul_precision("high")
    try:
        with Watch():
            profile.matrix_rate(CPU, "fp32")
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == {False}
