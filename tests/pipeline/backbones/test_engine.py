"""One forward pass on either runtime: the same features, whole batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.backbones.base import Batching
from pipeline.backbones.engine import MOST_STREAMS, Engine, batching_for
from pipeline.backbones.runtime import Runtime, wait_for

CPU = torch.device("cpu")
WEIGHTS = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "onepass"


def forward(frames_BTHWC: torch.Tensor) -> torch.Tensor:
    return frames_BTHWC.to(torch.float32).mean(dim=(1, 2, 3)) @ WEIGHTS


def engine(runtime: Runtime) -> Engine:
    return Engine(
        forward,
        lambda n: torch.zeros(n, 1, 8, 8, 3, dtype=torch.uint8),
        batch_size=2,
        device=CPU,
        precision="fp32",
        runtime=runtime,
        name="means",
        weights_key="means 1",
    )


def frames(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 1, 8, 8, 3), dtype=torch.uint8, generator=generator)


def test_torch_takes_any_batch_and_has_no_queue() -> None:
    made = engine("torch")
    assert made.queue is None and made.batching.batch_size == 2 and made.feature_width() == 4
    torch.testing.assert_close(made(frames(3)), forward(frames(3)))


def test_openvino_gives_the_same_features(own_cache: Path) -> None:
    pytest.importorskip("openvino")
    made = engine("openvino")
    assert made.queue is not None and made.queue.n_streams == made.batching.n_streams
    assert made.feature_width() == 4
    torch.testing.assert_close(made(frames(2)), forward(frames(2)), rtol=1e-4, atol=1e-4)
    assert list((own_cache / "openvino").glob("*.xml"))


def test_a_pass_a_core_on_openvino_and_one_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert batching_for(4, runtime="torch") == Batching(4)
    assert batching_for(4, runtime="openvino") == Batching(4, 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert batching_for(1, runtime="openvino") == Batching(1, MOST_STREAMS)
    with pytest.raises(ValueError, match="count from 1"):
        Batching(0)


def test_the_process_ends_no_earlier_than_its_forward_passes() -> None:
    ended = []

    class Pass:
        def __init__(self, busy: bool) -> None:
            self.busy = busy

        def features(self) -> None:
            ended.append(self)

    passes = [Pass(True), Pass(False), Pass(True)]
    wait_for(passes)  # type: ignore[arg-type]
    assert ended == [passes[0], passes[2]]
