from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from cache.errors import InputError, LabelError
from cache.reader import Cache, open_cache
from heads.cli.train import choose_auto, main, read_ensemble
from heads.data.dataset import HeadDataset, load_dataset
from heads.train import train_head
from heads.trained.head import TrainedHead
from heads.training import portfolio
from heads.training.config import TrainConfig
from heads.training.cross_validation import folds_of
from heads.training.out_of_fold import FoldHeads
from heads.training.portfolio import (
    MODELS,
    affordable_folds,
    candidates,
    compare,
    judge,
    operations,
    usual_folds,
)
from tests.heads.synthetic import toy_videos, write_cache

QUICK = TrainConfig(n_resamples=0).updated({"epochs": 2, "batch_size": 8})


@pytest.fixture
def data(toy_cache: Cache) -> HeadDataset:
    return load_dataset(toy_cache, separate_streams=True)


def made_up(data: HeadDataset, quality: float, seed: int) -> FoldHeads:
    """Fold heads of which only logits matter: the label and noise."""
    rng = np.random.default_rng(seed)
    folds, _ = folds_of(data, QUICK, k=5, rows=np.arange(len(data)))
    fold_of = np.ones(len(data), dtype=np.int64)
    return FoldHeads(QUICK, folds, (), fold_of, data.labels * quality + rng.standard_normal(len(data)))


def test_the_simplest_within_one_standard_error_is_taken(data: HeadDataset) -> None:
    names = list(MODELS)
    recipes = candidates(QUICK)
    blind, good, better = (made_up(data, quality, seed) for seed, quality in enumerate((0.0, 2.0, 2.0)))
    noise = np.random.default_rng(5).standard_normal(len(data))
    better.logits[:] = good.logits + 0.3 * noise  # better or worse by no more than noise
    rows, taken = judge(
        data, recipes, dict(zip(names, (blind, good, better), strict=False)), dict.fromkeys(names[3:], "no")
    )
    assert taken == names[1]
    assert [row.taken for row in rows] == [name == names[1] for name in names]
    assert rows[0].difference is not None and rows[0].standard_error is not None
    assert rows[0].difference > rows[0].standard_error
    assert [row.note for row in rows[3:]] == ["no"] * 3
    rows, taken = judge(data, recipes, {names[0]: good, names[1]: blind}, dict.fromkeys(names[2:], "no"))
    assert taken == names[0]
    assert rows[0].best and rows[0].standard_error == 0


def test_all_are_compared_on_the_same_folds(data: HeadDataset) -> None:
    told: list[str] = []
    folds, _ = folds_of(data, QUICK, k=3, rows=np.arange(len(data)))
    found = compare(data, QUICK, folds, on_row=lambda name, _: told.append(name))
    assert told == list(MODELS)
    assert [row.name for row in found.rows] == list(MODELS)
    assert found.heads.folds is folds
    (taken,) = (row for row in found.rows if row.taken)
    assert candidates(QUICK)[taken.name] == found.config
    assert all(row.auroc is not None and row.auroc > 0.6 for row in found.rows)


