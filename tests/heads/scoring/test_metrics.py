from __future__ import annotations

import numpy as np
import pytest

from heads.scoring.metrics import compute_metrics, expected_calibration_error

LABELS = np.array([0, 0, 1, 1, 1], dtype=np.int8)
SCORES = np.array([0.1, 0.6, 0.4, 0.7, 0.9])


def test_counts_and_scores() -> None:
    m = compute_metrics(LABELS, SCORES, threshold=0.5)
    assert (m.true_negatives, m.false_positives, m.false_negatives, m.true_positives) == (1, 1, 1, 2)
    assert m.accuracy == pytest.approx(3 / 5)
    assert m.precision == m.recall == m.f1 == pytest.approx(2 / 3)
    assert m.auroc == pytest.approx(5 / 6)
    assert m.brier == pytest.approx(np.mean((SCORES - LABELS) ** 2))
    assert m.as_dict()["n_positive"] == 3


def test_a_score_at_the_threshold_is_flagged() -> None:
    assert compute_metrics(LABELS, SCORES, threshold=0.7).true_positives == 2


def test_every_video_may_have_its_own_threshold() -> None:
    own = compute_metrics(LABELS, SCORES, threshold=np.array([0.05, 0.7, 0.4, 0.7, 0.95]))
    assert (own.true_negatives, own.false_positives, own.false_negatives, own.true_positives) == (1, 1, 1, 2)
    assert own.threshold is None
    assert own.threshold_words == "each video's own threshold"
    one = compute_metrics(LABELS, SCORES, threshold=0.5)
    assert one.threshold_words == "threshold 0.500"
    assert compute_metrics(LABELS, SCORES, threshold=np.full(5, 0.5)).f1 == one.f1
    with pytest.raises(ValueError, match="must be one number or"):
        compute_metrics(LABELS, SCORES, threshold=np.array([0.5]))


def test_undefined_is_none_never_zero() -> None:
    nothing_flagged = compute_metrics(LABELS, SCORES, threshold=0.95)
    assert nothing_flagged.precision is None
    assert nothing_flagged.recall == 0
    assert nothing_flagged.f1 == 0
    negatives = compute_metrics(np.zeros(3, np.int8), np.array([0.1, 0.2, 0.3]), threshold=0.5)
    assert negatives.recall is negatives.f1 is negatives.auroc is negatives.average_precision is None
    assert negatives.accuracy == 1
    positives = compute_metrics(np.ones(2, np.int8), np.array([0.1, 0.9]), threshold=0.5)
    assert positives.auroc is None
    assert positives.recall == 0.5


def test_ece_by_hand() -> None:
    labels = np.array([0, 1, 1, 1], dtype=np.int8)
    scores = np.array([0.05, 0.05, 0.95, 0.85])
    # bins: two at 0.05 with half positive; 0.85 and 0.95 each in a bin of its own
    assert expected_calibration_error(labels, scores, bins=10) == pytest.approx((2 * 0.45 + 0.15 + 0.05) / 4)
    assert expected_calibration_error(np.ones(2, np.int8), np.ones(2)) == 0
    assert expected_calibration_error(np.zeros(2, np.int8), np.array([0.0, 0.0])) == 0


def test_ece_weights_match_its_bins_on_bin_edges() -> None:
    scores = np.linspace(0, 1, 31)
    labels = (np.arange(31) % 2).astype(np.int8)
    assert 0 <= expected_calibration_error(labels, scores) <= 1


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([], []), ([0, 1], [0.5]), ([0, -1], [0.1, 0.2]), ([0, 1], [0.1, 1.2]), ([0, 1], [0.1, np.nan])],
)
def test_bad_input_is_refused(labels: list[int], scores: list[float]) -> None:
    with pytest.raises(ValueError, match="must"):
        compute_metrics(np.array(labels, np.int8), np.array(scores, np.float64), threshold=0.5)
