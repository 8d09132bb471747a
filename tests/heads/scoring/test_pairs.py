from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from heads.scoring.pairs import pair_score, same_source, within_parts


def test_pairs_within_parts_by_hand_and_a_constant_a_fold_is_chance() -> None:
    labels = np.array([1, 0, 1, 0, 1, 1], dtype=np.int8)
    scores = np.array([0.9, 0.1, 0.2, 0.3, 0.5, 0.5])
    parts = [1, 1, 2, 2, 3, 3]
    groups = list("abcdef")
    once = np.ones((1, 6))
    assert within_parts(labels, scores, parts)(once)[0] == pytest.approx(1 / 2)
    found = pair_score(labels, groups, within_parts(labels, scores, parts), parts, n_resamples=50)
    assert (found.n_pairs, found.n_parts) == (2, 2)
    constant = np.array([0.6, 0.6, 0.4, 0.4, 0.2, 0.2])
    assert within_parts(labels, constant, parts)(once)[0] == 0.5
    assert roc_auc_score(labels, constant) != 0.5
    weights = np.array([[2.0, 1.0, 1.0, 3.0, 1.0, 1.0]])
    assert within_parts(labels, scores, parts)(weights)[0] == pytest.approx(2 / (2 + 3))
    no_pair = pair_score(
        labels[4:], groups[4:], within_parts(labels[4:], scores[4:], [3, 3]), [3, 3], n_resamples=0
    )
    assert no_pair.auroc is None and no_pair.n_pairs == 0


def test_a_source_drawn_twice_counts_twice() -> None:
    labels = np.array([1, 0, 1, 0, 0], dtype=np.int8)
    scores = np.array([0.9, 0.1, 0.2, 0.3, 0.1])
    statistic = same_source(labels, scores, ["a", "a", "b", "b", "b"])
    assert statistic(np.ones((1, 5)))[0] == pytest.approx(2 / 3)
    assert statistic(np.array([[2.0, 2.0, 1.0, 1.0, 1.0]]))[0] == pytest.approx((2 * 1 + 1) / (2 + 2))
