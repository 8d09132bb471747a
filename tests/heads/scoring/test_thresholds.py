from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from cache.errors import InputError
from heads.scoring.bootstrap import Interval
from heads.scoring.thresholds import GRIDS, ThresholdConfig, choose_threshold, lipton_warning, with_interval

LABELS = np.array([0, 0, 1, 0, 1, 1], np.int8)
SCORES = np.array([0.1, 0.2, 0.3, 0.5, 0.6, 0.9])


def test_exact_sweep_takes_the_middle_of_the_plateau() -> None:
    choice = choose_threshold(LABELS, SCORES)
    assert choice.f1 == pytest.approx(6 / 7)
    assert (choice.plateau_low, choice.plateau_high) == pytest.approx((0.2, 0.3))
    assert choice.threshold == pytest.approx(0.25)
    assert not choice.degenerate
    assert not choice.at_edge
    assert choice.warnings == ()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), min_size=2, max_size=40).filter(
        lambda rows: any(label for label, _ in rows)
    )
)
def test_no_threshold_does_better_and_the_whole_plateau_does_as_well(rows: list[tuple[bool, int]]) -> None:
    labels = np.array([label for label, _ in rows], np.int8)
    scores = np.array([score / 1000 for _, score in rows])
    choice = choose_threshold(labels, scores)

    def f1(threshold: float) -> float:
        return float(f1_score(labels, scores >= threshold, zero_division=0.0))

    best = max(f1(t) for t in [0.0, *scores])
    assert choice.f1 == pytest.approx(best)
    assert f1(choice.threshold) == pytest.approx(best)
    assert f1(choice.plateau_high) == pytest.approx(best)
    assert choice.plateau_low <= choice.threshold <= choice.plateau_high


def test_neighbouring_floats_still_decide_as_chosen() -> None:
    low = 0.5
    high = float(np.nextafter(low, 1.0))
    choice = choose_threshold(np.array([0, 1], np.int8), np.array([low, high]))
    assert choice.threshold == high
    assert choice.f1 == 1


def test_of_two_plateaus_the_wider_wins() -> None:
    labels = np.array([1, 0, 0, 1], np.int8)  # flagging all, or only the top one: both F1 2/3
    assert choose_threshold(labels, np.array([0.1, 0.2, 0.3, 0.9])).threshold == pytest.approx(0.6)
    assert choose_threshold(labels, np.array([0.7, 0.8, 0.85, 0.9])).threshold == pytest.approx(0.35)


def test_classic_grids() -> None:
    assert GRIDS["coarse"] == (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
    assert (len(GRIDS["fine"]), GRIDS["fine"][0], GRIDS["fine"][-1]) == (99, 0.01, 0.99)
    fine = choose_threshold(LABELS, SCORES, config=ThresholdConfig(grid="fine"))
    assert fine.threshold == pytest.approx(0.25)
    assert (fine.plateau_low, fine.plateau_high) == pytest.approx((0.21, 0.3))
    coarse = choose_threshold(LABELS, SCORES, config=ThresholdConfig(grid="coarse"))
    assert coarse.threshold == 0.3
    assert coarse.at_edge
    assert "edge of the grid" in coarse.warnings[0]


def test_a_grid_above_every_score_flags_nothing() -> None:
    choice = choose_threshold(LABELS, SCORES * 0.1, config=ThresholdConfig(grid="coarse"))
    assert choice.degenerate
    assert choice.precision is None
    assert choice.f1 == 0
    assert "DEGENERATE" in choice.warnings[0]
    assert "negative" in choice.warnings[0]


def test_all_positive_is_degenerate() -> None:
    choice = choose_threshold(np.array([1, 1, 0, 1], np.int8), np.array([0.4, 0.3, 0.6, 0.2]))
    assert choice.degenerate
    assert choice.at_edge
    assert "called positive" in choice.warnings[0]
    constant = choose_threshold(LABELS, np.full(6, 0.5))
    assert constant.degenerate


def test_fbeta_leans_towards_recall() -> None:
    # 2 of 3 positives with no false alarm, or all 3 with 2 false alarms
    labels = np.array([1, 1, 0, 0, 1, 0, 0], np.int8)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.2, 0.1])
    recall = choose_threshold(labels, scores, config=ThresholdConfig(objective="fbeta", beta=2.0))
    precision = choose_threshold(labels, scores, config=ThresholdConfig(objective="fbeta", beta=0.5))
    assert recall.recall == 1
    assert precision.precision == 1


