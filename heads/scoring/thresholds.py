"""The decision threshold: an exact sweep over every cut point, or one of the classic grids.

A video is flagged when its probability >= threshold. Between two neighbouring scores all thresholds decide
alike, so the best cut is an interval (its *plateau*); the threshold is the middle of it, as far as can be
from both scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cache.errors import InputError
from heads.scoring.bootstrap import Interval, group_bootstrap
from heads.scoring.cuts import CutPoints, ResampledScores, cut_points, f_beta
from heads.scoring.metrics import Labels, Probabilities

if TYPE_CHECKING:
    from heads.data.dataset import HeadDataset

Objective = Literal["f1", "fbeta", "precision-at-recall", "recall-at-precision", "false-alarms-per-hour"]
Grid = Literal["exact", "coarse", "fine"]
OBJECTIVES: tuple[Objective, ...] = (
    "f1",
    "fbeta",
    "precision-at-recall",
    "recall-at-precision",
    "false-alarms-per-hour",
)
GRIDS: dict[Grid, tuple[float, ...]] = {
    "coarse": tuple(round(0.30 + 0.05 * i, 2) for i in range(9)),
    "fine": tuple(round(0.01 * i, 2) for i in range(1, 100)),
}
SAME_SCORE = 1e-12
LIPTON_GAP = 0.1
"""How far a calibrated threshold may lie from half of the best F1 before the user is told."""

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ThresholdConfig:
    """What the threshold maximises, and over which values.

    objective: f1, fbeta, precision-at-recall (the best precision with recall >= floor), recall-at-precision (the best
    recall with precision >= floor) or false-alarms-per-hour (the best recall with at most max_false_alarms_per_hour).
    grid: exact (every cut point), coarse (0.30 to 0.70 by 0.05), fine (0.01 to 0.99 by 0.01). beta: of fbeta, (0, 100];
    above 1 favours recall. floor: least recall or precision, by objective, (0, 1]. max_false_alarms_per_hour: flagged
    negatives an hour of negative video, 0 or more. Raises InputError for values out of range.
    """

    objective: Objective = "f1"
    grid: Grid = "exact"
    beta: float = 1.0
    floor: float = 0.9
    max_false_alarms_per_hour: float = 1.0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective must be one of {', '.join(OBJECTIVES)}; got '{self.objective}'")
        if self.grid not in ("exact", "coarse", "fine"):
            raise InputError(f"threshold grid must be exact, coarse or fine; got '{self.grid}'")
        if not 0.0 < self.beta <= 100.0:
            raise InputError(f"beta must be above 0 and at most 100, got {self.beta}")
        if not 0.0 < self.floor <= 1.0:
            raise InputError(f"the floor must be above 0 and at most 1, got {self.floor}")
        if not 0.0 <= self.max_false_alarms_per_hour < float("inf"):
            raise InputError(f"false alarms per hour must be 0 or more, got {self.max_false_alarms_per_hour}")


@dataclass(frozen=True, slots=True)
class ThresholdChoice:
    """A threshold and how it stands on the videos that chose it.

    objective_value: F1, F-beta, precision or recall, by objective. precision is None when nothing is flagged.
    plateau: every threshold in (low, high] decides as well. degenerate: one class for everything. at_edge:
    the optimum touches the end of what was searched. interval: bootstrap by source group, where asked.
    """

    threshold: float
    objective: Objective
    objective_value: float
    precision: float | None
    recall: float
    f1: float
    plateau_low: float
    plateau_high: float
    degenerate: bool
    at_edge: bool
    interval: Interval | None = None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, with what to know before reading the interval."""
        return {**asdict(self), "interval": self.interval and self.interval.as_dict()}


