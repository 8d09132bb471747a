from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import HeadError
from cache.reader import Cache
from heads.ablation import work as ablate_work
from heads.ablation.grid import make_cells, read_axes
from heads.ablation.runs import Run
from heads.ablation.sweep import Sweep
from heads.ablation.work import Stopped, Trainer, WorkSettings, choose_jobs, make_packs, view_of
from heads.training.batched import MOST_HEADS
from heads.training.config import TrainConfig


def small(config: TrainConfig) -> int:
    return 1000


@pytest.fixture
def runs(toy_cache: Cache, quick: TrainConfig, tmp_path: Path) -> list[Run]:
    cells, _ = make_cells(
        quick, read_axes(["lr=1e-4,1e-3,1e-2", "streams=clip,clip+slowfast", "model=mlp,linear,fusion"])
    )
    with Sweep(toy_cache, quick, out=tmp_path, n_seeds=4) as sweep:
        return sweep.plan(cells)


def test_packs_hold_every_run_once_and_one_view_each(runs: list[Run]) -> None:
    for jobs in (1, 2, 5):
        packs = make_packs(runs, jobs=jobs, longest=5, n_parameters=small)
        assert sorted(run.key for pack in packs for run in pack) == sorted(run.key for run in runs)
        kinds = [{(view_of(run.config), run.config.model.architecture) for run in pack} for pack in packs]
        assert all(len(kind) == 1 for kind in kinds)
        views = [view_of(pack[0].config) for pack in packs]
        assert len([v for i, v in enumerate(views) if i == 0 or views[i - 1] != v]) == len(set(views))
        assert max(map(len, packs)) <= MOST_HEADS
        assert len(packs) >= jobs


def test_runs_that_share_batches_stand_together(runs: list[Run]) -> None:
    for pack in make_packs(runs, jobs=1, longest=5, n_parameters=small):
        seeds = [run.config.seed for run in pack]
        assert seeds == sorted(seeds)
        assert len(set(seeds)) < len(seeds)


def test_long_videos_leave_room_for_fewer_heads(runs: list[Run]) -> None:
    assert {len(pack) for pack in make_packs(runs, jobs=1, longest=5000, n_parameters=small)} == {1}


def test_large_heads_train_alone(runs: list[Run]) -> None:
    def sizes(n_parameters: int) -> int:
        return max(map(len, make_packs(runs, jobs=1, longest=5, n_parameters=lambda config: n_parameters)))

    assert sizes(44_036_097) == 1  # a transformer as wide as 2,816 wide tokens
    assert sizes(10_000_000) == 4
    assert sizes(100_000) == 6  # the 12 runs of a view and model, in two packs of at most MOST_HEADS


def test_processes_are_started_where_there_is_work_for_them(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablate_work, "usable_cores", lambda: 8)
    assert choose_jobs(runs, jobs=0, device="cpu") == 1
    assert choose_jobs(runs, jobs=3, device="cpu") == 3
    assert choose_jobs(runs[:2], jobs=3, device="cpu") == 2
    monkeypatch.setattr(ablate_work, "SECONDS_A_VIDEO", 0.02)
    assert 1 < choose_jobs(runs, jobs=0, device="cpu") <= 8


def test_training_that_is_told_to_stop_keeps_nothing(
    toy_cache: Cache, runs: list[Run], tmp_path: Path
) -> None:
    settings = WorkSettings(toy_cache.paths, False, None, tmp_path / "stopped", "cpu")
    with pytest.raises(Stopped):
        Trainer(toy_cache, settings, stop=lambda: True).train(runs[:1])
    assert not (tmp_path / "stopped").exists()


def test_a_loss_that_explodes_is_kept_as_a_failed_run(
    toy_cache: Cache, quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, _ = make_cells(quick.updated({"epochs": 1}), read_axes(["lr=1e-3,1e-2"]))
    real = ablate_work.fit_jobs

    def exploding(*arguments: object, **options: object) -> list[object]:
        results: list[object] = list(real(*arguments, **options))  # type: ignore[arg-type]
        return [HeadError("the loss is nan in epoch 1"), *results[1:]]

    monkeypatch.setattr(ablate_work, "fit_jobs", exploding)
    with Sweep(toy_cache, quick, out=tmp_path, n_seeds=1) as sweep:
        records = sweep.train(cells)
        board = sweep.leaderboard(cells, records, baseline=1, n_resamples=0)
        assert sweep.finished(sweep.plan(cells))[0] == records
    failed = board.rows[1]
    assert board.rows[0].failed == ()
    assert failed.failed == ("seed 0: the loss is nan in epoch 1",)
    assert failed.rank is None
