"""How well a clip's metadata alone gives away its label: width, height, frame rate, duration.

Where it does, a head may learn the camera instead of what happens. Scores are out of fold, and folds keep source
groups together, so a model that merely knows each recording's size gains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heads.data.rows import varying_columns
from heads.data.splits import group_folds
from heads.scoring.bootstrap import Interval, group_bootstrap
from heads.scoring.cuts import ResampledScores
from heads.scoring.metrics import auroc

FOLDS = 5
TREES = 50
"""Of the random forest, of four columns at most: 200 gave AUROCs within 0.034 of these on 187 clips, as far as seeds do."""
MOST_VIDEOS = 50_000
SHORTCUT_LIMIT = 0.55
"""A shortcut is reported when the whole interval of the AUROC lies above this: it is there, and it is not small."""

Labels = npt.NDArray[np.int8]
Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shortcut:
    """AUROC of one metadata-only model, out of fold. model: "logistic regression" or "random forest". n_videos: on how many."""

    model: str
    auroc: float
    interval: Interval | None
    n_folds: int
    n_videos: int

    def reported(self, limit: float = SHORTCUT_LIMIT) -> bool:
        """Whether the interval lies above the limit as a whole."""
        return self.interval is not None and self.interval.low > limit


def metadata_shortcuts(
    labels: Labels, metadata: Float, groups: Sequence[str], *, n_resamples: int = 1000, seed: int = 0
) -> list[Shortcut]:
    """A linear model and one that can single out values (say, one odd width); empty where groups are too few, or where
    no column varies.

    labels: 0 or 1 [V]. metadata: float64 [V, 4]. Needs two source groups of each class at least. More than 50,000 videos are
    judged by that many, whole source groups drawn at random.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(labels) > MOST_VIDEOS:
        rows = _drawn(groups, seed)
        labels, metadata, groups = labels[rows], metadata[rows], [groups[row] for row in rows]
    names = np.array(groups, dtype=object)
    n_folds = min(FOLDS, *(len(set(names[labels == label])) for label in (0, 1)))
    if n_folds < 2:
        return []
    columns = np.nan_to_num(metadata)[:, varying_columns(metadata)]
    if columns.shape[1] == 0:
        return []
    models = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)),
        "random forest": RandomForestClassifier(TREES, min_samples_leaf=5, random_state=seed),
    }
    folds = group_folds(labels, groups, np.arange(len(labels)), k=n_folds, seed=seed)
    if any(len(set(labels[rest].tolist())) < 2 for rest, _ in folds):
        return []
    found = []
    for name, model in models.items():
        scores = cross_val_predict(model, columns, labels, cv=folds, method="predict_proba")[:, 1].astype(
            np.float64
        )
        value = auroc(labels, scores)
        assert value is not None
        interval = _interval(labels, scores, groups, n_resamples, seed)
        found.append(Shortcut(name, value, interval, n_folds, len(labels)))
    return found


def _drawn(groups: Sequence[str], seed: int) -> npt.NDArray[np.int64]:
    """Rows of whole source groups in random order, until there are 50,000; sorted."""
    _, codes = np.unique(np.array(groups, dtype=str), return_inverse=True)
    sizes = np.bincount(codes)
    order = np.random.default_rng(seed).permutation(len(sizes))
    n_taken = int(np.searchsorted(np.cumsum(sizes[order]), MOST_VIDEOS)) + 1
    return np.flatnonzero(np.isin(codes, order[:n_taken]))


def _interval(
    labels: Labels, scores: Float, groups: Sequence[str], n_resamples: int, seed: int
) -> Interval | None:
    resampled = ResampledScores(labels, scores)
    (interval,) = group_bootstrap(
        groups,
        lambda weights_RV: resampled.auroc(weights_RV)[:, None],
        labels=labels,
        n_resamples=n_resamples,
        seed=seed,
    )
    return interval