def test_what_would_take_too_long_is_left_out_and_said(
    data: HeadDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds, _ = folds_of(data, QUICK, k=3, rows=np.arange(len(data)))
    asked = {name: operations(own, data, folds) for name, own in candidates(QUICK).items()}
    assert asked["logistic"] == 0
    assert asked["transformer with change"] > asked["mlp on mean-std"] > 0
    monkeypatch.setattr(portfolio, "MOST_OPERATIONS", asked["mlp on mean-std"])
    found = compare(data, QUICK, folds)
    left_out = {row.name: row.note for row in found.rows if row.note}
    assert list(left_out) == ["attention-pool with change", "transformer with change"]
    assert "--model transformer tries it" in left_out["transformer with change"]
    named = QUICK.updated({"model": "transformer", "width": 128})
    assert affordable_folds(data, named, np.arange(len(data)), auto=False) is None
    assert affordable_folds(data, named, np.arange(len(data)), auto=True) == 5


def test_folds_are_as_many_as_groups_allow(data: HeadDataset) -> None:
    rows = np.arange(len(data))
    assert usual_folds(data, rows) == 5
    few = rows[np.isin(data.groups, ["source0", "source1", "source2", "source3", "source4", "source5"])]
    assert usual_folds(data, few) == 3
    with pytest.raises(
        LabelError, match="1 source groups with negatives and 1 with positives: too few for folds"
    ):
        usual_folds(data, rows[np.isin(data.groups, ["source0", "source1"])])


@pytest.mark.slow
def test_features_without_change_are_not_lost(tmp_path: Path) -> None:
    """Where only means tell the classes apart, as in these made-up videos, auto is no worse than the mean-pooled floor."""
    with open_cache(write_cache(tmp_path / "c.zarr", toy_videos(80, signal=0.8, val_share=0.2))) as cache:
        head = train_head(cache, cv=3)
    assert head.training is not None
    own = head.training.evaluations[0].metrics.auroc or 0
    floors = {f.name: f.metrics.auroc or 0 for f in head.training.floors}
    assert own > floors["mean-pooled"] - 0.05
    assert [row["name"] for row in head.info.portfolio] == list(MODELS)


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_from_the_command_line(
    toy_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train-head", "--features", str(toy_path), "--out", str(tmp_path), "--epochs", "2", "--cv", "3"]
    monkeypatch.setattr(sys, "argv", [*words, "--set", "n_resamples=20", "--batch-size", "8"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    said = capsys.readouterr().out
    assert "models compared out of fold" in said
    assert all(f"{name} " in said for name in MODELS)
    assert "taken" in said
    assert "out-of-fold chose (the model too, of 6: that makes its scores a little too good)" in said
    head = TrainedHead.load(tmp_path)
    assert sum(row["taken"] for row in head.info.portfolio) == 1
    assert "compared out of fold" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "epochs"),
    [
        ((), 20),
        (("--epochs", "40"), 40),
        (("--set", "epochs=40"), 40),
        (("--set", "optim.epochs=30"), 30),
        (("--model", "mlp"), 40),
    ],
)
def test_epochs_that_are_asked_for_are_trained(
    toy_path: Path, tmp_path: Path, words: tuple[str, ...], epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TrainConfig] = []
    monkeypatch.setattr("heads.cli.run.train_from_cache", lambda _, config, **__: asked.append(config))
    monkeypatch.setattr(
        sys, "argv", ["train-head", "--features", str(toy_path), "--out", str(tmp_path / "h"), *words]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    (config,) = asked
    assert config.optim.epochs == epochs
    if "--model" not in words:
        assert {
            recipe.optim.epochs for name, recipe in candidates(config).items() if "logistic" not in name
        } == {epochs}


@pytest.mark.parametrize(
    ("model", "preset", "settings", "no_cv", "expected"),
    [
        (None, "default", {}, False, True),
        ("auto", "default", {}, False, True),
        (None, "default", {"epochs": 3}, False, True),
        ("mlp", "default", {"model": "mlp"}, False, False),
        (None, "default", {"model": "mlp"}, False, False),
        (None, "default", {}, True, False),
        (None, "final-model-4", {"model": "transformer"}, False, False),
    ],
)
def test_when_models_are_compared(
    model: str | None, preset: str, settings: dict[str, object], no_cv: bool, expected: bool
) -> None:
    config = TrainConfig().updated(settings)
    assert choose_auto(model, preset, config, no_cv=no_cv) is expected


def test_options_of_a_model_need_the_model() -> None:
    with pytest.raises(InputError, match="name a --model to set one of them"):
        choose_auto(None, "default", TrainConfig().updated({"delta": "beside"}), no_cv=False)
    with pytest.raises(InputError, match="name a model with --no-cv"):
        choose_auto("auto", "default", TrainConfig(), no_cv=True)
    with pytest.raises(InputError, match="do not go together"):
        choose_auto("auto", "final-model-4", TrainConfig(), no_cv=False)
    with pytest.raises(InputError, match="logistic is a regression without epochs, batch_size, lr"):
        TrainConfig().updated({"model": "logistic", "lr": 1e-2})


def test_what_is_stored_of_folds_is_named() -> None:
    assert [read_ensemble(name) for name in (None, "folds", "refit")] == [None, "folds", "refit"]
    with pytest.raises(InputError, match="--ensemble must be folds or refit, got 'mean'"):
        read_ensemble("mean")
