"""What held-out logits decide, and nothing else does: the temperature, then the threshold of what comes of it.

The one place for both, whether val decides, all out-of-fold logits together, or an estimator's own holdout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heads.data.dataset import HeadDataset
from heads.scoring.calibration import Calibration, fit_temperature
from heads.scoring.calibration import probabilities as as_probabilities
from heads.scoring.thresholds import ThresholdChoice, choose_on_rows, choose_threshold
from heads.training.config import TrainConfig
from heads.training.epochs import FitResult
from heads.training.fit import predict_logits

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """calibration: as fitted. temperature: as applied, 1 where the config wants no calibration. choice: of the threshold."""

    calibration: Calibration
    temperature: float
    choice: ThresholdChoice

    def probabilities(self, logits: Float) -> Float:
        """float64, after the temperature."""
        return as_probabilities(logits, temperature=self.temperature)


def decide(
    logits: Float,
    labels: npt.NDArray[np.int8],
    config: TrainConfig,
    *,
    dataset: HeadDataset | None = None,
    rows: Int | None = None,
    n_resamples: int = 0,
) -> Decision:
    """Temperature and threshold from logits, float64 [M], of videos that the head has not seen; labels: int8 [M].

    dataset, rows (int64 [M]): where these videos are from, for their durations, and with n_resamples for the threshold's
    interval by source group.
    """
    calibration = fit_temperature(logits, labels)
    temperature = calibration.temperature if config.calibration == "temperature" else 1.0
    scores = as_probabilities(logits, temperature=temperature)
    if dataset is None or rows is None:
        choice = choose_threshold(labels, scores, config=config.threshold)
    else:
        choice = choose_on_rows(
            dataset, rows, scores, config=config.threshold, n_resamples=n_resamples, seed=config.seed
        )
    return Decision(calibration, temperature, choice)


@dataclass(frozen=True, slots=True, eq=False)
class RowScores:
    """probabilities: float64 [M], after calibration. decision: of val alone."""

    probabilities: Float
    decision: Decision


def score_rows(
    dataset: HeadDataset, config: TrainConfig, result: FitResult, *, val: Int, rows: Int
) -> RowScores:
    """Score `rows` (int64 [M], sorted: a held-out fold, or val itself) with what val decides."""
    val = np.sort(val)
    logits = predict_logits(result.model, dataset.tokens, val)
    decision = decide(logits, dataset.labels[val], config, dataset=dataset, rows=val)
    if not np.array_equal(rows, val):
        logits = predict_logits(result.model, dataset.tokens, rows)
    return RowScores(decision.probabilities(logits), decision)
