from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from cache.errors import LabelError
from heads.scoring.cuts import ResampledScores, cut_points

scored = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 0.9, 1.0]), st.integers(0, 3)),
    min_size=2,
    max_size=25,
)


def test_cuts_flag_nothing_last_and_everything_first() -> None:
    cuts = cut_points(np.array([0, 1, 1, 0], np.int8), np.array([0.2, 0.2, 0.8, 0.6]))
    assert cuts.low.tolist() == [0, 0.2, 0.6, 0.8]
    assert cuts.high.tolist() == [0.2, 0.6, 0.8, 1.0]
    assert cuts.precision.tolist() == [0.5, 0.5, 1, 1]
    assert cuts.recall.tolist() == [1, 0.5, 0.5, 0]
    assert cuts.false_alarms.tolist() == [2, 1, 0, 0]


def test_no_positive_is_an_error() -> None:
    with pytest.raises(LabelError, match="without a single positive"):
        cut_points(np.zeros(3, np.int8), np.array([0.1, 0.2, 0.3]))


@settings(deadline=None)
@given(scored)
def test_weighted_numbers_are_scikit_learns(drawn: list[tuple[bool, float, int]]) -> None:
    labels = np.array([d[0] for d in drawn], np.int8)
    scores = np.array([d[1] for d in drawn])
    weights = np.array([d[2] for d in drawn], np.float64)
    resampled = ResampledScores(labels, scores)
    rows = np.repeat(np.arange(len(drawn)), weights.astype(int))
    one = weights[None]
    if len(set(labels[rows])) < 2:
        assert np.isnan(resampled.auroc(one)[0])
        assert np.isnan(resampled.average_precision(one)[0])
        assert np.isnan(resampled.cuts(one).recall[0]).all()
        return
    assert resampled.auroc(one)[0] == pytest.approx(roc_auc_score(labels[rows], scores[rows]))
    assert resampled.average_precision(one)[0] == pytest.approx(
        average_precision_score(labels[rows], scores[rows])
    )
    assert resampled.f1_at(0.5, one)[0] == pytest.approx(f1_score(labels[rows], scores[rows] >= 0.5))
    plain, weighted = cut_points(labels[rows], scores[rows]), resampled.cuts(one)
    own = np.linspace(0.1, 0.9, len(drawn))
    assert resampled.f1_at(own, one)[0] == pytest.approx(
        f1_score(labels[rows], scores[rows] >= own[rows], zero_division=0)
    )
    for k, high in enumerate(plain.high):
        place = int(np.searchsorted(weighted.high, high))
        assert weighted.precision[0, place] == pytest.approx(plain.precision[k])
        assert weighted.recall[0, place] == pytest.approx(plain.recall[k])
        assert weighted.false_alarms[0, place] == pytest.approx(plain.false_alarms[k])


def test_f1_is_undefined_without_positives_and_flags() -> None:
    resampled = ResampledScores(np.array([0, 1], np.int8), np.array([0.1, 0.2]))
    assert np.isnan(resampled.f1_at(0.5, np.array([[1.0, 0.0]]))[0])
