from __future__ import annotations

import csv
import html
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from cache.errors import HeadError, LabelError
from cache.reader import Cache, open_cache
from heads.ablation.grid import make_cells
from heads.ablation.sweep import Sweep
from heads.cli.train import main
from heads.data.dataset import HeadDataset, load_dataset
from heads.report.outputs import write_training
from heads.report.page import facts, result_tables
from heads.scoring.calibration import probabilities
from heads.scoring.floors import FLOORS
from heads.scoring.thresholds import choose_threshold
from heads.train import Ensemble, train_head
from heads.trained.head import TrainedHead
from heads.training import out_of_fold
from heads.training.batched import FitJob
from heads.training.config import TrainConfig
from heads.training.cross_validation import CrossValidation, FoldResult, cross_validate
from tests.heads.synthetic import features, toy_videos, write_cache


@pytest.fixture(scope="module")
def split_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 videos in train and val, 12 in test, 2 without a label."""
    rng = np.random.default_rng(5)
    videos = toy_videos(48, signal=1.0)
    videos += [
        features(i, label=(i // 2) % 2, rng=rng, split="test", source=f"other{i // 2}") for i in range(60, 72)
    ]
    videos += [features(i, label=-1, rng=rng, split="train") for i in range(80, 82)]
    return write_cache(tmp_path_factory.mktemp("cv") / "c.zarr", videos)


@pytest.fixture
def split_cache(split_path: Path) -> Iterator[Cache]:
    with open_cache(split_path) as cache:
        yield cache


@pytest.fixture
def brief(quick: TrainConfig) -> TrainConfig:
    return quick.updated({"epochs": 2})


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[list[FitJob]]:
    """What trained together, pack by pack."""
    seen: list[list[FitJob]] = []
    real = out_of_fold.fit_jobs

    def recording(tokens: object, labels: object, jobs: list[FitJob], **options: object) -> object:
        seen.append(list(jobs))
        return real(tokens, labels, jobs, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(out_of_fold, "fit_jobs", recording)
    return seen


def load(cache: Cache) -> HeadDataset:
    return load_dataset(cache, separate_streams=False)


def same(one: CrossValidation, other: CrossValidation) -> None:
    assert one.as_dict() == other.as_dict()
    for name in ("labels", "folds", "probabilities", "thresholds"):
        np.testing.assert_array_equal(getattr(one.table, name), getattr(other.table, name))


def test_no_head_saw_what_it_scores(split_cache: Cache, brief: TrainConfig, jobs: list[list[FitJob]]) -> None:
    data = load(split_cache)
    told: list[FoldResult] = []
    found = cross_validate(data, brief, k=4, on_fold=told.append)
    (pack,) = jobs
    row_of = {video_id: row for row, video_id in enumerate(data.ids)}
    kept = [row_of[video_id] for video_id in found.table.ids]
    for number, job in enumerate(pack, start=1):
        seen = job.train
        held_out = [row for row, fold in zip(kept, found.table.folds, strict=True) if fold == number]
        assert not {data.groups[row] for row in seen} & {data.groups[row] for row in held_out}
        assert {data.splits[row] for row in seen} == {"train", "val"}
        assert sorted([*seen, *held_out]) == kept
        assert job.config.selection == "last"
        assert job.val.tolist() == held_out
        assert len(held_out) == told[number - 1].n
    assert tuple(told) == found.folds
    assert [fold.number for fold in found.folds] == [1, 2, 3, 4]


def test_counts_add_up(split_cache: Cache, brief: TrainConfig) -> None:
    found = cross_validate(load(split_cache), brief, k=3)
    labelled, test = 60, 12
    assert len(found.table) == found.head.metrics.n == labelled - test
    assert sum(fold.n for fold in found.folds) == labelled - test
    assert {floor.metrics.n for floor in found.floors} == {labelled - test}
    assert len(set(found.table.ids)) == labelled - test
    assert list(found.table.ids) == sorted(found.table.ids)
    assert not any(video_id.startswith("test/") for video_id in found.table.ids)
    assert "2 of 62 videos have no label and are left out" in found.notes


def test_decisions_are_by_what_the_other_folds_choose(split_cache: Cache, brief: TrainConfig) -> None:
    found = cross_validate(load(split_cache), brief, k=3)
    table = found.table
    own = {fold.number: fold.threshold for fold in found.folds}
    assert table.thresholds.tolist() == [own[fold] for fold in table.folds.tolist()]
    for number, threshold in own.items():
        others = table.folds != number
        assert choose_threshold(table.labels[others], table.probabilities[others]).threshold == threshold
    expected = probabilities(table.logits, temperature=found.calibration.temperature)
    assert table.probabilities.tolist() == expected.tolist()
    metrics = found.head.metrics
    assert metrics.threshold is None
    assert metrics.f1 == pytest.approx(f1_score(table.labels, table.flagged))
    assert metrics.auroc == pytest.approx(roc_auc_score(table.labels, table.probabilities))
    assert found.head.intervals["f1"] is not None
    assert metrics.f1 in found.head.intervals["f1"]
    over_all = choose_threshold(table.labels, table.probabilities)
    assert found.threshold.threshold == over_all.threshold
    assert found.threshold.interval is not None
    assert found.threshold.interval.n_groups == len(set(table.groups))
    assert [floor.name for floor in found.floors] == list(FLOORS)
    assert {evaluation.part for evaluation in (found.head, *found.floors)} == {"out-of-fold"}


def test_the_folds_are_those_of_a_sweep(toy_cache: Cache, brief: TrainConfig, tmp_path: Path) -> None:
    config = brief.updated({"seed": 3})
    data = load(toy_cache)
    found = cross_validate(data, config, k=3)
    with Sweep(toy_cache, config, out=tmp_path, n_seeds=1, cv=3) as sweep:
        runs = sweep.plan(make_cells(config, [])[0])
    for number, run in enumerate(runs, start=1):
        own = np.array(found.table.ids)[found.table.folds == number]
        assert own.tolist() == [data.ids[row] for row in run.scored]


@pytest.mark.slow
def test_packs_and_repetition_change_nothing(
    toy_cache: Cache, brief: TrainConfig, jobs: list[list[FitJob]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(toy_cache)
    together = cross_validate(data, brief, k=5)
    same(together, cross_validate(data, brief, k=5))
    monkeypatch.setattr(out_of_fold, "heads_together", lambda **options: 2)
    jobs.clear()
    same(together, cross_validate(data, brief, k=5))
    assert [len(pack) for pack in jobs] == [2, 2, 1]


@pytest.mark.parametrize(
    ("settings", "ensemble"),
    [
        ({}, "folds"),
        ({"model": "logistic"}, "folds"),
        ({"delta": "beside", "join": "late"}, "refit"),
        ({"model": "mlp", "pool": "std"}, "folds"),
        *[
            pytest.param(*others, marks=pytest.mark.slow)
            for others in (
                ({}, "refit"),
                ({"model": "logistic"}, "refit"),
                ({"delta": "beside", "join": "late"}, "folds"),
                ({"model": "mlp", "pool": "std"}, "refit"),
            )
        ],
    ],
)
def test_what_folds_choose_is_what_the_head_has(
    split_cache: Cache, brief: TrainConfig, tmp_path: Path, ensemble: Ensemble, settings: dict[str, str]
) -> None:
    config = TrainConfig(n_resamples=20) if settings.get("model") == "logistic" else brief
    head = train_head(split_cache, config.updated(settings), cv=3, ensemble=ensemble)
    assert head.training is not None
    folds = head.training.cross_validation
    assert folds is not None
    assert head.info.threshold == folds.threshold
    assert head.info.temperature == folds.calibration.temperature
    assert head.info.trained_on["chosen_on"] == "out-of-fold"
    assert head.info.trained_on["counts"] == {
        "train": {"NonFight": 24, "Fight": 24},
        "test": {"NonFight": 6, "Fight": 6},
    }
    assert head.info.members == (3 if ensemble == "folds" else 1)
    assert [e.part for e in head.training.evaluations] == ["out-of-fold", "test", "train"]
    assert {(f.name, f.part) for f in head.training.floors} == {
        (name, part) for name in FLOORS for part in ("out-of-fold", "test")
    }
    assert len(head.info.notes) == len(set(head.info.notes))

    again = train_head(split_cache, config.updated(settings), cv=3, ensemble=ensemble)
    for one, name in ((head, "one"), (again, "again")):
        one.save(tmp_path / name)
    for file in ("head.json", "head.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    loaded = TrainedHead.load(tmp_path / "one")
    np.testing.assert_array_equal(
        loaded.predict(split_cache).probabilities, head.predict(split_cache).probabilities
    )


def test_too_few_source_groups_are_an_error_before_anything_is_trained(
    split_cache: Cache, brief: TrainConfig, jobs: list[list[FitJob]]
) -> None:
    with pytest.raises(LabelError, match="20 of each are needed"):
        train_head(split_cache, brief, cv=20)
    with pytest.raises(LabelError, match="folds must be between 2 and 50, got 1"):
        train_head(split_cache, brief, cv=1)
    assert jobs == []


def test_a_fold_that_diverges_is_named(
    toy_cache: Cache, brief: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = out_of_fold.fit_jobs

    def exploding(*arguments: object, **options: object) -> list[object]:
        first, _, *rest = real(*arguments, **options)  # type: ignore[arg-type]
        return [first, HeadError("the loss is nan in epoch 1; lower --lr"), *rest]

    monkeypatch.setattr(out_of_fold, "fit_jobs", exploding)
    with pytest.raises(HeadError, match="fold 2 of 3: the loss is nan in epoch 1; lower --lr"):
        cross_validate(load(toy_cache), brief, k=3)


def test_a_head_that_knows_nothing_says_so(tmp_path: Path, brief: TrainConfig) -> None:
    blind = brief.updated({"lr": 1e-6, "threshold.grid": "coarse", "calibration": "none"})
    with open_cache(write_cache(tmp_path / "c.zarr", toy_videos(32, signal=0.0))) as cache:
        found = cross_validate(load(cache), blind, k=3)
    text = "\n".join(found.notes)
    assert "intervals on out-of-fold videos: rough: 8 source groups of the rarer class" in text
    assert "no better than" in text
    assert "floor on out-of-fold videos" in text
    one_class = [str(fold.number) for fold in found.folds if fold.degenerate]
    assert (f"DEGENERATE: without fold {', '.join(one_class)} of 3" in text) == bool(one_class)


def test_the_report_shows_it_after_test(split_cache: Cache, brief: TrainConfig) -> None:
    head = train_head(split_cache, brief, cv=3)
    record = head.training
    assert record is not None
    tables = result_tables(record)
    assert [table.title.split(":")[0] for table in tables] == ["test", "out-of-fold", "train"]
    assert [name for name, _ in tables[1].rows] == ["head", *FLOORS]
    assert "a head that was trained without its fold" in tables[1].title
    found = dict(facts(head, record))
    assert "3 folds, 48 videos" in found["cross-validation"]
    assert "on out-of-fold" in found["threshold"]
    assert "the mean of the heads of 3 folds" in found["selection"]


@pytest.mark.usefixtures("without_figures")
def test_an_earlier_file_of_folds_does_not_stay(toy_cache: Cache, brief: TrainConfig, tmp_path: Path) -> None:
    brief = brief.updated({"n_resamples": 0})
    written = write_training(train_head(toy_cache, brief, cv=2), tmp_path)
    assert written["cross-validation"].is_file()
    assert "cross-validation" not in write_training(train_head(toy_cache, brief), tmp_path)
    assert not (tmp_path / "cross_validation.csv").exists()
    assert json.loads((tmp_path / "metrics.json").read_text())["cross_validation"] is None


@pytest.mark.usefixtures("without_figures")
def test_from_the_command_line(
    toy_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "h"

    def run(*words: object) -> str:
        quick = ("--epochs", 2, "--batch-size", 8, "--set", "n_resamples=20", "--device", "cpu")
        arguments = ("train-head", "--features", toy_path, "--out", out, *quick, *words)
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        return capsys.readouterr().out

    assert "--cv K" in run("--no-cv")
    said = run("--model", "attention-pool", "--cv", 3)
    assert "--cv K" not in said
    said = " ".join(said.split())  # a title may be wrapped
    for words in (
        "fold 3 of 3: 20 videos",
        "out-of-fold: 60 videos, 30 positive; each video was scored by a head that was trained without its fold",
        "thresholds that decided them, each chosen on the others: 0.",
        "by F1 on out-of-fold",
        "the mean of the heads of 3 folds",
        "over pairs of one fold",
        "on train AUROC",
        "cross_validation.csv",
    ):
        assert words in said
    assert said.index("fold 3 of 3") < said.index("out-of-fold: 60")
    assert "val loss" not in said

    stored = json.loads((out / "metrics.json").read_text())["cross_validation"]
    assert set(stored) == {
        "k",
        "head",
        "floors",
        "calibration",
        "threshold",
        "within_folds",
        "folds",
        "notes",
    }
    assert stored["k"] == len(stored["folds"]) == 3
    assert set(stored["floors"]) == set(FLOORS)
    with (out / "cross_validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "label", "fold", "probability", "threshold", "decision"]
    assert len(rows) == 60
    assert (
        sum(row["label"] == row["decision"] == "Fight" for row in rows)
        == (stored["head"]["metrics"]["true_positives"])
    )
    for row in rows:
        assert (float(row["probability"]) >= float(row["threshold"])) == (row["decision"] == "Fight")
        assert float(row["threshold"]) == stored["folds"][int(row["fold"]) - 1]["threshold"]
    page = html.unescape((out / "report.html").read_text())
    assert "out-of-fold: 60 videos, 30 positive" in page
    assert all(note in page for note in stored["notes"])


def test_pairs_of_one_fold_compare_no_two_heads(split_cache: Cache, brief: TrainConfig) -> None:
    """Scales of the folds' heads count in the pooled AUROC and not within folds."""
    data = load_dataset(split_cache, separate_streams=False)
    found = cross_validate(data, brief, k=3)
    table = found.table
    own = [
        (p > n) + (p == n) / 2
        for number in (1, 2, 3)
        for p in table.logits[(table.folds == number) & (table.labels == 1)]
        for n in table.logits[(table.folds == number) & (table.labels == 0)]
    ]
    assert found.within_folds.auroc == pytest.approx(np.mean(own))
    assert found.within_folds.n_pairs == len(own)
    assert found.as_dict()["within_folds"]["auroc"] == found.within_folds.auroc
