from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cache.reader import Cache, open_cache
from cache.schema import StreamTokens
from heads.scoring.statistics import (
    MOST_COMPONENTS,
    mean_and_deviation,
    out_of_sample_logits,
    out_of_sample_neighbours,
)
from tests.heads.synthetic import features, write_cache


def test_mean_and_deviation_are_plain_ones(toy_cache: Cache) -> None:
    found = mean_and_deviation(toy_cache, "clip")
    for index in (0, 17, 59):
        values = toy_cache.tokens("clip", index).values.astype(np.float64)
        expected = np.concatenate([values.mean(axis=0), values.std(axis=0)])
        np.testing.assert_allclose(found[index], expected, atol=1e-9)


def test_one_token_deviates_by_nothing(tmp_path: Path) -> None:
    dims = {"slowfast": 8}
    videos = [features(i, label=i % 2, rng=np.random.default_rng(i), tokens=1, dims=dims) for i in range(4)]
    videos = [
        replace(v, tokens={"slowfast": StreamTokens(t.values[:1], t.spans[:1])})
        for v in videos
        for t in v.tokens.values()
    ]
    with open_cache(write_cache(tmp_path / "one.zarr", videos, dims=dims)) as cache:
        found = mean_and_deviation(cache, "slowfast")
    assert (found[:, 8:] == 0).all() and np.isfinite(found).all()


@pytest.mark.parametrize("width", [10, 400])
def test_rotation_changes_no_logit(width: int) -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(120) % 2).astype(np.int8)
    columns = rng.normal(size=(120, width)) + labels[:, None] * 0.4
    groups = [str(i // 2) for i in range(120)]
    train, rows = np.arange(90), np.arange(90, 120)
    assert len(train) <= MOST_COMPONENTS
    logits, strength = out_of_sample_logits(columns, labels, groups, train=train, rows=rows)
    mean, deviation = columns[train].mean(axis=0), columns[train].std(axis=0)
    plain = LogisticRegression(C=strength, max_iter=10_000, tol=1e-8).fit(
        (columns[train] - mean) / deviation, labels[train]
    )
    np.testing.assert_allclose(logits, plain.decision_function((columns[rows] - mean) / deviation), atol=2e-3)
    shares = out_of_sample_neighbours(columns, labels, train=train, rows=rows)
    assert roc_auc_score(labels[rows], shares) > 0.7


def test_columns_that_never_vary_give_a_constant() -> None:
    labels = (np.arange(40) % 2).astype(np.int8)
    logits, _ = out_of_sample_logits(
        np.ones((40, 3)), labels, [str(i) for i in range(40)], train=np.arange(30), rows=np.arange(30, 40)
    )
    assert np.ptp(logits) == 0
