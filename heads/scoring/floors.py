"""What a head must beat to mean anything: models of a few numbers a video.

all-positive    flags everything; its F1 is 2 p / (1 + p) for a share p of positives
metadata-only   logistic regression on width, height, frame rate and duration; left out where none of them varies
mean-pooled     logistic regression on the mean of all tokens
statistics      the same on mean and standard deviation over time, one regression each, their logits averaged

Beside them stand the data set's `given_floors`, which nothing here fits (`heads.scoring.floor_scores`).
The strength of the last two is chosen by log loss on other source groups (`heads.models.regression`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from heads.data.dataset import HeadDataset
from heads.data.rows import METADATA_COLUMNS, varying_columns
from heads.data.splits import Split
from heads.data.tokens import TokenSource, scoring_batches
from heads.models.regression import Folds, cross_fit, fit_regression, mean_logits, out_of_fold_logits
from heads.models.statistics import statistic_pool
from heads.models.threads import one_blas_thread, one_thread
from heads.scoring.bootstrap import Interval
from heads.scoring.calibration import probabilities as as_probabilities
from heads.scoring.evaluate import Evaluation, evaluate
from heads.scoring.thresholds import ThresholdConfig, choose_on_rows

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

ALL_POSITIVE, METADATA_ONLY, MEAN_POOLED = "all-positive", "metadata-only", "mean-pooled"
STATISTICS_FLOOR = "statistics"
FLOORS = (ALL_POSITIVE, METADATA_ONLY, MEAN_POOLED, STATISTICS_FLOOR)
NOT_BEATEN = "the head is no better than"
"""How a note on a floor begins."""

NO_METADATA = (
    f"no metadata: {', '.join(METADATA_COLUMNS)} are unknown or the same for all videos, so there is no "
    f"{METADATA_ONLY} floor"
)
LEAST_CHANGE = 1e-12


def floor_probabilities(
    dataset: HeadDataset, train: Int, *, pooled: Float | None = None
) -> Mapping[str, Float]:
    """Probability of each floor for every video of the dataset, float64 [V]; fitted on rows `train` only.

    pooled: `token_statistics` of the dataset where they are at hand, as for several folds.
    """
    labels = dataset.labels
    means, stds = np.split(token_statistics(dataset.tokens) if pooled is None else pooled, 2, axis=1)
    fitted = [fit_regression(block, labels, train, groups=dataset.groups) for block in (means, stds)]
    found = {
        ALL_POSITIVE: np.ones(len(dataset)),
        METADATA_ONLY: _regression(np.nan_to_num(dataset.metadata), labels[train], train),
        MEAN_POOLED: as_probabilities(fitted[0].logits(means)),
        STATISTICS_FLOOR: as_probabilities(mean_logits(fitted, [means, stds])),
        **dataset.given_floors,
    }
    return {name: found[name] for name in floor_names(dataset)}


def floor_names(dataset: HeadDataset) -> tuple[str, ...]:
    """The floors that this data set can have, as FLOORS, and those given."""
    without = () if varying_columns(dataset.metadata).any() else (METADATA_ONLY,)
    return (*(name for name in FLOORS if name not in without), *dataset.given_floors)


def missing_floor_notes(dataset: HeadDataset) -> tuple[str, ...]:
    """A note where there is no metadata-only floor."""
    return () if METADATA_ONLY in floor_names(dataset) else (NO_METADATA,)


@dataclass(frozen=True, slots=True, eq=False)
class FloorScores:
    """A floor out of fold: probabilities and thresholds, float64 [V], each video's by what the other folds gave; NaN
    outside the folds. threshold: of all of them together.
    """

    probabilities: Float
    thresholds: Float
    threshold: float


def floors_out_of_fold(
    dataset: HeadDataset,
    folds: Folds,
    *,
    config: ThresholdConfig,
    pooled: Float | None = None,
) -> Mapping[str, FloorScores]:
    """Every floor on folds, (rest, fold) rows each: fitted on the rest, its strength and threshold by other folds.

    pooled: `token_statistics` of the dataset where they are at hand. Of given floors only the threshold is chosen.
    """
    labels, metadata = dataset.labels, np.nan_to_num(dataset.metadata)
    blocks = np.split(token_statistics(dataset.tokens) if pooled is None else pooled, 2, axis=1)
    fits = [cross_fit(block, labels, folds) for block in blocks]
    found = {name: np.full(len(dataset), np.nan) for name in floor_names(dataset)} | dict(
        dataset.given_floors
    )
    for rest, fold in folds:
        found[ALL_POSITIVE][fold] = 1.0
        if METADATA_ONLY in found:
            found[METADATA_ONLY][fold] = _regression(metadata, labels[rest], rest)[fold]
    found[MEAN_POOLED] = as_probabilities(out_of_fold_logits(fits[:1], blocks[:1]))
    found[STATISTICS_FLOOR] = as_probabilities(out_of_fold_logits(fits, blocks))
    rows = np.sort(np.concatenate([fold for _, fold in folds]))
    scores = {}
    for name, probabilities in found.items():
        thresholds = np.full(len(dataset), np.nan)
        for _, fold in folds:
            others = np.setdiff1d(rows, fold)
            thresholds[fold] = floor_threshold(name, dataset, others, probabilities, config=config)
        scores[name] = FloorScores(
            probabilities, thresholds, floor_threshold(name, dataset, rows, probabilities, config=config)
        )
    return scores


@one_thread()
@torch.no_grad()
def token_statistics(tokens: TokenSource) -> Float:
    """Mean and standard deviation over each video's tokens: float64 [V, 2 D], the means of all channels first."""
    width = sum(tokens.dims)
    pooled = np.empty((tokens.n_videos, 2 * width))
    for videos in scoring_batches(tokens.lengths, torch.arange(tokens.n_videos)):
        found = [statistic_pool("mean-std", c.values, c.mask).chunk(2, dim=1) for c in tokens.batch(videos)]
        both = torch.cat([*(mean for mean, _ in found), *(std for _, std in found)], dim=1)
        pooled[videos.numpy()] = both.numpy()
    return pooled


