from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import HeadError
from cache.reader import Cache
from heads import ablate_work
from heads.ablate import Sweep
from heads.ablate_grid import make_cells, read_axes
from heads.ablate_runs import Run
from heads.ablate_work import MOST_HEADS, Stopped, Trainer, WorkSettings, choose_jobs, make_packs, view_of
from heads.config import TrainConfig


@pytest.fixture
def runs(toy_cache: Cache, quick: TrainConfig, tmp_path: Path) -> list[Run]:
    cells, _ = make_cells(
        quick, read_axes(["lr=1e-4,1e-3,1e-2", "streams=clip,clip+slowfast", "model=mlp,linear,fusion"])
    )
    with Sweep(toy_cache, quick, out=tmp_path, n_seeds=4) as sweep:
        return sweep.plan(cells)


def test_packs_hold_every_run_once_and_one_view_each(runs: list[Run]) -> None:
    for jobs in (1, 2, 5):
        packs = make_packs(runs, jobs=jobs, longest=5)
        assert sorted(run.key for pack in packs for run in pack) == sorted(run.key for run in runs)
        assert all(len({view_of(run.config) for run in pack}) == 1 for pack in packs)
        assert max(map(len, packs)) <= MOST_HEADS
        assert len(packs) >= jobs


def test_runs_that_share_batches_stand_together(runs: list[Run]) -> None:
    pack = next(pack for pack in make_packs(runs, jobs=1, longest=5) if len(pack) >= 6)
    order = [(run.config.model.architecture, run.config.seed) for run in pack]
    assert len(set(order)) < len(order)
    assert [a for i, a in enumerate(order) if a not in order[:i]] == sorted(set(order))


def test_long_videos_leave_room_for_fewer_heads(runs: list[Run]) -> None:
    assert {len(pack) for pack in make_packs(runs, jobs=1, longest=5000)} == {1}


def test_processes_are_started_where_there_is_work_for_them(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablate_work, "_cores", lambda: 8)
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
    real = ablate_work.fit_together

    def exploding(*arguments: object, **options: object) -> list[object]:
        results: list[object] = list(real(*arguments, **options))  # type: ignore[arg-type]
        return [HeadError("the loss is nan in epoch 1"), *results[1:]]

    monkeypatch.setattr(ablate_work, "fit_together", exploding)
    with Sweep(toy_cache, quick, out=tmp_path) as sweep:
        records = sweep.train(cells)
        board = sweep.leaderboard(cells, records, baseline=1, n_resamples=0)
        assert sweep.finished(sweep.plan(cells))[0] == records
    failed = board.rows[1]
    assert board.rows[0].failed == ()
    assert failed.failed == ("seed 0: the loss is nan in epoch 1",)
    assert failed.rank is None
