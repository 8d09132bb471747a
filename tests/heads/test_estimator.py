from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedGroupKFold,
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cache.errors import InputError
from cache.reader import Cache, open_cache
from heads.data.videos import CachedVideo, SklearnData, cached_videos
from heads.estimator import HeadClassifier, MeanTokens
from heads.train import train_head
from heads.training.config import TrainConfig
from tests.heads.synthetic import features, write_cache

QUICK = {"epochs": 4, "batch_size": 8}


@pytest.fixture(scope="module")
def data(toy_path: Path) -> SklearnData:
    with open_cache(toy_path) as cache:
        return cached_videos(cache)


def expected_failures(estimator: Any) -> dict[str, str]:
    if isinstance(estimator, HeadClassifier):
        noise = "scores are float32: batches of other sizes differ by 2e-7, the check allows 1e-7"
        return {"check_methods_subset_invariance": noise}
    return {}


@parametrize_with_checks(
    [MeanTokens(), HeadClassifier(threshold=0.5, epochs=6, lr=0.01, batch_size=16)],
    expected_failed_checks=expected_failures,
    xfail_strict=True,
)
def test_scikit_learns_own_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the checks cast infinities themselves
        check(estimator)


def test_cross_validation_by_source_group(data: SklearnData) -> None:
    scores = cross_val_score(
        HeadClassifier(**QUICK),
        data.X,
        data.y,
        groups=data.groups,
        cv=StratifiedGroupKFold(3),
        scoring="roc_auc",
    )
    assert len(scores) == 3
    assert scores.min() > 0.8
    probabilities = cross_val_predict(
        HeadClassifier(**QUICK),
        data.X,
        data.y,
        groups=data.groups,
        cv=StratifiedGroupKFold(3),
        method="predict_proba",
    )
    assert probabilities.shape == (60, 2)


def test_tuned_thresholds(data: SklearnData) -> None:
    tuned = TunedThresholdClassifierCV(
        HeadClassifier(**QUICK), scoring=make_scorer(f1_score), cv=StratifiedKFold(3)
    ).fit(data.X, data.y)
    assert 0.0 < tuned.best_threshold_ < 1.0
    assert f1_score(data.y, tuned.predict(data.X)) > 0.8


def test_pipelines_and_searches(data: SklearnData) -> None:
    pooled = make_pipeline(MeanTokens(), StandardScaler(), LogisticRegression()).fit(data.X, data.y)
    assert pooled.score(data.X, data.y) > 0.8
    whole = make_pipeline(FunctionTransformer(), HeadClassifier(**QUICK)).fit(data.X, data.y)
    assert whole.predict(data.X[:3]).shape == (3,)
    search = GridSearchCV(
        HeadClassifier(**QUICK), {"model": ["linear", "mlp"], "lr": [0.01]}, cv=2, scoring="roc_auc"
    ).fit(data.X, data.y)
    assert search.best_params_["lr"] == 0.01
    only_clip = MeanTokens(streams=("clip",)).fit_transform(data.X)
    assert only_clip.shape == (60, 12)
    np.testing.assert_allclose(only_clip[0], data.X[0].tokens["clip"].values.astype(np.float64).mean(axis=0))