@one_blas_thread()
def _regression(features: Float, labels: npt.NDArray[np.int8], train: Int) -> Float:
    """Probabilities [V] of a logistic regression on standardised columns, scikit-learn's defaults (L2, C = 1).

    Columns that do not vary in `train` are left out; without any, every video gets 0.5.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    varying = varying_columns(features[train])
    if not varying.any():
        return np.full(len(features), 0.5)
    features = features[:, varying]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    model.fit(features[train], labels)
    found: Float = model.predict_proba(features)[:, 1].astype(np.float64)
    return found


def floor_threshold(
    name: str, dataset: HeadDataset, val: Int, probabilities: Float, *, config: ThresholdConfig
) -> float:
    """A floor's threshold, chosen on rows `val` as the head's is; all-positive flags at 0.5.

    probabilities: float64 [V], of every video of the dataset.
    """
    if name == ALL_POSITIVE:
        return 0.5
    return choose_on_rows(dataset, val, probabilities[val], config=config).threshold


def evaluate_floors(
    dataset: HeadDataset,
    split: Split,
    *,
    config: ThresholdConfig,
    n_resamples: int = 0,
    seed: int = 0,
    thresholds: Mapping[str, float] | None = None,
) -> tuple[Evaluation, ...]:
    """Every floor on val and, where there is one, on test; thresholds are chosen on val, as the head's is, where they
    are not given by name.
    """
    evaluations = []
    for name, probabilities in floor_probabilities(dataset, split.train).items():
        if thresholds is not None:
            threshold = thresholds[name]
        else:
            threshold = floor_threshold(name, dataset, split.val, probabilities, config=config)
        for part, rows in split.parts().items():
            if part == "train":
                continue
            evaluations.append(
                evaluate(
                    name,
                    part,
                    dataset.labels[rows],
                    probabilities[rows],
                    threshold=threshold,
                    groups=[dataset.groups[i] for i in rows],
                    n_resamples=n_resamples,
                    seed=seed,
                )
            )
    return tuple(evaluations)


def floors_apart(architecture: str, floors: tuple[Evaluation, ...]) -> tuple[Evaluation, ...]:
    """The floors that are another model than the head: a logistic head is what the statistics floor is."""
    return tuple(floor for floor in floors if (architecture, floor.name) != ("logistic", STATISTICS_FLOOR))


def beaten_notes(head: Evaluation, floors: tuple[Evaluation, ...]) -> tuple[str, ...]:
    """A note for every floor on the same part that the head does not beat in AUROC, and in F1 for
    all-positive.
    """
    notes = []
    for floor in floors:
        if floor.part != head.part:
            continue
        name = "f1" if floor.name == ALL_POSITIVE else "auroc"
        own, other = getattr(head.metrics, name), getattr(floor.metrics, name)
        if own is not None and other is not None and own <= other + LEAST_CHANGE:
            label = {"f1": "F1", "auroc": "AUROC"}[name]
            notes.append(
                f"{NOT_BEATEN} the {floor.name} floor on {head.part} videos: "
                f"{label} {own:.3f}{_range(head.intervals[name])} against {other:.3f}"
            )
    return tuple(notes)


def _range(interval: Interval | None) -> str:
    return f" ({interval})" if interval is not None else ""
