from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from cache.errors import InputError
from cache.reader import Cache, open_cache
from heads.ablation import work as ablate_work
from heads.ablation.grid import Cell, make_cells, read_axes
from heads.ablation.runs import RunRecord
from heads.ablation.sweep import Progress, Sweep, find_baseline
from heads.train import train_head
from heads.training.config import TrainConfig
from tests.heads.synthetic import toy_videos, write_cache


def cells_of(base: TrainConfig, *settings: str) -> list[Cell]:
    return make_cells(base, read_axes(settings))[0]


@pytest.fixture
def brief(quick: TrainConfig) -> TrainConfig:
    return quick.updated({"epochs": 2})


def refuse_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(ablate_work, "fit_jobs", refuse)


def test_a_sweep_gives_what_train_head_gives(toy_cache: Cache, brief: TrainConfig, tmp_path: Path) -> None:
    cells = cells_of(brief, "lr=1e-3,1e-2", "model=mlp,fusion", "streams=clip,clip+slowfast")
    seen: list[Progress] = []
    with Sweep(toy_cache, brief, out=tmp_path, n_seeds=1) as sweep:
        records = sweep.train(cells, on_run=seen.append)
        board = sweep.leaderboard(cells, records, n_resamples=20)
    assert [progress.n_done for progress in seen] == list(range(1, 9))
    assert {progress.n_runs for progress in seen} == {8}
    by_label = {row.label: row for row in board.rows}
    for cell in (cells[1], cells[6]):
        head = train_head(toy_cache, cell.config)
        row = by_label[cell.label]
        assert row.scores["auroc"] == pytest.approx(head.info.metrics["val"]["auroc"], abs=1e-12)
        assert row.scores["f1"] == pytest.approx(head.info.metrics["val"]["f1"], abs=1e-12)
        assert row.threshold_mean == head.info.threshold.threshold
        assert row.n_parameters == head.info.n_parameters
    assert [row.label for row in board.floors] == [
        "all-positive",
        "metadata-only",
        "mean-pooled of clip+slowfast",
        "statistics of clip+slowfast",
    ]


