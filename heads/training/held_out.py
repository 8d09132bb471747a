"""A freshly trained head on rows that it has not seen: val gives its temperature and threshold, nothing else does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heads.data.dataset import HeadDataset
from heads.scoring.calibration import fit_temperature, probabilities
from heads.scoring.thresholds import ThresholdChoice, choose_on_rows
from heads.training.config import TrainConfig
from heads.training.epochs import FitResult
from heads.training.fit import predict_logits

Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RowScores:
    """probabilities: float64 [M], after calibration. temperature, choice: from val alone."""

    probabilities: npt.NDArray[np.float64]
    temperature: float
    choice: ThresholdChoice


def score_rows(
    dataset: HeadDataset, config: TrainConfig, result: FitResult, *, val: Int, rows: Int
) -> RowScores:
    """Score `rows` (int64 [M], sorted: a held-out fold, or val itself) with what val chose."""
    val = np.sort(val)
    logits = predict_logits(result.model, dataset.tokens, val)
    temperature = 1.0
    if config.calibration == "temperature":
        temperature = fit_temperature(logits, dataset.labels[val]).temperature
    scores = probabilities(logits, temperature=temperature)
    choice = choose_on_rows(dataset, val, scores, config=config.threshold)
    if not np.array_equal(rows, val):
        logits = predict_logits(result.model, dataset.tokens, rows)
        scores = probabilities(logits, temperature=temperature)
    return RowScores(scores, temperature, choice)
