"""Scores of probabilities against labels, by scikit-learn. What is undefined is None, never a made-up 0."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int8]
Probabilities = npt.NDArray[np.float64]
Threshold = float | npt.NDArray[np.float64]
"""One for all videos, or float64 [V], each video's own (out of fold, that of the head that scored it)."""

ECE_BINS = 15
"""Equal-width bins, as in Guo et al. 2017."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """n videos, n_positive of them; decisions are probability >= threshold (None: each video had its own).

    precision is undefined when nothing is flagged, recall without positives, f1 when both, AUROC and average
    precision with a single class: None then. brier and ece (expected calibration error, 15 equal bins) in [0,
    1].
    """

    n: int
    n_positive: int
    threshold: float | None
    true_negatives: int
    false_positives: int
    false_negatives: int
    true_positives: int
    accuracy: float
    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None
    average_precision: float | None
    brier: float
    ece: float

    @property
    def threshold_words(self) -> str:
        """What decided, such as "threshold 0.431"."""
        return "each video's own threshold" if self.threshold is None else f"threshold {self.threshold:.3f}"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def compute_metrics(labels: Labels, probabilities: Probabilities, *, threshold: Threshold) -> Metrics:
    """All metrics. labels: 0 or 1 [V], V > 0; probabilities: float64 [V] in [0, 1]; threshold: a number or
    float64 [V]; else ValueError.
    """
    from sklearn.metrics import (
        accuracy_score,
        brier_score_loss,
        confusion_matrix,
        fbeta_score,
        precision_score,
        recall_score,
    )

    check_scores(labels, probabilities)
    one = np.ndim(threshold) == 0
    if not one and np.shape(threshold) != labels.shape:
        raise ValueError(f"thresholds {np.shape(threshold)} must be one number or [V], V = {len(labels)}")
    decisions = (probabilities >= threshold).astype(np.int8)
    tn, fp, fn, tp = (int(x) for x in confusion_matrix(labels, decisions, labels=[0, 1]).ravel())
    flagged, positives = tp + fp, tp + fn
    return Metrics(
        n=len(labels),
        n_positive=positives,
        threshold=float(threshold) if one else None,
        true_negatives=tn,
        false_positives=fp,
        false_negatives=fn,
        true_positives=tp,
        accuracy=float(accuracy_score(labels, decisions)),
        precision=float(precision_score(labels, decisions)) if flagged else None,
        recall=float(recall_score(labels, decisions)) if positives else None,
        f1=float(fbeta_score(labels, decisions, beta=1.0)) if flagged or positives else None,
        auroc=auroc(labels, probabilities),
        average_precision=average_precision(labels, probabilities),
        brier=float(brier_score_loss(labels, probabilities, pos_label=1)),
        ece=expected_calibration_error(labels, probabilities),
    )


def check_scores(labels: Labels, probabilities: Probabilities) -> None:
    """Raise ValueError unless labels are 0 or 1, probabilities lie in [0, 1], and both have the same length >
    0.
    """
    if labels.shape != probabilities.shape or labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"labels {labels.shape} and probabilities {probabilities.shape} must be [V], V > 0")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, found {sorted(set(labels.tolist()) - {0, 1})}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1] and be finite")


def auroc(labels: Labels, scores: npt.NDArray[np.float64]) -> float | None:
    """Area under the ROC curve; None with a single class."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores)) if len(np.unique(labels)) == 2 else None


def average_precision(labels: Labels, scores: npt.NDArray[np.float64]) -> float | None:
    """Average precision of the positives; None with a single class."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores)) if len(np.unique(labels)) == 2 else None


def expected_calibration_error(
    labels: Labels, probabilities: Probabilities, *, bins: int = ECE_BINS
) -> float:
    """Mean |share of positives - mean probability| over equal-width bins, weighted by their videos."""
    from sklearn.calibration import calibration_curve

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a single class is fine here
        true_share, mean_probability = calibration_curve(
            labels, probabilities, n_bins=bins, strategy="uniform"
        )
    # calibration_curve drops empty bins; its edges are linspace(0, 1), and the same edges give the weights.
    edges = np.linspace(0.0, 1.0, bins + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], probabilities), minlength=bins)
    counts = counts[counts > 0]
    return float(np.sum(counts * np.abs(true_share - mean_probability)) / len(labels))
