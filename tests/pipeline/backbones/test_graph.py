"""A recorded forward pass: the same features as the pass, in memory that the next one leaves alone; recorded where it is run,

with a workspace that no other recording has.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cache.errors import DeviceError
from pipeline.backbones import graph
from pipeline.backbones.base import GpuEngine, Precision
from pipeline.backbones.engine import Engine
from pipeline.backbones.graph import GraphedForward
from tests.pipeline.fake_cuda import FakeGraph, fake_cuda


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A recording that runs on the processor; counts its replays."""
    replays = [0]

    def capture(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        features = run()

        def replay() -> None:
            replays[0] += 1
            features.copy_(run())

        return replay, features

    monkeypatch.setattr(graph, "capture", capture)
    return replays


def test_each_batch_has_its_own_features(recorded: list[int]) -> None:
    run = GraphedForward(
        lambda frames: frames.float().sum(1, keepdim=True), torch.zeros(2, 3, dtype=torch.int16)
    )
    batches = [torch.tensor([[n, 2 * n, 3 * n], [1, 1, n]], dtype=torch.int16) for n in range(3)]
    found = [run(batch) for batch in batches]
    assert [features.tolist() for features in found] == [[[6.0 * n], [2.0 + n]] for n in range(3)]
    assert recorded == [3] and run.shape == (2, 3)


def test_the_callers_frames_are_left_alone(recorded: list[int]) -> None:
    run = GraphedForward(lambda frames: frames.float() * 2, torch.zeros(1, 2))
    mine = torch.ones(1, 2)
    run(mine)
    run(torch.full((1, 2), 5.0))
    assert mine.tolist() == [[1.0, 1.0]]


def engine(device: str, factor: float, name: str = "means") -> Engine:
    return Engine(
        lambda frames: frames.to(torch.float32).flatten(1).mean(1, keepdim=True) * factor,
        lambda n: torch.zeros(n, 1, 2, 2, 3, dtype=torch.uint8, device=device),
        batch_size=2,
        device=torch.device(device),
        precision="bf16",
        runtime="torch",
        name=name,
        weights_key="means 1",
    )


def frames(*levels: int) -> torch.Tensor:
    return torch.stack([torch.full((1, 2, 2, 3), level, dtype=torch.uint8) for level in levels])


def test_every_device_records_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own stream to record on is of the device that came first: on another one nothing would be recorded."""
    with fake_cuda(monkeypatch):
        on = {device: engine(device, factor) for device, factor in (("cuda:0", 1.0), ("cuda:1", 3.0))}
        for device, factor in (("cuda:0", 1.0), ("cuda:1", 3.0)):
            for levels in ((1, 2), (5, 9), (7, 3)):
                assert on[device](frames(*levels)).flatten().tolist() == [factor * level for level in levels]


def test_a_part_of_a_batch_and_more_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda(monkeypatch):
        made = engine("cuda", 2.0)
        assert made(frames(4)).tolist() == [[8.0]]
        assert made(frames(1, 2, 3)).tolist() == [[2.0], [4.0], [6.0]]
        assert made.feature_width() == 1


@pytest.mark.parametrize("gpu_engine", ["graph", "eager"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_float32_is_exact_where_it_was_asked_for(
    gpu_engine: GpuEngine, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is recorded keeps the kernels that it was recorded with."""
    seen: list[bool] = []

    def forward(frames_BTHWC: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return frames_BTHWC.to(torch.float32).flatten(1)

    with fake_cuda(monkeypatch):
        blank = frames(1, 2)
        made = Engine(
            forward, lambda _: blank, batch_size=2, device=torch.device("cuda"), precision=precision, runtime="torch",
            name="means", weights_key="", gpu_engine=gpu_engine,
        )  # fmt: skip
        made(blank)
    assert set(seen) == {precision != "fp32"} and len(seen) == (
        1 if gpu_engine == "eager" else graph.WARM_UPS + 1
    )


def test_a_device_that_is_full_while_it_records_says_which_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: torch.Tensor) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory (a stand-in)")

    with (
        fake_cuda(monkeypatch),
        pytest.raises(DeviceError, match="no memory for x in batches of 8: use --batch x=4"),
    ):
        Engine(
            full, lambda n: torch.zeros(n, 1, 2, 2, 3), batch_size=8, device=torch.device("cuda"), precision="bf16",
            runtime="torch", name="x", weights_key="",
        )  # fmt: skip


def test_no_two_recordings_share_a_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams replay at once, and one may be dropped while the other goes on."""
    graphs: list[FakeGraph] = []
    with fake_cuda(monkeypatch) as device:
        make = torch.cuda.CUDAGraph
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graphs.append(make()) or graphs[-1])  # type: ignore[func-returns-value]
        kept = [engine("cuda", float(n)) for n in range(3)]
    assert len(kept) == len({one.workspace for one in graphs}) == 3
    assert all(one.workspace.of_graph for one in graphs), "memory that may be given to others"
    assert {one.error_mode for one in graphs} == {"thread_local"}, (
        "work of other threads would be refused meanwhile"
    )
    assert not device.workspaces, "what comes later on the same stream would write what a recording reads"


@pytest.mark.parametrize("error", [RuntimeError, torch.cuda.OutOfMemoryError])
def test_a_pass_that_cannot_be_recorded_is_named(
    error: type[RuntimeError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a recording that failed fails as well, with less to say."""

    def asks(frames_BTHWC: torch.Tensor) -> torch.Tensor:
        if device.recording:
            raise error("CUDA error: operation not permitted when stream is capturing\nmore lines")
        return frames_BTHWC.float().flatten(1)

    with fake_cuda(monkeypatch) as device:
        blank = torch.zeros(2, 1, 2, 2, 3)
        with pytest.raises(DeviceError) as refused:
            Engine(
                asks, lambda _: blank, batch_size=2, device=torch.device("cuda"), precision="bf16", runtime="torch",
                name="mvit", weights_key="",
            )  # fmt: skip
    if error is torch.cuda.OutOfMemoryError:
        assert str(refused.value).startswith("the device has no memory for mvit in batches of 2")
        return
    assert str(refused.value).startswith(
        f"mvit cannot be recorded with torch {torch.__version__} on cuda (CUDA error: opera"
    )
    assert "not permitted when stream is capturing): use --gpu-engine eager" in str(refused.value)
