"""One set of probabilities on one part of a split: metrics, and their intervals by source group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heads.scoring.bootstrap import Interval, group_bootstrap
from heads.scoring.cuts import ResampledScores
from heads.scoring.metrics import Labels, Metrics, Probabilities, Threshold, compute_metrics

WITH_INTERVAL = ("auroc", "average_precision", "f1")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How `name` (the head, or a floor) does on `part` (train, val, test, out-of-fold). intervals: by
    WITH_INTERVAL's names.
    """

    name: str
    part: str
    metrics: Metrics
    intervals: dict[str, Interval | None]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        intervals = {
            name: None if interval is None else interval.as_dict()
            for name, interval in self.intervals.items()
        }
        return {**asdict(self), "intervals": intervals}


def evaluate(
    name: str,
    part: str,
    labels: Labels,
    probabilities: Probabilities,
    *,
    threshold: Threshold,
    groups: Sequence[str],
    n_resamples: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Metrics at `threshold` (a number, or each video's own, float64 [V]); with n_resamples > 0 their bootstrap
    intervals at that same threshold.
    """
    metrics = compute_metrics(labels, probabilities, threshold=threshold)
    intervals: dict[str, Interval | None] = dict.fromkeys(WITH_INTERVAL)
    if n_resamples:
        resampled = ResampledScores(labels, probabilities)

        def statistics(weights_RV: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            numbers = (
                resampled.auroc(weights_RV),
                resampled.average_precision(weights_RV),
                resampled.f1_at(threshold, weights_RV),
            )
            return np.stack(numbers, axis=1)

        found = group_bootstrap(groups, statistics, labels=labels, n_resamples=n_resamples, seed=seed)
        intervals = dict(zip(WITH_INTERVAL, found, strict=True))
    return Evaluation(name, part, metrics, intervals)