def test_precision_at_a_recall_floor() -> None:
    config = ThresholdConfig(objective="precision-at-recall", floor=0.6)
    choice = choose_threshold(LABELS, SCORES, config=config)
    assert choice.recall == pytest.approx(2 / 3)
    assert choice.precision == choice.objective_value == 1


def test_recall_at_a_precision_floor() -> None:
    config = ThresholdConfig(objective="recall-at-precision", floor=0.9)
    choice = choose_threshold(LABELS, SCORES, config=config)
    assert choice.precision == 1
    assert choice.recall == choice.objective_value == pytest.approx(2 / 3)
    impossible = choose_threshold(np.array([1, 0, 0], np.int8), np.array([0.2, 0.5, 0.4]), config=config)
    assert "no threshold reaches precision 0.9" in impossible.warnings[0]
    assert impossible.precision == pytest.approx(1 / 3)


def test_false_alarms_per_hour() -> None:
    one = ThresholdConfig(objective="false-alarms-per-hour", max_false_alarms_per_hour=1.0)
    assert choose_threshold(LABELS, SCORES, config=one, negative_hours=1.0).recall == 1
    strict = choose_threshold(LABELS, SCORES, config=one, negative_hours=0.5)
    assert strict.recall == pytest.approx(2 / 3)
    assert strict.threshold == pytest.approx(0.55)
    nothing_allowed = ThresholdConfig(objective="false-alarms-per-hour", max_false_alarms_per_hour=0.0)
    top_is_negative = choose_threshold(
        np.array([1, 0], np.int8), np.array([0.3, 1.0]), config=nothing_allowed, negative_hours=1.0
    )
    assert top_is_negative.threshold > 1.0
    assert top_is_negative.degenerate
    with pytest.raises(InputError, match="durations"):
        choose_threshold(LABELS, SCORES, config=one)


@pytest.mark.parametrize(
    "config",
    [
        ThresholdConfig(),
        ThresholdConfig(grid="coarse"),
        ThresholdConfig(objective="recall-at-precision", floor=0.6),
        ThresholdConfig(objective="false-alarms-per-hour", max_false_alarms_per_hour=40.0),
    ],
)
def test_interval_spans_the_choice_and_narrows_with_more_groups(config: ThresholdConfig) -> None:
    widths: dict[int, list[float]] = {40: [], 1000: []}
    for seed, n in itertools.product(range(5), widths):
        rng = np.random.default_rng(seed)
        labels = np.arange(n) % 4 // 2
        scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
        labels = labels.astype(np.int8)
        choice = choose_threshold(labels, scores, config=config, negative_hours=n / 120)
        choice = with_interval(
            choice,
            labels,
            scores,
            groups=[str(i // 2) for i in range(n)],
            config=config,
            seconds=np.full(n, 60.0),
            n_resamples=200,
        )
        interval = choice.interval
        assert interval is not None
        assert interval.n_groups == n // 2
        assert interval.low - 0.05 <= choice.threshold <= interval.high + 0.05
        widths[n].append(interval.high - interval.low)
    assert sum(widths[1000]) < sum(widths[40])


def test_interval_needs_two_groups() -> None:
    choice = choose_threshold(LABELS, SCORES)
    assert with_interval(choice, LABELS, SCORES, groups=["one"] * 6).interval is None


def test_lipton_identity() -> None:
    assert lipton_warning(0.40, 0.8) is None
    assert lipton_warning(0.49, 0.8) is None
    assert "half of the best F1, 0.400" in str(lipton_warning(0.7, 0.8))
    assert lipton_warning(0.7, 0.8, interval=Interval(0.3, 0.9, 100, 9)) is None


def test_lipton_holds_for_calibrated_scores() -> None:
    rng = np.random.default_rng(0)
    scores = rng.beta(0.6, 0.9, 40_000)
    labels = (rng.random(40_000) < scores).astype(np.int8)
    choice = choose_threshold(labels, scores)
    assert choice.threshold == pytest.approx(choice.f1 / 2, abs=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "accuracy"},
        {"grid": "medium"},
        {"beta": 0.0},
        {"floor": 0.0},
        {"floor": 1.1},
        {"max_false_alarms_per_hour": -1.0},
    ],
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        ThresholdConfig(**options)  # type: ignore[arg-type]
