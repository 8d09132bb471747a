"""AUROC over chosen pairs of a positive and a negative video: those of one fold, or those of one recording.

Pooled over folds, scores of different heads are compared with each other: a model that gives each fold its own constant
comes out below 0.5. Within folds it has 0.5. Within recordings, scene, camera and people are the same in both videos of
a pair, so what is left is what happens. Shape legend: R resamples, V videos, P parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heads.scoring.bootstrap import Interval, group_bootstrap
from heads.scoring.cuts import ResampledScores
from heads.scoring.metrics import Labels, Probabilities

Float = npt.NDArray[np.float64]
Statistic = Callable[[Float], Float]


@dataclass(frozen=True, slots=True)
class PairScore:
    """auroc: None where there is no pair. n_pairs, n_parts: pairs, and parts that hold both classes."""

    auroc: float | None
    interval: Interval | None
    n_pairs: int
    n_parts: int

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        interval = None if self.interval is None else self.interval.as_dict()
        return {
            "auroc": self.auroc,
            "interval": interval,
            "n_pairs": self.n_pairs,
            "n_parts": self.n_parts,
        }


def within_parts(labels: Labels, scores: Probabilities, parts: Sequence[object]) -> Statistic:
    """weights of videos float64 [R, V] -> AUROC over the pairs inside each part, float64 [R]; NaN without a pair."""
    names = np.array([str(part) for part in parts], dtype=object)
    held = [rows for name in sorted(set(names)) if _both(labels, rows := np.flatnonzero(names == name))]
    resampled = [(rows, ResampledScores(labels[rows], scores[rows])) for rows in held]

    def auroc(weights_RV: Float) -> Float:
        won, pairs = np.zeros(len(weights_RV)), np.zeros(len(weights_RV))
        for rows, own in resampled:
            weights = weights_RV[:, rows]
            positive = labels[rows] == 1
            count = weights[:, positive].sum(axis=1) * weights[:, ~positive].sum(axis=1)
            found = own.auroc(weights)
            won += np.where(count > 0, np.nan_to_num(found) * count, 0.0)
            pairs += count
        return _ratio(won, pairs)

    return auroc


def same_source(labels: Labels, scores: Probabilities, groups: Sequence[str]) -> Statistic:
    """As `within_parts` by source group. A group that is drawn k times counts k times: its copies are recordings apart."""
    names, member = np.unique(np.array(groups, dtype=str), return_inverse=True)
    won, pairs = np.zeros(len(names)), np.zeros(len(names))
    firsts = np.zeros(len(names), dtype=np.int64)
    for number in range(len(names)):
        rows = np.flatnonzero(member == number)
        firsts[number] = rows[0]
        if _both(labels, rows):
            pairs[number] = int((labels[rows] == 1).sum()) * int((labels[rows] == 0).sum())
            won[number] = (
                pairs[number] * ResampledScores(labels[rows], scores[rows]).auroc(np.ones((1, len(rows))))[0]
            )

    def auroc(weights_RV: Float) -> Float:
        drawn = weights_RV[:, firsts]
        below = drawn @ pairs
        return _ratio(drawn @ won, below)

    return auroc


def pair_score(
    labels: Labels,
    groups: Sequence[str],
    statistic: Statistic,
    parts: Sequence[object],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> PairScore:
    """The number, its interval by source group, and how many pairs and parts stand behind it."""
    names = np.array([str(part) for part in parts], dtype=object)
    counts = [
        int((labels[own] == 1).sum()) * int((labels[own] == 0).sum())
        for own in (np.flatnonzero(names == name) for name in sorted(set(names)))
    ]
    value = float(statistic(np.ones((1, len(labels))))[0])
    (interval,) = group_bootstrap(
        groups,
        lambda weights_RV: statistic(weights_RV)[:, None],
        labels=labels,
        n_resamples=n_resamples,
        seed=seed,
    )
    return PairScore(
        None if np.isnan(value) else value, interval, sum(counts), sum(count > 0 for count in counts)
    )


def _ratio(above: Float, below: Float) -> Float:
    """NaN where nothing is below."""
    found: Float = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
    return found


def _both(labels: Labels, rows: npt.NDArray[np.int64]) -> bool:
    return len(np.unique(labels[rows])) == 2