def test_it_is_the_head_that_train_head_trains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    videos = [features(i, label=(i // 2) % 2, rng=rng) for i in range(40)]
    config = TrainConfig().updated({"epochs": 3, "seed": 2, "n_resamples": 0})
    with open_cache(write_cache(tmp_path / "c.zarr", videos)) as cache:
        head = train_head(cache, config)
        expected = head.predict(cache)
        X, y, _ = cached_videos(cache)
    order = np.argsort([video.id for video in X])
    estimator = HeadClassifier(config).fit(X[order], y[order])
    np.testing.assert_allclose(estimator.predict_proba(X)[:, 1], expected.probabilities, rtol=1e-5)
    assert estimator.threshold_ == pytest.approx(head.info.threshold.threshold)
    assert estimator.temperature_ == pytest.approx(head.info.temperature)
    np.testing.assert_array_equal(estimator.predict(X) == 1, expected.flagged)
    np.testing.assert_array_equal(estimator.decision_function(X) >= 0, expected.flagged)


def test_no_group_is_cut_by_the_holdout(data: SklearnData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def spy(labels: Any, groups: Any, rows: Any, **options: Any) -> Any:
        seen.append(list(groups))
        raise InputError("seen")

    monkeypatch.setattr("heads.estimator.holdout", spy)
    for groups, expected in ((None, list(data.groups)), (["one"] * 60, ["one"] * 60)):
        with pytest.raises(ValueError, match="seen"):
            HeadClassifier(**QUICK).fit(data.X, data.y, groups=groups)
        assert seen[-1] == expected


def test_plain_arrays_and_names_of_classes() -> None:
    rng = np.random.default_rng(0)
    y = np.array(["safe", "violent"] * 20)
    one_stream = [
        rng.standard_normal((int(n), 6)) + (c == "violent") * 2
        for n, c in zip(rng.integers(1, 5, 40), y, strict=True)
    ]
    fitted = HeadClassifier(model="linear", settings={"pool": "max"}, **QUICK).fit(one_stream, y)
    assert fitted.classes_.tolist() == ["safe", "violent"]
    assert set(fitted.predict(one_stream)) <= {"safe", "violent"}
    assert fitted.n_features_in_ == 6
    cube = rng.standard_normal((40, 3, 6)).astype(np.float32)
    assert HeadClassifier(**QUICK).fit(cube, y).predict_proba(cube).shape == (40, 2)
    with pytest.raises(ValueError, match="fitted with"):
        fitted.predict([{"clip": one_stream[0]}])
    fixed = HeadClassifier(threshold=0.9, **QUICK).fit(one_stream, y)
    assert fixed.threshold_ == 0.9


def test_parameters_survive_cloning() -> None:
    config = TrainConfig(seed=4)
    estimator = clone(HeadClassifier(config, lr=0.02, settings={"pool": "max", "model": "mlp"}))
    found = estimator.train_config()
    assert (found.seed, found.optim.lr, found.model.pool, found.model.architecture) == (4, 0.02, "max", "mlp")
    assert clone(estimator).set_params(random_state=9).train_config().seed == 9


def test_videos_of_a_cache(toy_cache: Cache, data: SklearnData, tmp_path: Path) -> None:
    assert isinstance(data.X[0], CachedVideo)
    assert "clip" in repr(data.X[0])
    assert len(cached_videos(toy_cache, splits=["val"]).y) == 24
    with pytest.raises(InputError, match="no labelled video in split test"):
        cached_videos(toy_cache, splits=["test"])
    rng = np.random.default_rng(0)
    mixed = [features(i, label=label, rng=rng) for i, label in enumerate((1, -1, 0))]
    with open_cache(write_cache(tmp_path / "m.zarr", mixed)) as cache:
        assert cached_videos(cache).y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("X", "words"),
    [
        ([{"a": np.ones((2, 3))}, {"b": np.ones((2, 3))}], "video 1 has streams b"),
        ([np.ones((2, 3)), np.ones((2, 4))], "differ in width"),
        ([{"a": np.ones((2, 3)), "b": np.ones((2, 3))}] * 2, "need StreamTokens"),
        ([np.ones((2, 3)), np.ones((0, 3))], "T > 0"),
        (np.ones((2, 3, 4, 5)), r"\[n, T, D\]"),
        ([np.full((2, 3), np.nan), np.ones((2, 3))], "NaN"),
    ],
)
def test_videos_that_cannot_be_are_refused(X: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HeadClassifier(**QUICK).fit(X, [0, 1])


def test_what_cannot_be_trained_on_is_said(data: SklearnData) -> None:
    with pytest.raises(ValueError, match="1 class"):
        HeadClassifier(**QUICK).fit(data.X, np.ones(60))
    with pytest.raises(ValueError, match="59 labels"):
        HeadClassifier(**QUICK).fit(data.X, data.y[:-1])
    with pytest.raises(ValueError, match="threshold must be"):
        HeadClassifier(threshold=3.0).fit(data.X, data.y)
    with pytest.raises(ValueError, match="no stream audio"):
        MeanTokens(streams=("audio",)).fit(data.X)
    with pytest.raises(ValueError, match="model must be one of"):
        HeadClassifier(model="forest").fit(data.X, data.y)
