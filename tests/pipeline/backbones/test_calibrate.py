"""Batches that measure best: measured once, kept, and never changed by noise or by a folder that cannot be written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.backbones import calibrate
from pipeline.backbones.base import Batching
from pipeline.backbones.calibrate import best_batching, candidates, choose, measure_rates

TWO = [Batching(1), Batching(4)]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibrate, "SECONDS_A_ROUND", 0.01)
    return tmp_path / "onepass" / "batching"


def sleeping(seconds: dict[int, float], log: list[int]) -> Callable[[Batching], Callable[[], None]]:
    """Batches of a size take so many seconds."""

    def prepare(batching: Batching) -> Callable[[], None]:
        def run() -> None:
            log.append(batching.batch_size)
            time.sleep(seconds[batching.batch_size])

        return run

    return prepare


def test_the_fastest_is_taken_and_kept(own_cache: Path) -> None:
    log: list[int] = []
    said: list[str] = []
    prepare = sleeping({1: 0.01, 4: 0.01}, log)  # four times the windows in the same time
    assert best_batching(TWO, prepare, key="a", measure=said.append) == Batching(4)
    measured = len(log)
    assert said == ["measuring on this machine, once, which batches are fastest: a"]
    assert measured >= 2 * (calibrate.ROUNDS + 1)
    assert best_batching(TWO, prepare, key="a", measure=said.append) == Batching(4)
    assert best_batching(TWO, prepare, key="a", measure=None) == Batching(4)
    assert len(log) == measured
    (kept,) = own_cache.glob("*.json")
    assert json.loads(kept.read_text())["chosen"] == {"batch_size": 4, "n_streams": 1}
    kept.write_text("{")  # damaged: the default, until it is measured again
    assert best_batching(TWO, prepare, key="a", measure=None) == Batching(1)
    assert best_batching(TWO, prepare, key="a", measure=said.append) == Batching(4)


def test_nothing_is_measured_unless_asked_or_where_it_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log: list[int] = []
    said: list[str] = []
    prepare = sleeping({1: 0.01, 4: 0.01}, log)
    assert best_batching(TWO, prepare, key="a", measure=None) == Batching(1)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert best_batching(TWO, prepare, key="a", measure=said.append) == Batching(1)
    assert not log and not said


def test_another_model_is_measured_on_its_own() -> None:
    log: list[int] = []
    said: list[str] = []
    prepare = sleeping({1: 0.001, 4: 0.02}, log)
    assert best_batching(TWO, prepare, key="a", measure=said.append) == Batching(1)
    before = len(log)
    best_batching(TWO, prepare, key="b", measure=said.append)
    assert len(log) > before


def test_noise_changes_nothing() -> None:
    assert choose(TWO, [100.0, 102.0]) == TWO[0]
    assert choose(TWO, [100.0, 104.0]) == TWO[1]
    assert choose([*TWO, Batching(8)], [100.0, 104.0, 105.0]) == TWO[1]


def test_rates_count_the_windows_of_all_streams() -> None:
    def prepare(batching: Batching) -> Callable[[], None]:
        return lambda: time.sleep(0.02)

    one, four = measure_rates([Batching(1), Batching(2, 2)], prepare)
    assert one <= 50
    assert 2 < four / one < 8


def test_what_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert candidates((1, 2), runtime="torch") == [Batching(1), Batching(2)]
    assert candidates((1, 2), runtime="openvino") == [Batching(1, 2), Batching(2, 2), Batching(1)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert candidates((1,), runtime="openvino")[0] == Batching(1, calibrate.MOST_STREAMS)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert candidates((1,), runtime="openvino") == [Batching(1)]
    with pytest.raises(ValueError, match="count from 1"):
        Batching(0)


def test_a_candidate_that_does_not_fit_scores_nothing() -> None:
    def prepare(batching: Batching) -> Callable[[], None]:
        def run() -> None:
            if batching.batch_size == 4:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory (a stand-in)")

        return run

    rates = measure_rates([Batching(4), Batching(1)], prepare)
    assert rates[0] == 0.0 and rates[1] > 0
    assert choose([Batching(4), Batching(1)], rates) == Batching(1)