def test_what_is_finished_is_never_trained_again(
    toy_cache: Cache, brief: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = cells_of(brief, "lr=1e-3,1e-2")
    many = cells_of(brief, "lr=1e-3,1e-2,3e-3")
    with Sweep(toy_cache, brief, out=tmp_path, n_seeds=2) as sweep:
        first = sweep.train(few)
        assert len(first) == 4
        seen: list[Progress] = []
        both = sweep.train(many, on_run=seen.append)
        assert len(seen) == 2
        assert {key: both[key] for key in first} == first
        sweep.leaderboard(many, both, n_resamples=0)
        refuse_training(monkeypatch)
        assert sweep.train(many) == both
        lost = next((tmp_path / "cells").glob(f"{next(iter(first))}.json"))
        lost.unlink()
        with pytest.raises(AssertionError, match="trained again"):
            sweep.train(many)


def test_folds_score_every_video_once(toy_cache: Cache, brief: TrainConfig, tmp_path: Path) -> None:
    cells = cells_of(brief, "lr=1e-3,1e-2")
    with Sweep(toy_cache, brief, out=tmp_path, n_seeds=1, cv=3) as sweep:
        records = sweep.train(cells)
        assert len(records) == 6
        assert sum(len(record.probabilities) for record in records.values()) == 2 * 60
        board = sweep.leaderboard(cells, records, metric="average_precision", n_resamples=50)
    assert board.n_videos == 60
    assert board.metric == "average_precision"
    assert not any("val chose" in note for note in board.notes)


def test_a_folder_serves_one_sweep_at_a_time(toy_cache: Cache, brief: TrainConfig, tmp_path: Path) -> None:
    with (
        Sweep(toy_cache, brief, out=tmp_path, n_seeds=1),
        pytest.raises(InputError, match="another sweep works in"),
    ):
        Sweep(toy_cache, brief, out=tmp_path, n_seeds=1)
    with Sweep(toy_cache, brief, out=tmp_path, n_seeds=1):
        pass


def test_what_does_not_fit_is_refused_before_training(
    toy_cache: Cache, brief: TrainConfig, tmp_path: Path
) -> None:
    with (
        Sweep(toy_cache, brief, out=tmp_path, n_seeds=1) as sweep,
        pytest.raises(InputError, match="no stream audio"),
    ):
        sweep.train(cells_of(brief, "streams=clip,audio"))
    assert not (tmp_path / "cells").exists()
    for options in ({"n_seeds": 0}, {"jobs": -1}):
        with pytest.raises(InputError):
            Sweep(toy_cache, brief, out=tmp_path, **options)  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        Sweep(toy_cache, brief, out=tmp_path / "file", n_seeds=1)


def test_a_baseline_is_named_by_its_settings() -> None:
    cells = cells_of(TrainConfig(), "lr=1e-3,1e-2", "model=mlp,linear")
    assert find_baseline(cells, None) == 0
    assert find_baseline(cells, "lr=0.01 model=linear") == 3
    with pytest.raises(InputError, match="means 2 of the 4 cells"):
        find_baseline(cells, "lr=1e-2")
    with pytest.raises(InputError, match="unknown setting"):
        find_baseline(cells, "speed=3")


@pytest.mark.slow
def test_processes_give_the_same_records_as_one(toy_cache: Cache, brief: TrainConfig, tmp_path: Path) -> None:
    cells = cells_of(brief, "lr=1e-3,1e-2", "model=mlp,linear")

    def timeless(records: dict[str, RunRecord]) -> dict[str, dict[str, object]]:
        named = {key: {f: getattr(r, f) for f in r.__slots__} for key, r in records.items()}
        return {key: {**values, "seconds": 0} for key, values in named.items()}

    with Sweep(toy_cache, brief, out=tmp_path / "one", n_seeds=1, jobs=1) as sweep:
        one = sweep.train(cells)
    with Sweep(toy_cache, brief, out=tmp_path / "two", n_seeds=1, jobs=2) as sweep:
        two = sweep.train(cells)
        errors = cells_of(
            brief, "threshold.objective=f1,false-alarms-per-hour", "max_false_alarms_per_hour=0,5"
        )
        sweep.train(errors)
    assert timeless(one) == timeless(two)


@pytest.mark.slow
def test_a_sweep_killed_twice_goes_on(toy_path: Path, tmp_path: Path) -> None:
    """kill -9 of the main process alone: its processes end as well, what is written stays, the rest is trained."""
    cells = tmp_path / "out" / "cells"
    command = [
        *(
            sys.executable,
            "-m",
            "onepass",
            "ablate",
            "--features",
            str(toy_path),
            "--out",
            str(tmp_path / "out"),
        ),
        *("--jobs", "2", "--seeds", "3", "--resamples", "50"),
        # four sets of heads that train together, so that two kills find something that is not done
        *("--set", "lr=1e-4,1e-3", "--set", "epochs=8", "--set", "model=mlp,attention-pool"),
        *("--set", "streams=clip,slowfast"),
    ]
    kept: dict[str, int] = {}
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        while line := process.stdout.readline():
            if line.startswith("["):
                break
        assert process.poll() is None, "the sweep ended before it could be killed"
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        process.stdout.close()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
        found = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
        assert kept.items() <= found.items()
        assert len(kept) < len(found) < 24
        assert all(json.loads(path.read_text())["format"] == 1 for path in cells.glob("*.json"))
        kept = found
    last = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"24 runs, {len(kept)} of them finished before" in last.stdout
    runs = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json") if "floor" not in path.name}
    assert len(runs) == 24
    assert kept.items() <= runs.items()
    assert (tmp_path / "out" / "leaderboard.html").exists()


def test_other_source_groups_are_other_runs(tmp_path: Path) -> None:
    """Regressions choose their strength on inner folds by source group: the stored split is the same, what comes of it is not."""
    base = TrainConfig().updated({"model": "logistic", "n_resamples": 0})
    videos = toy_videos(signal=0.6)
    moved = [replace(v, row=replace(v.row, source=f"{v.row.split}{n % 7}")) for n, v in enumerate(videos)]
    kept: dict[str, dict[str, RunRecord]] = {}
    for name, some in (("pairs", videos), ("sevens", moved)):
        cells = cells_of(base)
        path = write_cache(tmp_path / f"{name}.zarr", some)
        with open_cache(path) as cache, Sweep(cache, base, out=tmp_path / name, n_seeds=1) as sweep:
            kept[name] = sweep.train(cells)
            sweep.leaderboard(cells, kept[name], n_resamples=0)
    assert not set(kept["pairs"]) & set(kept["sevens"])
    files = [{path.name for path in (tmp_path / name / "cells").iterdir()} for name in kept]
    assert not files[0] & files[1]  # floors neither


def test_floors_are_fitted_again_when_what_they_depend_on_changed(brief: TrainConfig, tmp_path: Path) -> None:
    """The same ids, labels and folds in another cache, or another objective: a kept floor would be a stale one."""
    videos = toy_videos(signal=1.0)
    told = write_cache(tmp_path / "told.zarr", videos)
    rng = np.random.default_rng(0)
    noise = [
        replace(
            video,
            tokens={
                name: replace(found, values=rng.normal(size=found.values.shape).astype(found.values.dtype))
                for name, found in video.tokens.items()
            },
        )
        for video in videos
    ]
    other_seed = {"tag": "random", "seed": 1, "digest": "sha256:other"}
    blind = write_cache(tmp_path / "blind.zarr", noise, weights=other_seed)

    def floors(path: Path, config: TrainConfig) -> dict[str, tuple[float | None, float]]:
        cells = cells_of(config)
        with open_cache(path) as cache, Sweep(cache, config, out=tmp_path / "out", n_seeds=1) as sweep:
            board = sweep.leaderboard(cells, sweep.train(cells), n_resamples=0)
        return {row.label: (row.scores["auroc"], row.threshold_mean) for row in board.floors}

    with_signal, without = floors(told, brief), floors(blind, brief)
    (name,) = (label for label in with_signal if label.startswith("mean-pooled"))
    assert (with_signal[name][0] or 0) > 0.8
    assert (without[name][0] or 1) < 0.7
    assert floors(told, brief) == with_signal
    other = floors(told, brief.updated({"threshold.objective": "fbeta", "threshold.beta": 20.0}))
    assert other[name][1] != with_signal[name][1]


def test_given_scores_are_a_floor_by_their_content(
    toy_cache: Cache, brief: TrainConfig, tmp_path: Path
) -> None:
    """A file of the same name whose scores changed is another floor; one that lacks a video ends it before training."""
    file = tmp_path / "scores.csv"
    cells = cells_of(brief.updated({"model": "linear", "epochs": 1}))
    pairs = list(zip(toy_cache.videos.id.tolist(), toy_cache.videos.label.tolist(), strict=True))

    def swept(right: float, *, n: int = len(pairs), given: bool = True) -> dict[str, float | None]:
        rows = [f"{i},{right if label else 1 - right}\n" for i, label in pairs[:n]]
        file.write_text("id,probability\n" + "".join(rows))
        files = {"zero/shot": file} if given else {}
        with Sweep(toy_cache, brief, out=tmp_path / "out", n_seeds=1, cv=2, floor_files=files) as sweep:
            board = sweep.leaderboard(cells, sweep.train(cells), n_resamples=0)
        return {row.label: row.scores["auroc"] for row in board.floors}

    with pytest.raises(InputError, match="has no score for 1 of 60 videos"):
        swept(0.9, n=59)
    assert not list((tmp_path / "out").glob("cells/*"))
    without, high, low, again = swept(0.9, given=False), swept(0.9), swept(0.1), swept(0.9)
    assert high == again == without | {"zero/shot": 1.0}
    assert low == without | {"zero/shot": 0.0}


def test_a_baseline_that_some_cells_cannot_be_is_found() -> None:
    cells, _ = make_cells(TrainConfig(), read_axes(["model=linear,mlp", "width=8,16"]), skip_invalid=True)
    assert find_baseline([*cells_of(TrainConfig(), "model=linear"), *cells], "width=16") == 2


def test_each_seed_has_folds_of_its_own_and_the_same_for_all_cells(
    toy_cache: Cache, brief: TrainConfig, tmp_path: Path
) -> None:
    cells = cells_of(brief.updated({"model": "linear", "epochs": 1}), "lr=1e-3,1e-2")
    with Sweep(toy_cache, brief, out=tmp_path, cv=3) as sweep:
        runs = sweep.plan(cells)
        board = sweep.leaderboard(cells, sweep.train(cells), n_resamples=0)
    held = {
        (run.number, run.config.seed): sorted(
            tuple(r.scored) for r in runs if (r.number, r.config.seed) == (run.number, run.config.seed)
        )
        for run in runs
    }
    assert {seed for _, seed in held} == {0, 1, 2}
    assert held[0, 0] != held[0, 1] != held[0, 2]
    assert all(held[0, seed] == held[1, seed] for seed in range(3))
    assert all(sorted(v for fold in folds for v in fold) == list(range(60)) for folds in held.values())
    assert all(row.seed_sd is not None and row.seed_sd > 0 for row in board.rows)
    assert {row.n_runs for row in (*board.rows, *board.floors)} == {9}
    assert "drawn again for each of 3 seeds" in board.split
