"""Every way to cut scores in two, for the videos themselves and for weighted resamples of them.

Cut k flags the videos of threshold in (low[k], high[k]]; cuts rise with the threshold, and the last flags
nothing. Shape legend: R resamples, V videos, K cuts (distinct scores + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cache.errors import LabelError
from heads.scoring.metrics import Labels, Probabilities, Threshold, check_scores

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class CutPoints:
    """low, high: float64 [K]. precision, recall, false_alarms (flagged negatives): float64 [K] or [R, K].

    precision is 1 by convention (scikit-learn's) where nothing is flagged.
    """

    low: Float
    high: Float
    precision: Float
    recall: Float
    false_alarms: Float

    @property
    def f1(self) -> Float:
        """F1 of every cut."""
        return f_beta(self.precision, self.recall, beta=1.0)


def f_beta(precision: Float, recall: Float, *, beta: float) -> Float:
    """F-beta, 0 where precision and recall are both 0."""
    below = beta**2 * precision + recall
    above = (1 + beta**2) * precision * recall
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def cut_points(labels: Labels, probabilities: Probabilities) -> CutPoints:
    """All cuts of these videos, by scikit-learn's precision_recall_curve: float64 [K].

    labels: 0 or 1 [V]; probabilities: [V] in [0, 1]. Raises LabelError when there is no positive video.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    check_scores(labels, probabilities)
    if not (labels == 1).any():
        raise LabelError(f"{len(labels)} videos without a single positive cannot choose a threshold")
    precision, recall, scores = precision_recall_curve(labels, probabilities)
    false_alarms = np.zeros(len(scores) + 1)
    if (labels == 0).any():
        false_positive_rate, _, _ = roc_curve(labels, probabilities, drop_intermediate=False)
        false_alarms = np.round(false_positive_rate[::-1] * (labels == 0).sum())
    low, high = _bounds(scores)
    return CutPoints(low, high, precision, recall, false_alarms)


def _bounds(scores: Float) -> tuple[Float, Float]:
    top = 1.0 if scores[-1] < 1.0 else float(np.nextafter(1.0, 2.0))
    return np.concatenate([[0.0], scores]), np.concatenate([scores, [top]])


class ResampledScores:
    """Scores sorted once, then cut, ranked and counted under many weightings at a time.

    labels: 0 or 1 [V]. scores: float64 [V]. Every method takes weights float64 [R, V] (how often each video
    counts) and gives NaN for a resample in which its number is not defined.
    """

    def __init__(self, labels: Labels, scores: Float) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._ranked = scores[self._order]
        self._ends = np.flatnonzero(np.concatenate([np.diff(self._ranked) != 0, [True]]))
        self._positive = (labels[self._order] == 1).astype(np.float64)
        self._scores = self._ranked[self._ends][::-1]

    def _counts(self, weights_RV: Float) -> tuple[Float, Float]:
        """Flagged positives and negatives when all scores >= the k-th highest distinct one are: [R, K - 1]
        each.
        """
        ranked = weights_RV[:, self._order]
        positives = np.cumsum(ranked * self._positive, axis=1)[:, self._ends]
        everything = np.cumsum(ranked, axis=1)[:, self._ends]
        return positives, everything - positives

    def cuts(self, weights_RV: Float) -> CutPoints:
        """All cuts, [R, K]; NaN in resamples of one class."""
        positives, negatives = (counts[:, ::-1] for counts in self._counts(weights_RV))
        nothing = np.zeros((len(weights_RV), 1))
        flagged = positives + negatives
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(flagged > 0, positives / flagged, 1.0)
            recall = positives / positives[:, :1]
        recall[(positives[:, 0] == 0) | (negatives[:, 0] == 0)] = np.nan
        low, high = _bounds(self._scores)
        return CutPoints(
            low,
            high,
            np.concatenate([precision, nothing + 1.0], axis=1),
            np.concatenate([recall, nothing + 0 * recall[:, :1]], axis=1),
            np.concatenate([negatives, nothing], axis=1),
        )

    def auroc(self, weights_RV: Float) -> Float:
        """Area under the ROC curve, [R]; ties count half."""
        positives, negatives = self._counts(weights_RV)
        both = (positives[:, -1] > 0) & (negatives[:, -1] > 0)
        start = np.zeros((len(weights_RV), 1))  # nothing is flagged yet
        positives = np.concatenate([start, positives], axis=1)
        negatives = np.concatenate([start, negatives], axis=1)
        area = ((positives[:, 1:] + positives[:, :-1]) / 2 * np.diff(negatives, axis=1)).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(both, area / (positives[:, -1] * negatives[:, -1]), np.nan)

    def average_precision(self, weights_RV: Float) -> Float:
        """Sum of precision times the rise of recall, [R]."""
        positives, negatives = self._counts(weights_RV)
        flagged = positives + negatives
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(flagged > 0, positives / flagged, 0.0)
            rises = np.diff(positives, axis=1, prepend=0.0) / positives[:, -1:]
        both = (positives[:, -1] > 0) & (negatives[:, -1] > 0)
        return np.where(both, (precision * rises).sum(axis=1), np.nan)

    def f1_at(self, threshold: Threshold, weights_RV: Float) -> Float:
        """F1 at one threshold, or at each video's own (float64 [V]): [R]; NaN when neither a label nor a
        decision is positive.
        """
        ranked = weights_RV[:, self._order]
        own = np.broadcast_to(threshold, self._order.shape)[self._order]
        flagged = ranked * (self._ranked >= own)
        truth = ranked * self._positive
        hits = (flagged * self._positive).sum(axis=1)
        total = flagged.sum(axis=1) + truth.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, 2 * hits / total, np.nan)
