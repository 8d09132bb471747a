from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.reader import Cache
from heads.ablation.grid import make_cells, read_axes
from heads.ablation.runs import Run, RunRecord, RunStore, plan_runs
from heads.data.dataset import HeadDataset, StreamInput, load_dataset
from heads.data.splits import FoldConfig, choose_split, fold_splits
from heads.training.config import TrainConfig


@pytest.fixture
def data(toy_cache: Cache) -> HeadDataset:
    return load_dataset(toy_cache, separate_streams=False)


def plan(data: HeadDataset, *settings: str, n_seeds: int = 1, cv: int = 0) -> list[Run]:
    cells, _ = make_cells(TrainConfig(), read_axes(settings))
    splits = (
        fold_splits(data.labels, data.groups, config=FoldConfig(k=cv))
        if cv
        else [choose_split(data.labels, data.splits, data.groups)]
    )
    streams = {stream.name: stream for stream in data.streams}
    return plan_runs(cells, splits, data, streams=streams, n_seeds=n_seeds, folds=bool(cv))


def record(run: Run, **changes: object) -> RunRecord:
    empty = RunRecord.failed(run, "", device="cpu")
    scores = tuple(np.linspace(0, 1, len(run.scored)).tolist())
    return replace(empty, error=None, probabilities=scores, **changes)  # type: ignore[arg-type]


def test_a_run_for_every_cell_seed_and_fold(data: HeadDataset) -> None:
    runs = plan(data, "lr=1e-3,1e-2", "model=linear,mlp", n_seeds=2, cv=3)
    assert len(runs) == len({run.key for run in runs}) == 4 * 2 * 3
    assert {run.config.seed for run in runs} == {0, 1}
    scored = np.concatenate([run.scored for run in runs if run.number == 0 and run.config.seed == 0])
    assert sorted(scored) == list(range(60))


def test_the_key_follows_what_is_trained_on_what(data: HeadDataset) -> None:
    (first,) = plan(data)
    assert plan(data)[0].key == first.key
    assert plan(data, "streams=clip+slowfast")[0].key != first.key  # another config, though it reads the same
    different = [
        plan(data, "lr=2e-3")[0],
        plan(replace(data, cache_digest="other"))[0],
        plan(replace(data, labels=1 - data.labels))[0],
        plan(data, cv=2)[0],
    ]
    warm = StreamInput("clip", 12, {"weights": {"tag": "openai"}})
    cells, _ = make_cells(TrainConfig(), [])
    split = choose_split(data.labels, data.splits, data.groups)
    streams = {"clip": warm, "slowfast": data.streams[1]}
    different += plan_runs(cells, [split], data, streams=streams, n_seeds=1, folds=False)
    assert len({run.key for run in (first, *different)}) == 6


def test_resamples_do_not_change_what_is_trained(data: HeadDataset) -> None:
    (run,) = plan(data)
    cells, _ = make_cells(TrainConfig(n_resamples=7), [])
    streams = {stream.name: stream for stream in data.streams}
    (other,) = plan_runs(cells, [run.split], data, streams=streams, n_seeds=1, folds=False)
    assert other.key == run.key


def test_records_come_back_as_they_were(data: HeadDataset, tmp_path: Path) -> None:
    done, open_run = plan(data, "lr=1e-3,1e-2")
    store = RunStore(tmp_path)
    assert store.read([done, open_run]) == ({}, [])
    kept = record(done, threshold=0.25, auroc_by_epoch=(None, 0.5), threshold_by_epoch=(0.1, 0.2))
    store.write(kept, done)
    assert store.read([done, open_run]) == ({done.key: kept}, [])
    text = store.path(done.key).read_text()
    assert text.count("\n") == 1
    assert json.loads(text)["config"]["optim"]["lr"] == 1e-3
    assert [path.name for path in store.folder.iterdir()] == [f"{done.key}.json"]


@pytest.mark.parametrize("damage", ["cut", "empty", "other key", "other videos", "other format"])
def test_a_file_that_cannot_be_used_is_told_and_trained_again(
    data: HeadDataset, tmp_path: Path, damage: str
) -> None:
    (run,) = plan(data)
    store = RunStore(tmp_path)
    store.write(record(run), run)
    text = store.path(run.key).read_text()
    values = json.loads(text)
    changed = {
        "cut": text[:100],
        "empty": "",
        "other key": json.dumps(values | {"key": "x"}),
        "other videos": json.dumps(values | {"probabilities": [0.5]}),
        "other format": json.dumps(values | {"format": 99}),
    }
    store.path(run.key).write_text(changed[damage])
    found, spoilt = store.read([run])
    assert found == {}
    assert len(spoilt) == 1
    assert "trained again" in spoilt[0]
