"""Temperature scaling (Guo et al. 2017): one number on held-out logits; the order of videos stays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heads.scoring.metrics import Labels, expected_calibration_error

Float = npt.NDArray[np.float64]

LOWEST_TEMPERATURE = 0.05
HIGHEST_TEMPERATURE = 20.0
"""Bounds of the search: perfectly separated scores would otherwise give a temperature of 0."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The fitted temperature and negative log-likelihood, Brier score and ECE before and after it.

    at_bound: the best temperature lies outside the bounds (scores that separate perfectly, or say nothing).
    """

    temperature: float
    n: int
    nll_before: float
    nll_after: float
    brier_before: float
    brier_after: float
    ece_before: float
    ece_after: float
    at_bound: bool


def probabilities(logits: Float, *, temperature: float = 1.0) -> Float:
    """sigmoid(logits / temperature) in float64 [V]."""
    from scipy.special import expit

    result: Float = expit(np.asarray(logits, dtype=np.float64) / temperature)
    return result


def rescaled(probability: float, before: float, after: float) -> float:
    """A probability at temperature `before` as it reads at temperature `after`."""
    from scipy.special import expit, logit

    return float(expit(logit(min(probability, 1.0)) * before / after))


def fit_temperature(logits: Float, labels: Labels) -> Calibration:
    """Minimise the negative log-likelihood over temperature in [0.05, 20]. logits: float64 [V]; labels 0 or
    1.
    """
    from scipy.optimize import minimize_scalar

    def nll(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float(np.mean(np.logaddexp(0.0, scaled) - labels * scaled))

    bounds = (math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE))
    found = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    log_temperature = float(found.x) if found.fun < nll(0.0) else 0.0
    before = probabilities(logits)
    after = probabilities(logits, temperature=math.exp(log_temperature))
    return Calibration(
        temperature=math.exp(log_temperature),
        n=len(labels),
        nll_before=nll(0.0),
        nll_after=nll(log_temperature),
        brier_before=float(np.mean((before - labels) ** 2)),
        brier_after=float(np.mean((after - labels) ** 2)),
        ece_before=expected_calibration_error(labels, before),
        ece_after=expected_calibration_error(labels, after),
        at_bound=at_bound(math.exp(log_temperature)),
    )


def at_bound(temperature: float) -> bool:
    """Whether a fitted temperature lies at the end of the search."""
    return min(temperature / LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE / temperature) < math.exp(1e-3)
