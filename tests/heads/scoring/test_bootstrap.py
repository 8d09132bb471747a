from __future__ import annotations

import numpy as np
import pytest

from heads.scoring.bootstrap import (
    CHUNK_ELEMENTS,
    Interval,
    bootstrap_samples,
    group_bootstrap,
    interval_notes,
    rarer_groups,
)
from heads.scoring.evaluate import evaluate


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


def one_against_many(n_negative: int = 999) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """One positive that scores highest: every number reads 1.000, and says nothing of the next positive."""
    labels = np.zeros(n_negative + 1, np.int8)
    labels[0] = 1
    scores = np.linspace(0.9, 0.1, n_negative + 1)
    return labels, scores, [str(i) for i in range(n_negative + 1)]


def test_roughness_is_that_of_the_rarer_class() -> None:
    labels, scores, groups = one_against_many()
    found = evaluate("head", "val", labels, scores, threshold=0.9, groups=groups, n_resamples=400)
    for name in ("auroc", "average_precision", "f1"):
        interval = found.intervals[name]
        assert interval is not None and (interval.low, interval.high) == (1.0, 1.0)
        assert interval.rough and interval.n_groups == 1000 and interval.n_rarer_groups == 1
        assert interval.n_drawn == 400 and 100 < interval.n_one_class == interval.n_left_out < 200
        lacking = f"{interval.n_one_class} of 400 resamples"
        assert interval.caveat() == (
            f"rough: 1 source group of the rarer class, {lacking} lack a class, {lacking} are left out as undefined"
        )
        assert str(interval) == "1.000 to 1.000, rough" and interval.mark == "~"
        as_json = found.as_dict()["intervals"][name]
        assert as_json["rough"] is True and as_json["caveat"] == interval.caveat()
    (note,) = interval_notes("val", found.intervals.values())
    assert note.startswith("intervals on val: rough: 1 source group of the rarer class")


def test_enough_of_both_classes_need_no_note() -> None:
    labels = (np.arange(60) % 2).astype(np.int8)
    groups = [str(i // 2) for i in range(60)]  # each group holds both
    assert rarer_groups(labels, groups) == 30
    scores = np.random.default_rng(0).random(60)
    found = evaluate("head", "val", labels, scores, threshold=0.5, groups=groups, n_resamples=50)
    assert interval_notes("val", found.intervals.values()) == ()
    few = evaluate("head", "val", labels, scores, threshold=0.5, groups=list("ab" * 30), n_resamples=50)
    (note,) = interval_notes("val", few.intervals.values())
    assert "rough: 1 source group of the rarer class" in note


def test_no_interval_at_all_is_said() -> None:
    assert interval_notes("test", []) == ()
    (note,) = interval_notes("test", [None, None])
    assert note.startswith("intervals on test: none")


def test_an_interval_of_an_earlier_version_is_judged_by_all_groups() -> None:
    old = Interval(low=0.4, high=0.6, n_resamples=100, n_groups=30)
    assert not old.rough and old.caveat() == "" and str(old) == "0.400 to 0.600"
    assert Interval(0.4, 0.6, 100, 3).caveat() == "rough: 3 source groups"
