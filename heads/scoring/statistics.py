"""Plain models on what a stream's tokens do over time: logistic regression and nearest neighbours on mean and deviation.

The strength of the L2 penalty comes from an inner, group-disjoint cross-validation of the training videos. Shape
legend: V videos, D columns, K components.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from cache.reader import Cache

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int8]

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of scikit-learn's C on standardised columns, weakest model first."""

INNER_FOLDS = 3
MOST_COMPONENTS = 256
"""Columns are rotated onto their leading principal components, at most so many. Up to 256 training videos that changes
nothing (an L2 penalty does not see a rotation); beyond, it leaves out directions of the least variance.
"""

NEIGHBOURS = 15


def mean_and_deviation(cache: Cache, stream: str) -> Float:
    """Mean and standard deviation of each video's tokens, side by side: float64 [V, 2 D], in the cache's order.

    A video of one token has deviation 0. The stream is read once, block by block, whatever its size.
    """
    offsets = cache.offsets(stream)
    dim = cache.streams[stream].dim
    counts = np.diff(offsets)[:, None]
    sums, squares = np.zeros((len(counts), dim)), np.zeros((len(counts), dim))
    middle = np.zeros((len(counts), dim))
    for start, values, _ in cache.iter_rows(stream):
        values_ND = values.astype(np.float64)
        video_N = np.searchsorted(offsets, np.arange(start, start + len(values_ND)), side="right") - 1
        firsts = np.flatnonzero(np.diff(video_N, prepend=-1))
        videos = video_N[firsts]
        begins = offsets[videos] >= start
        middle[videos[begins]] = values_ND[
            firsts[begins]
        ]  # any token of the video, so that squares lose no digits
        apart_ND = values_ND - middle[video_N]
        sums[videos] += np.add.reduceat(apart_ND, firsts, axis=0)
        squares[videos] += np.add.reduceat(apart_ND**2, firsts, axis=0)
    mean = sums / counts
    deviation = np.sqrt(np.maximum(squares / counts - mean**2, 0.0))
    return np.concatenate([middle + mean, deviation], axis=1)


def out_of_sample_logits(
    columns: Float, labels: Labels, groups: Sequence[str], *, train: Int, rows: Int, seed: int = 0
) -> tuple[Float, float]:
    """Logits of `rows` (int64 [M]) by logistic regression fitted on `train`, and the C that was chosen.

    columns: float64 [V, D]. Standardised on train; C by log loss over inner group-disjoint folds of train, or the middle
    one where its source groups are too few.
    """
    fit_K, apply_K = _rotated(columns[train], columns[rows])
    strength = _choose_strength(fit_K, labels[train], [groups[i] for i in train], seed)
    model = _logistic(strength).fit(fit_K, labels[train])
    logits: Float = model.decision_function(apply_K).astype(np.float64)
    return logits, strength


def out_of_sample_neighbours(columns: Float, labels: Labels, *, train: Int, rows: Int) -> Float:
    """Share of positives among the nearest 15 videos of `train` by cosine, the nearer the heavier: float64 [M]."""
    from sklearn.neighbors import KNeighborsClassifier

    fit_K, apply_K = _rotated(columns[train], columns[rows])
    model = KNeighborsClassifier(min(NEIGHBOURS, len(train)), metric="cosine", weights="distance")
    shares: Float = model.fit(fit_K, labels[train]).predict_proba(apply_K)[:, 1].astype(np.float64)
    return shares


def _rotated(train_VD: Float, other_VD: Float) -> tuple[Float, Float]:
    """Both standardised as train is, on train's principal components: [V, K]. Columns that never vary are left out."""
    varying = train_VD.max(axis=0) > train_VD.min(axis=0)
    train_VD, other_VD = train_VD[:, varying], other_VD[:, varying]
    if train_VD.shape[1] == 0:
        return np.zeros((len(train_VD), 1)), np.zeros((len(other_VD), 1))
    mean, deviation = train_VD.mean(axis=0), train_VD.std(axis=0)
    deviation[deviation == 0] = 1.0
    train_VD, other_VD = (train_VD - mean) / deviation, (other_VD - mean) / deviation
    if train_VD.shape[1] <= min(len(train_VD), MOST_COMPONENTS):
        return train_VD, other_VD
    values, vectors = np.linalg.eigh(train_VD @ train_VD.T)
    kept = np.flatnonzero(values > values.max() * 1e-12)[-MOST_COMPONENTS:]
    rotation_VK = vectors[:, kept] / np.sqrt(values[kept])
    return vectors[:, kept] * np.sqrt(values[kept]), other_VD @ (train_VD.T @ rotation_VK)


def _logistic(strength: float):  # type: ignore[no-untyped-def]
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, solver="newton-cholesky", max_iter=1000)


def _choose_strength(columns: Float, labels: Labels, groups: Sequence[str], seed: int) -> float:
    from sklearn.model_selection import StratifiedGroupKFold

    names = np.array(groups, dtype=object)
    folds = min(INNER_FOLDS, *(len(set(names[labels == label])) for label in (0, 1)))
    middle = STRENGTHS[len(STRENGTHS) // 2]
    if folds < 2:
        return middle
    inner = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(columns, labels, names))
    if any(len(np.unique(labels[fit])) < 2 for fit, _ in inner):
        return middle
    losses = np.zeros(len(STRENGTHS))
    for fit, held in inner:
        for place, strength in enumerate(STRENGTHS):
            logits = _logistic(strength).fit(columns[fit], labels[fit]).decision_function(columns[held])
            losses[place] += np.logaddexp(0.0, np.where(labels[held] == 1, -logits, logits)).sum()
    return STRENGTHS[int(np.argmin(losses))]
