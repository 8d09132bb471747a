"""Logistic regression with its strength chosen by log loss on other source groups, through scikit-learn.

A *block* is a table of numbers with a regression of its own; the logits of several blocks are averaged, so that many
columns of one kind do not drown a few of another. What a video lacks is NaN: a block without any number of it has no
logit and no say in the average; single columns count as their mean on the rows that were fitted.
Shape legend: V videos, D columns, C strengths.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cache.errors import HeadError
from heads.data.splits import disjoint_folds
from heads.models.threads import one_blas_thread

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int8]
Folds = Sequence[tuple[Int, Int]]
"""(rows to fit on, rows held out), which cover all rows once."""

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""scikit-learn's C, from strongly to weakly regularised; 1 is its default."""
WITHOUT_FOLDS = 1e-2
"""C where source groups are too few to choose it."""
INNER_FOLDS = 5
TOLERANCE = 1e-3
SMALLEST_STD = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Regression:
    """weights: float64 [D], of columns standardised by mean and std, float64 [D]. strength: C."""

    mean: Float
    std: Float
    weights: Float
    intercept: float
    strength: float

    def logits(self, block: Float) -> Float:
        """float64 [V] of `block` [V, D]."""
        standardised = (block - self.mean) / self.std
        absent = np.isnan(standardised)
        if absent.any():
            found: Float = np.where(absent, 0.0, standardised) @ self.weights + self.intercept
            return np.where(absent.all(axis=1), np.nan, found)
        whole: Float = standardised @ self.weights + self.intercept
        return whole


class _Path:
    """Regressions on `rows`, one a strength, each starting from the one before."""

    def __init__(self, block: Float, labels: Labels, rows: Int) -> None:
        from sklearn.linear_model import LogisticRegression

        absent = np.isnan(block[rows])
        if absent.any():
            rows = rows[~absent.all(axis=1)]
            if len(np.unique(labels[rows])) < 2:
                raise HeadError(
                    f"a stream is there in {len(rows)} of the videos to train on, which are not of both classes; leave it out "
                    "with --streams"
                )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # a column that is nowhere: 0 below
                self._mean, std = np.nanmean(block[rows], axis=0), np.nanstd(block[rows], axis=0)
            self._mean, std = np.nan_to_num(self._mean), np.nan_to_num(std)
        else:
            self._mean, std = block[rows].mean(axis=0), block[rows].std(axis=0)
        self._block, self._labels, self._rows = block, labels, rows
        self._std = np.where(std > SMALLEST_STD, std, 1.0)
        self._model = LogisticRegression(max_iter=5000, tol=TOLERANCE, warm_start=True)

    def fit(self, strength: float) -> Regression:
        standardised = np.nan_to_num((self._block[self._rows] - self._mean) / self._std)
        model = self._model.set_params(C=strength).fit(standardised, self._labels[self._rows])
        weights = model.coef_[0].astype(np.float64)
        return Regression(self._mean, self._std, weights, float(model.intercept_[0]), strength)


@one_blas_thread()
def fit_path(block: Float, labels: Labels, rows: Int, strengths: Sequence[float]) -> list[Regression]:
    """A regression a strength on `rows`, each starting from the one before."""
    path = _Path(block, labels, rows)
    return [path.fit(strength) for strength in strengths]


def log_losses(logits: Float, labels: Labels) -> Float:
    """Of each video, in nats; the last axis of `logits` is that of `labels`."""
    found: Float = np.logaddexp(0.0, logits) - labels * logits
    return found


@dataclass(frozen=True, slots=True, eq=False)
class CrossFit:
    """One block, fold by fold. paths: of each fold, a regression a strength tried. losses: float64 [C, V], of held-out
    videos; 0 outside the folds.
    """

    folds: Folds
    paths: tuple[list[Regression], ...]
    losses: Float

    def best(self, leaving_out: int | None = None) -> int:
        """Number of the strength of least held-out loss, over all folds or all but one."""
        total = self.losses.sum(axis=1)
        if leaving_out is not None:
            total = total - self.losses[:, self.folds[leaving_out][1]].sum(axis=1)
        return int(np.argmin(total))

    def fold_regressions(self) -> list[Regression]:
        """Each fold's regression, of the strength that the other folds choose."""
        return [path[self.best(leaving_out=fold)] for fold, path in enumerate(self.paths)]


@one_blas_thread()
def cross_fit(block: Float, labels: Labels, folds: Folds) -> CrossFit:
    """Fit every fold at every strength, from the strongest penalty on, until a weaker one has more held-out loss than
    the one before it whichever fold is left out. Weak penalties take the most steps.
    """
    fitting = [_Path(block, labels, train) for train, _ in folds]
    paths: list[list[Regression]] = [[] for _ in folds]
    losses: list[Float] = []
    for strength in STRENGTHS:
        losses.append(np.zeros(len(block)))
        for (_, held), one, path in zip(folds, fitting, paths, strict=True):
            path.append(one.fit(strength))
            logits = path[-1].logits(block[held])
            here = ~np.isnan(logits)
            losses[-1][held[here]] = log_losses(logits[here], labels[held][here])
        if len(losses) > 1 and _worse_without_any(losses[-1] - losses[-2], folds):
            break
    return CrossFit(folds, tuple(paths), np.stack(losses))


def _worse_without_any(gained: Float, folds: Folds) -> bool:
    """Whether the sum of float64 [V] is above 0, over all folds and over all but any one."""
    of_fold = np.array([gained[held].sum() for _, held in folds])
    return bool(of_fold.sum() > 0 and (of_fold.sum() - of_fold > 0).all())


def fit_regression(
    block: Float, labels: Labels, rows: Int, *, groups: Sequence[str], seed: int = 0
) -> Regression:
    """On `rows`, with the strength of least log loss over inner folds that keep source groups together."""
    here = rows[~np.isnan(block[rows]).all(axis=1)]
    inner = disjoint_folds(labels, groups, here, k=INNER_FOLDS, seed=seed)
    strength = STRENGTHS[cross_fit(block, labels, inner).best()] if inner else WITHOUT_FOLDS
    return fit_path(block, labels, rows, [strength])[0]


def mean_logits(regressions: Sequence[Regression], blocks: Sequence[Float]) -> Float:
    """float64 [V]: the mean over the blocks that are there; NaN where none is."""
    of_block = np.array([one.logits(x) for one, x in zip(regressions, blocks, strict=True)])
    here = ~np.isnan(of_block)
    if here.all():
        found: Float = np.mean(of_block, axis=0)
        return found
    with np.errstate(invalid="ignore"):
        of_those: Float = np.where(here, of_block, 0.0).sum(axis=0) / here.sum(axis=0)
    return of_those


def out_of_fold_logits(fits: Sequence[CrossFit], blocks: Sequence[Float]) -> Float:
    """float64 [V], NaN outside the folds: each video's by regressions that never saw it, the mean over blocks."""
    found = np.full(len(blocks[0]), np.nan)
    of_fold = zip(*(fit.fold_regressions() for fit in fits), strict=True)
    for (_, fold), regressions in zip(fits[0].folds, of_fold, strict=True):
        found[fold] = mean_logits(regressions, [block[fold] for block in blocks])
    return found
