from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from heads.data.splits import disjoint_folds
from heads.models import regression
from heads.models.regression import (
    STRENGTHS,
    WITHOUT_FOLDS,
    cross_fit,
    fit_path,
    fit_regression,
    log_losses,
    mean_logits,
)

GROUPS = [f"g{i // 2}" for i in range(80)]
ROWS = np.arange(80)


@pytest.fixture
def block() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """80 videos of 12 columns on different scales, one constant; the label is in the second."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((80, 12)) * 10.0 ** np.arange(-3, 9)
    table[:, 5] = 4.0
    labels = (table[:, 1] / table[:, 1].std() + rng.standard_normal(80) > 0).astype(np.int8)
    return table, labels


def test_each_strength_is_scikit_learns_own(block: tuple[np.ndarray, np.ndarray]) -> None:  # type: ignore[type-arg]
    table, labels = block
    train = ROWS[:60]
    scaled = StandardScaler().fit(table[train])
    for found in fit_path(table, labels, train, STRENGTHS):
        model = LogisticRegression(C=found.strength, max_iter=5000, tol=1e-8)
        expected = model.fit(scaled.transform(table[train]), labels[train]).decision_function(
            scaled.transform(table)
        )
        np.testing.assert_allclose(found.logits(table), expected, atol=0.03)


def test_the_strength_has_the_least_held_out_loss(block: tuple[np.ndarray, np.ndarray]) -> None:  # type: ignore[type-arg]
    table, labels = block
    folds = disjoint_folds(labels, GROUPS, ROWS, k=5, seed=0)
    held = np.zeros((len(STRENGTHS), 80))
    for train, fold in folds:
        held[:, fold] = [one.logits(table[fold]) for one in fit_path(table, labels, train, STRENGTHS)]
    losses = [log_loss(labels, 1 / (1 + np.exp(-logits))) for logits in held]
    np.testing.assert_allclose(log_losses(held, labels).mean(axis=1), losses, rtol=1e-6)
    chosen = fit_regression(table, labels, ROWS, groups=GROUPS)
    assert chosen.strength == STRENGTHS[int(np.argmin(losses))]
    assert len({fold.strength for fold in cross_fit(table, labels, folds).fold_regressions()}) >= 1


def test_noise_is_regularised_more_than_a_label_in_plain_sight() -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((80, 40))
    labels = (np.arange(80) // 2 % 2).astype(np.int8)
    plain = noise.copy()
    plain[:, 0] += 6.0 * labels
    strengths = [fit_regression(x, labels, ROWS, groups=GROUPS).strength for x in (noise, plain)]
    assert strengths[0] < strengths[1]


def test_a_fold_is_not_asked_about_itself(block: tuple[np.ndarray, np.ndarray]) -> None:  # type: ignore[type-arg]
    """Turning a fold's labels round moves no strength chosen for it by its own held-out loss."""
    table, labels = block
    folds = disjoint_folds(labels, GROUPS, ROWS, k=4, seed=0)
    found = cross_fit(table, labels, folds)
    _, fold = folds[2]
    found.losses[:, fold] = np.arange(len(STRENGTHS))[::-1, None] * 100.0
    assert found.best() == len(STRENGTHS) - 1
    found.losses[:, fold] *= -1
    before = found.best(leaving_out=2)
    found.losses[:, fold] = 0.0
    assert found.best(leaving_out=2) == before


def test_too_few_groups_for_folds_take_a_fixed_strength(
    block: tuple[np.ndarray, np.ndarray],  # type: ignore[type-arg]
) -> None:
    table, labels = block
    assert fit_regression(table, labels, ROWS, groups=["one"] * 80).strength == WITHOUT_FOLDS


def test_blocks_are_averaged(block: tuple[np.ndarray, np.ndarray]) -> None:  # type: ignore[type-arg]
    table, labels = block
    one, other = (fit_path(x, labels, ROWS, [0.1])[0] for x in (table, table[:, :2]))
    found = mean_logits([one, other], [table, table[:, :2]])
    np.testing.assert_allclose(found, (one.logits(table) + other.logits(table[:, :2])) / 2)


def test_a_path_that_ends_early_chooses_what_a_whole_one_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is best under the strongest penalty; the weak ones, which cost most, are not fitted."""
    rng = np.random.default_rng(4)
    labels = (np.arange(80) // 2 % 2).astype(np.int8)
    folds = disjoint_folds(labels, GROUPS, ROWS, k=4, seed=0)
    lengths = []
    for signal in (0.0, 0.5, 6.0):
        block = rng.standard_normal((80, 30))
        block[:, 0] += signal * labels
        early = cross_fit(block, labels, folds)
        with monkeypatch.context() as whole_path:
            whole_path.setattr(regression, "_worse_without_any", lambda *_: False)
            whole = cross_fit(block, labels, folds)
        lengths.append(len(early.losses))
        assert len(whole.losses) == len(STRENGTHS)
        np.testing.assert_array_equal(early.losses, whole.losses[: lengths[-1]])
        for left_out in (None, *range(len(folds))):
            assert early.best(left_out) == whole.best(left_out)
    assert lengths[0] < len(STRENGTHS)
