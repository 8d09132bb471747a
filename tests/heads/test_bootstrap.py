from __future__ import annotations

import numpy as np
import pytest

from heads.bootstrap import CHUNK_ELEMENTS, bootstrap_samples, group_bootstrap


def test_whole_groups_are_drawn() -> None:
    groups = ["a", "b", "a", "c", "b", "a"]
    seen = []
    bootstrap_samples(groups, lambda w: seen.append(w) or w[:, :1], n_resamples=40)
    weights = np.concatenate(seen)
    assert weights.shape == (40, 6)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()


def test_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    (interval,) = group_bootstrap(
        [str(i) for i in range(400)],
        lambda w: ((w @ values) / w.sum(axis=1))[:, None],
        n_resamples=2000,
    )
    assert interval is not None
    error = values.std() / 20
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.01)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.01)
    assert interval.n_groups == 400
    assert not interval.rough
    assert values.mean() in interval


def test_undefined_and_single_groups_give_none() -> None:
    assert group_bootstrap(["a", "a"], lambda w: w[:, :1]) == [None]
    mostly_undefined = group_bootstrap(["a", "b"], lambda w: np.where(w == 2, w, np.nan)[:, :1])
    assert mostly_undefined == [None]


def test_seed_and_chunks_do_not_change_what_is_drawn() -> None:
    groups = [str(i) for i in range(CHUNK_ELEMENTS // 7)]
    chunked = bootstrap_samples(groups, lambda w: w[:, :2], n_resamples=9, seed=3)
    again = bootstrap_samples(groups, lambda w: w[:, :2], n_resamples=9, seed=3)
    assert chunked.shape == (9, 2)
    np.testing.assert_array_equal(chunked, again)
