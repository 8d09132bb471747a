from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cache.reader import Cache
from heads.data.dataset import load_dataset
from heads.models.ensemble import HeadEnsemble
from heads.training.config import TrainConfig
from heads.training.cross_validation import cross_validate
from heads.training.fit import predict_logits
from heads.training.jobs import calibrated_weights, member_logits
from heads.training.out_of_fold import history_rows, mean_history, mean_of_folds, refit


@pytest.fixture
def brief(quick: TrainConfig) -> TrainConfig:
    return quick.updated({"epochs": 2, "n_resamples": 0})


def test_the_mean_of_folds_is_their_mean(toy_cache: Cache, brief: TrainConfig) -> None:
    data = load_dataset(toy_cache, separate_streams=True)
    rows = np.arange(len(data))
    for settings in ({"delta": "beside", "join": "late"}, {"model": "fusion", "depth": 1, "width": 16}):
        heads = cross_validate(data, brief.updated(settings), k=3).heads
        each = [predict_logits(result.model, data.tokens, rows) for result in heads.results]
        together = predict_logits(mean_of_folds(data, heads), data.tokens, rows)
        np.testing.assert_allclose(together, np.mean(each, axis=0), atol=1e-5)


def test_a_streams_temperature_is_never_of_the_fold_that_it_weighs(
    toy_cache: Cache, brief: TrainConfig
) -> None:
    data = load_dataset(toy_cache, separate_streams=True)
    heads = cross_validate(data, brief.updated({"delta": "beside", "join": "late"}), k=3).heads
    found, labels = [], []
    for (_, fold), result in zip(heads.folds, heads.results, strict=True):
        assert isinstance(result.model, HeadEnsemble)
        found.append(member_logits(result.model, data.tokens, fold))
        labels.append(data.labels[fold])
    for number, (_, fold) in enumerate(heads.folds):
        others = [i for i in range(3) if i != number]
        weights = calibrated_weights(
            np.concatenate([found[i] for i in others], axis=1), np.concatenate([labels[i] for i in others])
        )
        np.testing.assert_allclose(heads.logits[fold], weights @ found[number], rtol=1e-6)
    model = refit(data, heads)
    assert isinstance(model, HeadEnsemble)
    expected = calibrated_weights(np.concatenate(found, axis=1), np.concatenate(labels))
    np.testing.assert_allclose(model.weights.numpy(), expected, rtol=1e-6)


def test_a_fold_of_one_class_has_a_history_of_training_videos() -> None:
    labels = np.array([0, 0, 1, 1, 1, 0], np.int8)
    rest, both, one_class = np.array([1, 0, 4]), np.array([5, 3]), np.array([2, 3])
    assert history_rows(labels, rest, both).tolist() == [3, 5]
    assert history_rows(labels, rest, one_class).tolist() == [1, 4]


def test_the_history_of_folds_is_their_mean(toy_cache: Cache, brief: TrainConfig) -> None:
    data = load_dataset(toy_cache, separate_streams=False)
    first, second = cross_validate(data, brief, k=2).heads.results
    undefined = replace(second, history=tuple(replace(row, auroc=None) for row in second.history))
    rows = mean_history([first, undefined])
    assert [row.epoch for row in rows] == [1, 2]
    for row, one, other in zip(rows, first.history, second.history, strict=True):
        assert row.val_loss == pytest.approx((one.val_loss + other.val_loss) / 2)
        assert row.auroc == one.auroc
