"""What a head must beat to mean anything: three models that do not look at what happens in a video over time.

all-positive    flags everything; its F1 is 2 p / (1 + p) for a share p of positives
metadata-only   logistic regression on width, height, frame rate and duration; left out where none of them varies
mean-pooled     logistic regression on the mean of all tokens
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from heads.data.dataset import HeadDataset
from heads.data.rows import METADATA_COLUMNS, varying_columns
from heads.data.splits import Split
from heads.data.tokens import TokenSource, scoring_batches
from heads.models.pooling import mean_pool
from heads.scoring.bootstrap import Interval
from heads.scoring.evaluate import Evaluation, evaluate
from heads.scoring.thresholds import ThresholdConfig, choose_on_rows

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

ALL_POSITIVE, METADATA_ONLY, MEAN_POOLED = "all-positive", "metadata-only", "mean-pooled"
FLOORS = (ALL_POSITIVE, METADATA_ONLY, MEAN_POOLED)
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

    pooled: `mean_tokens` of the dataset where they are at hand, as for several folds.
    """
    labels = dataset.labels[train]
    pooled = mean_tokens(dataset.tokens) if pooled is None else pooled
    found = {
        ALL_POSITIVE: np.ones(len(dataset)),
        METADATA_ONLY: _regression(np.nan_to_num(dataset.metadata), labels, train),
        MEAN_POOLED: _regression(pooled, labels, train),
    }
    return {name: found[name] for name in floor_names(dataset)}


def floor_names(dataset: HeadDataset) -> tuple[str, ...]:
    """The floors that this data set can have, as FLOORS."""
    without = () if varying_columns(dataset.metadata).any() else (METADATA_ONLY,)
    return tuple(name for name in FLOORS if name not in without)


def missing_floor_notes(dataset: HeadDataset) -> tuple[str, ...]:
    """A note where there is no metadata-only floor."""
    return () if METADATA_ONLY in floor_names(dataset) else (NO_METADATA,)


def mean_tokens(tokens: TokenSource) -> Float:
    """Mean over each video's tokens, channels side by side: float64 [V, sum of D]."""
    pooled = np.empty((tokens.n_videos, sum(tokens.dims)))
    for videos in scoring_batches(tokens.lengths, torch.arange(tokens.n_videos)):
        means = [mean_pool(channel.values, channel.mask) for channel in tokens.batch(videos)]
        pooled[videos.numpy()] = torch.cat(means, dim=1).numpy()
    return pooled


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
    dataset: HeadDataset, split: Split, *, config: ThresholdConfig, n_resamples: int = 0, seed: int = 0
) -> tuple[Evaluation, ...]:
    """Every floor on val and, where there is one, on test; thresholds are chosen on val, as the head's is."""
    evaluations = []
    for name, probabilities in floor_probabilities(dataset, split.train).items():
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
