"""The arithmetic of benchmarks/simulate_cluster.py and benchmarks/cost.py, against answers by hand."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("simulate_cluster")


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("cost")


def lives(*seconds: tuple[float, ...]) -> list[Iterator[float]]:
    """Of each node, how long it is there each time; for ever after these."""
    return [chain(each, repeat(float("inf"))) for each in seconds]


def test_a_node_without_trouble_is_useful_but_for_its_starts(simulator: Any) -> None:
    shards = [np.array([30.0, 10.0]), np.array([40.0])]
    cluster = simulator.Cluster([1.0], cores=1, task_cores=1, start_seconds=10.0)
    found = simulator.simulate(shards, cluster, lives(()))
    assert found.hours * 3600 == pytest.approx(100) and found.useful == pytest.approx(0.8)
    assert (found.attempts, found.lost) == (2, 0)


def test_cores_of_a_node_are_shared_as_the_pool_shares_them(simulator: Any) -> None:
    assert simulator.finishes(np.array([4.0, 2.0, 3.0, 1.0]), 2).tolist() == [4, 2, 5, 5]
    assert simulator.finishes(np.array([4.0, 2.0]), 8).tolist() == [4, 2]
    cluster = simulator.Cluster([1.0], cores=2, task_cores=2, start_seconds=0.0)
    found = simulator.simulate([np.array([6.0, 2.0])], cluster, lives(()))
    assert found.useful == pytest.approx(8 / 12)  # one core waits for the long video of the other
    two = simulator.Cluster([1.0], cores=2, task_cores=1, start_seconds=0.0)
    assert simulator.simulate([np.array([4.0]), np.array([4.0])], two, lives(())).useful == pytest.approx(1)


def test_a_straggler_takes_longer_and_fewer(simulator: Any) -> None:
    cluster = simulator.Cluster([1.0, 0.5], cores=1, task_cores=1, start_seconds=0.0)
    found = simulator.simulate([np.array([10.0])] * 3, cluster, lives((), ()))
    assert found.hours * 3600 == pytest.approx(20) and found.useful == pytest.approx(1)


def test_a_preemption_loses_the_video_in_hand_and_the_rest_goes_elsewhere(simulator: Any) -> None:
    """The first node is lost after 25 s: 10 s of start, one video of 10 s stored, 5 s of the second lost."""
    cluster = simulator.Cluster([1.0, 1.0], cores=1, task_cores=1, start_seconds=10.0, back_seconds=1000.0)
    found = simulator.simulate([np.array([10.0, 10.0, 10.0]), np.array([5.0])], cluster, lives((25.0,), ()))
    # the second node is free at 15 s, waits until 25 s, starts again and makes two videos
    assert found.hours * 3600 == pytest.approx(25 + 10 + 20)
    assert found.useful == pytest.approx(35 / (2 * 55)) and (found.attempts, found.lost) == (3, 1)


def test_the_same_seed_makes_the_same_videos_and_shards(simulator: Any) -> None:
    def drawn() -> Any:
        rng = np.random.default_rng(3)
        return simulator.durations(50, rng, median=300.0, sigma=1.2, longest=7200.0)

    work = drawn()
    assert np.array_equal(work, drawn()) and work.max() <= 7200 and 50 * 3600 <= work.sum() < 54 * 3600
    for planned in (False, True):
        shards = simulator.divided(work, 7, planned=planned)
        assert sorted(np.concatenate(shards)) == sorted(work)
    assert max(s.sum() for s in shards) - min(s.sum() for s in shards) < work.max()


def test_cost_by_hand(prices: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = prices.cost(
        1000, height=720, fps=17.8, streams=("clip", "slowfast"), useful=0.5, video_seconds=3600.0
    )
    assert found.decode_core_hours == pytest.approx(1000 * 0.1 / 0.5)
    assert found.gpu_hours == pytest.approx(1000 * (2 / 29600 + 30 / 64 / 1021))
    assert found.feature_bytes == pytest.approx(3.6e6 * (2 * 1032 + 30 / 64 * 4616) + 1000 * 250)
    prices.main(["--hours", "1000", "--days", "1", "--core-hour", "0", "--gpu-hour", "0"])
    assert "| 1,000 | 12,000 | 156 |" in capsys.readouterr().out