def choose_threshold(
    labels: Labels,
    probabilities: Probabilities,
    *,
    config: ThresholdConfig | None = None,
    negative_hours: float | None = None,
) -> ThresholdChoice:
    """The best threshold on these videos. Of several best plateaus the widest wins, then the lowest.

    labels: 0 or 1 [V]. probabilities: float64 [V]. negative_hours: total duration of the negatives, needed by
    false-alarms-per-hour only. Raises LabelError without a positive, InputError without needed durations.
    """
    config = config or ThresholdConfig()
    cuts = cut_points(labels, probabilities)
    value, notes = _objective(cuts, config, negative_hours)
    found = _best(value, cuts.f1, cuts, config)
    flagged = int((probabilities >= found.threshold).sum())
    degenerate = flagged in (0, len(labels))
    at_edge = found.at_edge and float(cuts.f1[found.cut]) < 1.0
    best_value = float(value[found.cut])
    return ThresholdChoice(
        threshold=found.threshold,
        objective=config.objective,
        objective_value=best_value,
        precision=float(cuts.precision[found.cut]) if flagged else None,
        recall=float(cuts.recall[found.cut]),
        f1=float(cuts.f1[found.cut]),
        plateau_low=found.low,
        plateau_high=found.high,
        degenerate=degenerate,
        at_edge=at_edge,
        warnings=(
            *notes,
            *_shape_warnings(config, found.threshold, flagged, len(labels), degenerate, at_edge),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Best:
    """A cut of the best plateau, the plateau, the threshold, and whether it touches the end of the search."""

    cut: int
    low: float
    high: float
    threshold: float
    at_edge: bool


def _best(value: Float, f1: Float, cuts: CutPoints, config: ThresholdConfig) -> _Best:
    """The widest run of best cuts (then the lowest), value and f1 being float64 [K]."""
    if config.grid == "exact":
        runs = _runs(_is_best(value, f1))
        first, last = max(runs, key=lambda run: (cuts.high[run[1]] - cuts.low[run[0]], -run[0]))
        low, high = float(cuts.low[first]), float(cuts.high[last])
        middle = (low + high) / 2
        # neighbouring floats, or the cut that flags nothing above a score of 1
        threshold = middle if low < middle <= high else high
        return _Best(first, low, high, threshold, first == 0 or last >= len(value) - 2)
    points = np.array(GRIDS[config.grid])
    cut_of = np.searchsorted(cuts.high[:-1], points, side="left")
    first, last = max(_runs(_is_best(value[cut_of], f1[cut_of])), key=lambda run: (run[1] - run[0], -run[0]))
    middle_point = (first + last) // 2
    return _Best(
        cut=int(cut_of[middle_point]),
        low=float(points[first]),
        high=float(points[last]),
        threshold=float(points[middle_point]),
        at_edge=first == 0 or last == len(points) - 1,
    )


def _objective(
    cuts: CutPoints, config: ThresholdConfig, negative_hours: float | Float | None
) -> tuple[Float, list[str]]:
    """What is maximised, one number a cut ([K] or [R, K]), and a note when a floor cannot be met."""
    if config.objective in ("f1", "fbeta"):
        beta = config.beta if config.objective == "fbeta" else 1.0
        return f_beta(cuts.precision, cuts.recall, beta=beta), []
    flags = np.arange(len(cuts.low)) < len(cuts.low) - 1
    if config.objective == "precision-at-recall":
        return np.where(flags & (cuts.recall >= config.floor), cuts.precision, -np.inf), []
    if config.objective == "recall-at-precision":
        allowed = flags & (cuts.precision >= config.floor)
        missed = ~allowed.any(axis=-1, keepdims=True)
        value = np.where(allowed, cuts.recall, np.where(missed & flags, cuts.precision, -np.inf))
        if not missed.any():
            return value, []
        best = float(cuts.precision[..., :-1].max())
        return value, [f"no threshold reaches precision {config.floor:g}; the best, {best:.3f}, is used"]
    if negative_hours is None:
        raise InputError("false-alarms-per-hour needs the durations of negative videos; there are none")
    most = config.max_false_alarms_per_hour * np.asarray(negative_hours)
    return np.where(cuts.false_alarms <= most + SAME_SCORE, cuts.recall, -np.inf), []


def _is_best(value: Float, f1: Float) -> npt.NDArray[np.bool_]:
    best = value >= value.max() - SAME_SCORE
    tie_break = np.where(best, f1, -np.inf)  # where a floor leaves several equals, the best F1 among them
    return np.asarray(tie_break >= tie_break.max() - SAME_SCORE, dtype=np.bool_)


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


def _shape_warnings(
    config: ThresholdConfig, threshold: float, flagged: int, n: int, degenerate: bool, at_edge: bool
) -> list[str]:
    if degenerate:
        side = "positive" if flagged else "negative"
        return [
            f"DEGENERATE: at threshold {threshold:.4f} all {n} videos are called {side}; this decides nothing"
        ]
    if at_edge:
        span = "the grid" if config.grid != "exact" else "the scores"
        return [
            f"the best threshold {threshold:.4f} lies at the edge of {span}; the optimum may lie beyond it"
        ]
    return []


def with_interval(
    choice: ThresholdChoice,
    labels: Labels,
    probabilities: Probabilities,
    *,
    groups: Sequence[str],
    config: ThresholdConfig | None = None,
    seconds: Float | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> ThresholdChoice:
    """The same choice with its bootstrap interval by source group (None when there is a single group).

    seconds: float64 [V], duration of every video, for false-alarms-per-hour.
    """
    config = config or ThresholdConfig()
    resampled = ResampledScores(labels, probabilities)
    negative_hours = None if seconds is None else np.where(labels == 0, seconds, 0.0) / 3600

    def best_thresholds(weights_RV: Float) -> Float:
        cuts = resampled.cuts(weights_RV)
        hours = None if negative_hours is None else (weights_RV @ negative_hours)[:, None]
        value, _ = _objective(cuts, config, hours)
        defined = ~np.isnan(cuts.recall[:, 0])
        thresholds = np.full((len(weights_RV), 1), np.nan)
        f1 = cuts.f1
        for row in np.flatnonzero(defined):
            thresholds[row] = _best(value[row], f1[row], cuts, config).threshold
        return thresholds

    (interval,) = group_bootstrap(groups, best_thresholds, labels=labels, n_resamples=n_resamples, seed=seed)
    return replace(choice, interval=interval)


def choose_on_rows(
    dataset: HeadDataset,
    rows: npt.NDArray[np.int64],
    probabilities: Probabilities,
    *,
    config: ThresholdConfig,
    n_resamples: int = 0,
    seed: int = 0,
) -> ThresholdChoice:
    """`choose_threshold` on these rows of a dataset; with n_resamples > 0 with its bootstrap interval as well.

    rows: int64 [M]. probabilities: float64 [M], in the same order.
    """
    labels = dataset.labels[rows]
    choice = choose_threshold(
        labels, probabilities, config=config, negative_hours=dataset.negative_hours(rows)
    )
    if not n_resamples:
        return choice
    return with_interval(
        choice,
        labels,
        probabilities,
        groups=[dataset.groups[i] for i in rows],
        config=config,
        seconds=dataset.durations[rows],
        n_resamples=n_resamples,
        seed=seed,
    )


def lipton_warning(
    calibrated_threshold: float, best_f1: float, *, interval: Interval | None = None
) -> str | None:
    """A warning when a calibrated threshold is far from half of the best F1 (Lipton et al. 2014), else None.

    For calibrated scores the F1-optimal threshold is half of the best F1. A gap above 0.1 that the
    threshold's own interval (of calibrated thresholds) does not span means that the scores are not
    calibrated.
    """
    if abs(calibrated_threshold - best_f1 / 2) <= LIPTON_GAP or (interval and best_f1 / 2 in interval):
        return None
    return (
        f"after temperature scaling the best threshold is {calibrated_threshold:.3f}, but calibrated scores "
        f"have it at half of the best F1, {best_f1 / 2:.3f}: do not read these scores as probabilities"
    )
