from __future__ import annotations

import numpy as np
import pytest

from heads.scoring.calibration import fit_temperature, probabilities, rescaled


def test_recovers_a_known_temperature() -> None:
    rng = np.random.default_rng(0)
    true_logits = rng.normal(0, 2, 30_000)
    labels = (rng.random(30_000) < probabilities(true_logits)).astype(np.int8)
    found = fit_temperature(true_logits * 3, labels)
    assert found.temperature == pytest.approx(3, rel=0.03)
    assert found.nll_after < found.nll_before
    assert found.ece_after < 0.01 < found.ece_before
    assert not found.at_bound


def test_never_worse_in_log_likelihood() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        labels = rng.integers(0, 2, 30).astype(np.int8)
        found = fit_temperature(rng.normal(size=30), labels)
        assert found.nll_after <= found.nll_before


def test_perfect_separation_stops_at_the_bound() -> None:
    found = fit_temperature(np.array([-1.0, -2.0, 1.0, 2.0]), np.array([0, 0, 1, 1], np.int8))
    assert found.at_bound
    assert found.temperature == pytest.approx(0.05, rel=0.01)


def test_rescaled_moves_a_threshold_with_its_scores() -> None:
    logit = np.array([0.7])
    at_2, at_5 = (float(probabilities(logit, temperature=t)[0]) for t in (2.0, 5.0))
    assert rescaled(at_2, 2.0, 5.0) == pytest.approx(at_5)
