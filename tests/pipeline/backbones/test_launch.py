"""Batches that run beside the caller: none is lost, none is read before it is done, no buffer is written while it is read."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.backbones.batching import StreamRunner
from pipeline.backbones.launch import InlineLauncher, QueueLauncher, make_launcher
from tests.pipeline.backbones.test_batching import windows
from tests.pipeline.fakes import PLANS
from tests.pipeline.tiny import TinyBackbone

CPU = torch.device("cpu")


class Passing:
    """A forward pass in a thread that takes its time and reads its frames only at the end."""

    def __init__(self, backbone: TinyBackbone, frames: NDArray[Any], seconds: float) -> None:
        self.ended_seconds = 0.0
        self._thread = threading.Thread(target=self._work, args=(backbone, frames, seconds))
        self._thread.start()

    def _work(self, backbone: TinyBackbone, frames: NDArray[Any], seconds: float) -> None:
        time.sleep(seconds)
        self._features = backbone.embed(torch.from_numpy(frames)).numpy()
        self.ended_seconds = time.perf_counter()

    def poll(self, timeout_seconds: float = 0.0) -> bool:
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def features(self) -> NDArray[np.float32]:
        self._thread.join()
        return self._features


class Queue:
    """Passes side by side; the more streams, the later the first of them ends."""

    def __init__(self, backbone: TinyBackbone, n_streams: int) -> None:
        self.n_streams = n_streams
        self._backbone = backbone
        self._started: list[Passing] = []

    def start(self, frames: NDArray[Any]) -> Passing:
        assert sum(not one.poll() for one in self._started) < self.n_streams, "more passes than streams"
        place = len(self._started) % self.n_streams
        self._started.append(Passing(self._backbone, frames, 0.02 * (self.n_streams - place)))
        return self._started[-1]


def beside(n_streams: int, batch_size: int) -> TinyBackbone:
    backbone = TinyBackbone(PLANS[1], batch_size=batch_size)
    backbone.queue = Queue(TinyBackbone(PLANS[1], batch_size=batch_size), n_streams)  # type: ignore[assignment]
    return backbone


@pytest.mark.parametrize("n_streams", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_passes_that_end_in_any_order_give_every_token_its_own_value(n_streams: int, batch_size: int) -> None:
    clock_free = StreamRunner(TinyBackbone(PLANS[1], batch_size=batch_size), device=CPU)
    runner = StreamRunner(beside(n_streams, batch_size), device=CPU)
    found: dict[Any, NDArray[np.float32]] = {}
    for index in range(11):
        frames = windows(1, index)
        for one in (clock_free, runner):
            one.add(0, 0, index, frames.copy())
        found |= dict(runner.results())
    for one in (clock_free, runner):
        one.flush()
    found |= dict(runner.results())
    expected = dict(clock_free.results())
    assert found.keys() == expected.keys() and len(found) == 11
    for key, vector in expected.items():
        np.testing.assert_array_equal(found[key], vector)


def test_passes_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams are busy for less time than their passes took together, whatever that is on a busy machine."""
    runner = StreamRunner(beside(2, 1), device=CPU)
    begin, end = runner.busy.begin, runner.busy.end
    took: dict[int, float] = {}

    def begun(at_seconds: float) -> int:
        ticket = begin(at_seconds)
        took[ticket] = -at_seconds
        return ticket

    def ended(ticket: int, at_seconds: float) -> None:
        took[ticket] += at_seconds
        end(ticket, at_seconds)

    monkeypatch.setattr(runner.busy, "begin", begun)
    monkeypatch.setattr(runner.busy, "end", ended)
    for index in range(6):
        runner.add(0, 0, index, windows(1, index))
    runner.flush()
    assert len(took) == 6 and min(took.values()) > 0
    assert max(took.values()) <= runner.busy.seconds < 0.9 * sum(took.values())


def test_a_backbone_without_a_queue_runs_in_place() -> None:
    assert isinstance(make_launcher(TinyBackbone(PLANS[0]), CPU), InlineLauncher)
    assert isinstance(make_launcher(beside(2, 1), CPU), QueueLauncher)


def test_a_runner_that_is_given_up_leaves_the_streams_free() -> None:
    """The next run with the same model would find no free one, and Python may not end under a pass."""
    backbone = beside(2, 1)
    given_up = StreamRunner(backbone, device=CPU)
    for index in range(2):
        given_up.add(0, 0, index, windows(1, index))
    given_up.close()
    assert backbone.queue is not None and all(one.poll() for one in backbone.queue._started)  # type: ignore[attr-defined]
    assert list(given_up.results()) == []
