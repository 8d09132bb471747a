from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from cache.errors import InputError
from cache.reader import Cache
from heads.ablation.grid import make_cells, read_axes
from heads.ablation.leaderboard import Leaderboard, Metric, build_leaderboard
from heads.ablation.leaderboard_files import leaderboard_csv, leaderboard_html
from heads.ablation.runs import Run, RunRecord, plan_runs
from heads.data.dataset import HeadDataset, load_dataset
from heads.data.splits import FoldConfig, choose_split, fold_splits
from heads.scoring.bootstrap import group_bootstrap
from heads.scoring.cuts import ResampledScores
from heads.scoring.metrics import auroc
from heads.training.config import TrainConfig

SKILLS = {"1e-4": 0.3, "1e-3": 1.0, "1e-2": 3.0}


@pytest.fixture
def data(toy_cache: Cache) -> HeadDataset:
    return load_dataset(toy_cache, separate_streams=False)


def made(
    data: HeadDataset,
    *,
    n_seeds: int = 1,
    cv: int = 0,
    metric: Metric = "auroc",
    n_resamples: int = 200,
    fail: str = "",
) -> tuple[Leaderboard, list[Run], dict[str, RunRecord]]:
    """Records of made-up scores: noise plus the skill of a learning rate times the label."""
    cells, _ = make_cells(TrainConfig(), read_axes([f"lr={','.join(SKILLS)}"]))
    splits = (
        [fold_splits(data.labels, data.groups, config=FoldConfig(k=cv), seed=i) for i in range(n_seeds)]
        if cv
        else [[choose_split(data.labels, data.splits, data.groups)]] * n_seeds
    )
    streams = {stream.name: stream for stream in data.streams}
    runs = plan_runs(cells, splits, data, streams=streams, folds=bool(cv))
    records = {}
    for run in runs:
        rng = np.random.default_rng(run.config.seed)
        noise = rng.standard_normal(len(data))[run.scored]
        lr = run.label.removeprefix("lr=")
        logits = noise + SKILLS[lr] * data.labels[run.scored]
        record = RunRecord.failed(run, "the loss is nan", device="cpu")
        if lr != fail:
            record = replace(
                record,
                error=None,
                probabilities=tuple((1 / (1 + np.exp(-logits))).tolist()),
                threshold=0.5 + 0.01 * run.config.seed,
                threshold_by_epoch=(0.2, 0.5, 0.4),
                seconds=2.0,
                n_parameters=10,
            )
        records[run.key] = record
    board = build_leaderboard(
        cells,
        runs,
        records,
        dataset=data,
        streams=data.streams,
        floors={
            "all-positive": [
                (run.offset, replace(records[run.key], error=None, probabilities=(1.0,) * len(run.scored)))
                for run in runs[: len(splits) * len(splits[0])]
            ]
        },
        metric=metric,
        n_resamples=n_resamples,
    )
    return board, runs, records


def test_cells_are_ranked_beside_their_floors(data: HeadDataset) -> None:
    board, runs, records = made(data)
    assert [row.label for row in board.rows] == ["lr=1e-2", "lr=1e-3", "lr=1e-4"]
    assert [row.rank for row in board.rows] == [1, 2, 3]
    assert [row.is_baseline for row in board.rows] == [False, False, True]
    for row, run in zip(board.rows, reversed(runs), strict=True):
        scores = np.array(records[run.key].probabilities)
        assert row.scores["auroc"] == pytest.approx(auroc(data.labels[run.scored], scores))
    assert board.floors[0].scores["auroc"] == 0.5
    assert board.random_note
    assert "random (seed 0)" in board.weights
    assert set(board.fingerprints) == {"clip", "slowfast"}
    assert any("RANDOM" in note for note in board.notes)
    assert any("val chose" in note for note in board.notes)
    assert not any("no better than the floors" in note for note in board.notes)


def test_a_best_cell_below_a_floor_is_said(data: HeadDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    for lr, skill in {"1e-4": -1.0, "1e-3": -2.0, "1e-2": -3.0}.items():
        monkeypatch.setitem(SKILLS, lr, skill)
    (note,) = [note for note in made(data)[0].notes if "no better than the floors" in note]
    assert note.startswith(
        "the best cell, lr=1e-4, is no better than the floors all-positive (0.500): AUROC 0."
    )


def test_the_difference_to_the_baseline_is_paired(data: HeadDataset) -> None:
    """Its interval is that of the difference on the same draws, far narrower than the two intervals apart."""
    board, runs, records = made(data, n_resamples=400)
    labels = data.labels[runs[0].scored]
    groups = [data.groups[row] for row in runs[0].scored]
    scores = [np.array(records[run.key].probabilities) for run in (runs[1], runs[0])]
    (expected,) = group_bootstrap(
        groups,
        lambda w: (ResampledScores(labels, scores[0]).auroc(w) - ResampledScores(labels, scores[1]).auroc(w))[
            :, None
        ],
        n_resamples=400,
    )
    row = next(row for row in board.rows if row.label == "lr=1e-3")
    assert expected is not None
    assert row.delta_interval is not None
    assert (row.delta_interval.low, row.delta_interval.high) == pytest.approx((expected.low, expected.high))
    assert row.delta == pytest.approx((row.scores["auroc"] or 0) - (board.rows[-1].scores["auroc"] or 0))
    assert board.rows[-1].delta is None
    assert board.rows[-1].delta_interval is None
    assert board.rows[0].differs


@pytest.mark.parametrize("metric", ["auroc", "average_precision", "f1"])
def test_seeds_and_folds_are_summed_up(data: HeadDataset, metric: Metric) -> None:
    board, _, _ = made(data, n_seeds=3, cv=4, metric=metric)
    row = board.rows[0]
    assert board.n_videos == 60
    assert row.n_runs == 12
    assert row.seconds == pytest.approx(24.0)
    assert row.seed_sd is not None
    assert row.seed_sd > 0
    assert (row.threshold_low, row.threshold_high) == (0.5, 0.52)
    assert row.threshold_drift == pytest.approx(0.2)
    assert row.interval is not None
    assert row.scores[metric] is not None
    assert row.scores[metric] in row.interval
    assert "4 folds" in board.split


def test_f1_uses_each_folds_own_threshold(data: HeadDataset) -> None:
    board, runs, records = made(data, cv=3, metric="f1", n_resamples=0)
    truth, flagged = [], []
    for run in runs:
        if run.number == 2:
            record = records[run.key]
            truth += data.labels[run.scored].tolist()
            flagged += (np.array(record.probabilities) >= record.threshold).astype(int).tolist()
    from sklearn.metrics import f1_score

    row = next(row for row in board.rows if row.label == "lr=1e-2")
    assert row.scores["f1"] == pytest.approx(f1_score(truth, flagged))
    assert row.interval is None


def test_a_failed_cell_stands_last_without_a_rank(data: HeadDataset) -> None:
    board, _, _ = made(data, fail="1e-2")
    assert [row.label for row in board.rows] == ["lr=1e-3", "lr=1e-4", "lr=1e-2"]
    assert board.rows[-1].rank is None
    assert board.rows[-1].failed == ("seed 0: the loss is nan",)
    assert board.rows[-1].scores["auroc"] is None
    failed_baseline, _, _ = made(data, fail="1e-4")
    assert [row.delta for row in failed_baseline.rows] == [None, None, None]


def test_unfinished_sweeps_and_unknown_metrics_are_refused(data: HeadDataset) -> None:
    _, runs, records = made(data)
    cells, _ = make_cells(TrainConfig(), read_axes([f"lr={','.join(SKILLS)}"]))
    options = {"dataset": data, "streams": data.streams, "floors": {}}
    with pytest.raises(InputError, match="3 runs are not finished"):
        build_leaderboard(cells, runs, {}, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="metric must be"):
        build_leaderboard(cells, runs, records, metric="accuracy", **options)  # type: ignore[arg-type]


def test_rough_intervals_are_named(data: HeadDataset) -> None:
    """The toy's val has fewer than 20 source groups of each class."""
    board, _, _ = made(data)
    assert all(row.interval is not None and row.interval.rough for row in board.rows)
    (note,) = [note for note in board.notes if note.startswith("intervals on the scored videos")]
    assert "of the rarer class" in note
    rows = csv.DictReader(io.StringIO(leaderboard_csv(board).decode()))
    assert {row["rough"] for row in rows if row["kind"] == "cell"} == {"1"}
    assert "]~" in leaderboard_html(board).decode()
    silent, _, _ = made(data, n_resamples=0)
    assert not [note for note in silent.notes if note.startswith("intervals on")]
