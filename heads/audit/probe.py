"""Is a stream worth anything? Plain models on every stream and every pair of them, out of fold, beside metadata.

Nothing is trained that is kept, and nothing is to be set. Each stream's tokens become their mean and standard deviation
over time, of which `--model logistic` makes a head (`heads.models.regression`); a pair of streams is the mean of their
logits, or of their neighbours' shares. Folds keep source groups together, and the stored test split is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cache.arguments import require_open_cache, require_whole
from heads.data.dataset import (
    HeadDataset,
    any_random,
    load_dataset,
    random_note,
    too_rare_streams,
    weights_line,
)
from heads.data.rows import METADATA_COLUMNS, varying_columns
from heads.data.splits import FoldConfig, fold_rows, labelled_rows
from heads.models.model import ModelConfig
from heads.models.regression import Folds, cross_fit, out_of_fold_logits
from heads.scoring.bootstrap import Interval, group_bootstrap
from heads.scoring.calibration import probabilities
from heads.scoring.cuts import ResampledScores
from heads.scoring.pairs import PairScore, pair_score, same_source, within_parts
from heads.training.logistic import statistics_blocks

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache

FOLDS = 5
CHANCE_AUROC = 0.5
METADATA, CHANCE = "metadata", "chance"
Model = Literal["logistic", "k-NN"]
LOGISTIC: Model = "logistic"
NEIGHBOURS: Model = "k-NN"
MOST_NEIGHBOURS = 15

Float = npt.NDArray[np.float64]
Scores = Mapping[tuple[str, Model], Float]


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """inputs: a stream, "a+b", or "metadata". within_folds: AUROC over pairs of one fold, which all else here is in;
    pooled: over all pairs, which compares the scales of the folds' models as well. same_recording: over pairs of one
    source group. over: what `gain` is the paired difference to: metadata (or chance, where that is higher) for a stream,
    the better of the two for a pair; None for metadata.
    """

    inputs: str
    model: Model
    within_folds: PairScore
    pooled: float
    same_recording: PairScore
    over: str | None
    gain: float | None
    gain_interval: Interval | None

    @property
    def gains(self) -> bool:
        """Whether the whole interval of the gain lies above 0."""
        return self.gain_interval is not None and self.gain_interval.low > 0


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """rows: metadata, streams, pairs; each by both models. notes: what the user must know."""

    paths: tuple[str, ...]
    n_videos: int
    n_positive: int
    n_groups: int
    n_folds: int
    weights: str
    random_weights: bool
    random_note: str
    rows: tuple[ProbeRow, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def probe_cache(
    cache: Cache, *, labels: LabelJoin | None = None, n_resamples: int = 1000, seed: int = 0
) -> ProbeReport:
    """Probe every stream and pair of streams. labels: a join that replaces the stored labels, splits and sources.

    Raises LabelError where there are too few labels or source groups for two folds.
    """
    require_open_cache(cache, "probe_cache")
    require_whole("n_resamples", n_resamples, 0, 100_000)
    data = load_dataset(cache, separate_streams=True, labels=labels)
    folds, notes = _folds(data, seed)
    rare = too_rare_streams(data, [rest for rest, _ in folds])
    notes += tuple(f"{why}: left out" for why in rare.values())
    blocks = iter(statistics_blocks(ModelConfig(architecture="logistic"), data.stream_dims, data.tokens))
    inputs = {stream.name: [next(blocks), next(blocks)] for stream in data.streams}
    inputs = {name: own for name, own in inputs.items() if name not in rare}
    fold_of = np.zeros(len(data), dtype=np.int64)
    for number, (_, fold) in enumerate(folds, start=1):
        fold_of[fold] = number
    scored = np.flatnonzero(fold_of)
    varying = varying_columns(data.metadata[scored])
    if varying.any():
        inputs = {METADATA: [np.nan_to_num(data.metadata)[:, varying]], **inputs}
    else:
        notes += (f"no metadata: {', '.join(METADATA_COLUMNS)} are unknown or the same for all videos",)
    scores = {key: every[scored] for key, every in _out_of_fold(inputs, data.labels, folds).items()}
    own_labels, groups = data.labels[scored], [data.groups[row] for row in scored]
    names = [stream.name for stream in data.streams if stream.name not in rare]
    return ProbeReport(
        paths=cache.names,
        n_videos=len(scored),
        n_positive=int((own_labels == 1).sum()),
        n_groups=len(set(groups)),
        n_folds=len(folds),
        weights=weights_line(data.streams),
        random_weights=any_random(data.streams),
        random_note=random_note(data.streams),
        rows=_rows(scores, own_labels, groups, fold_of[scored], names, n_resamples=n_resamples, seed=seed),
        notes=notes,
    )


def _folds(data: HeadDataset, seed: int) -> tuple[Folds, tuple[str, ...]]:
    outside_test = data.outside_test
    known, notes = labelled_rows(data.labels, data.n_without)
    rows = np.intersect1d(known, outside_test)
    names = np.array(data.groups, dtype=object)
    with_label = [len(set(names[rows][data.labels[rows] == label])) for label in (0, 1)]
    k = max(2, min(FOLDS, *with_label))
    folds = fold_rows(data.labels, data.groups, rows, config=FoldConfig(k=k), seed=seed)
    notes += tuple(
        f"fold {number} holds a single class"
        for number, (_, fold) in enumerate(folds, start=1)
        if len(np.unique(data.labels[fold])) == 1
    )
    notes += data.copy_notes
    if n_test := len(data) - len(outside_test):
        notes += (f"the {n_test} test videos were not looked at",)
    return folds, notes


def _out_of_fold(
    inputs: Mapping[str, Sequence[Float]], labels: npt.NDArray[np.int8], folds: Folds
) -> dict[tuple[str, Model], Float]:
    """Probabilities or shares of every input by both models: float64 [V], of rows in the folds. inputs: blocks, [V, D]. A stream

    that is not there says nothing: 0.5.
    """
    logits, shares = {}, {}
    for name, blocks in inputs.items():
        logits[name] = out_of_fold_logits([cross_fit(block, labels, folds) for block in blocks], blocks)
        shares[name] = np.full(len(labels), np.nan)
        for rest, fold in folds:
            shares[name][fold] = neighbour_shares(
                np.concatenate(blocks, axis=1), labels, train=rest, rows=fold
            )
    for one, other in combinations([name for name in inputs if name != METADATA], 2):
        logits[f"{one}+{other}"] = _mean_of_there(logits[one], logits[other])
        shares[f"{one}+{other}"] = _mean_of_there(shares[one], shares[other])
    found: dict[tuple[str, Model], Float] = {}
    for name in logits:
        found[name, LOGISTIC] = probabilities(np.nan_to_num(logits[name]))
        found[name, NEIGHBOURS] = np.nan_to_num(shares[name], nan=0.5).clip(0, 1)
    return found


def _mean_of_there(one: Float, other: Float) -> Float:
    """The mean of two scores of each video, or the one that is there."""
    mean = (one + other) / 2
    return np.where(np.isnan(mean), np.where(np.isnan(one), other, one), mean)


def neighbour_shares(
    columns: Float, labels: npt.NDArray[np.int8], *, train: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> Float:
    """Share of positives among the nearest 15 videos of `train` by cosine, the nearer the heavier: float64 [M], NaN for a video

    without the columns. columns: float64 [V, D], standardised as `train` is.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    here = np.asarray(np.isfinite(columns).all(axis=1), dtype=bool)
    if not here[rows].all() or not here[train].all():
        shares: Float = np.full(len(rows), np.nan)
        if here[train].any() and here[rows].any():
            shares[here[rows]] = neighbour_shares(
                columns, labels, train=train[here[train]], rows=rows[here[rows]]
            )
        return shares
    scaler = StandardScaler().fit(columns[train])
    model = KNeighborsClassifier(min(MOST_NEIGHBOURS, len(train)), metric="cosine", weights="distance")
    model.fit(scaler.transform(columns[train]), labels[train])
    found: Float = model.predict_proba(scaler.transform(columns[rows]))
    of_positives: Float = found[:, model.classes_ == 1].sum(axis=1).astype(np.float64)
    return of_positives


def _rows(
    scores: Scores,
    labels: npt.NDArray[np.int8],
    groups: Sequence[str],
    folds: npt.NDArray[np.int64],
    streams: Sequence[str],
    *,
    n_resamples: int,
    seed: int,
) -> tuple[ProbeRow, ...]:
    keys = list(scores)
    once = np.ones((1, len(labels)))
    within = {key: within_parts(labels, scores[key], folds.tolist()) for key in keys}
    alone = {key: float(within[key](once)[0]) for key in keys}
    reference = {key: _reference(key, alone, streams) for key in keys}

    def gains(weights_RV: Float) -> Float:
        every = {key: within[key](weights_RV) for key in keys}
        below = [CHANCE_AUROC if (over := reference[key]) is None else every[over] for key in keys]
        return np.stack([every[key] - own for key, own in zip(keys, below, strict=True)], axis=1)

    options = {"n_resamples": n_resamples, "seed": seed}
    intervals = group_bootstrap(groups, gains, labels=labels, n_resamples=n_resamples, seed=seed)
    found = []
    for (inputs, model), interval in zip(keys, intervals, strict=True):
        key, over = (inputs, model), reference[inputs, model]
        source = same_source(labels, scores[key], groups)
        is_floor = inputs == METADATA
        found.append(
            ProbeRow(
                inputs=inputs,
                model=model,
                within_folds=pair_score(labels, groups, within[key], folds.tolist(), **options),
                pooled=float(ResampledScores(labels, scores[key]).auroc(once)[0]),
                same_recording=pair_score(labels, groups, source, groups, **options),
                over=None if is_floor else over[0] if over else CHANCE,
                gain=None if is_floor else alone[key] - (alone[over] if over else CHANCE_AUROC),
                gain_interval=None if is_floor else interval,
            )
        )
    return tuple(found)


def _reference(
    key: tuple[str, Model], alone: Mapping[tuple[str, Model], float], streams: Sequence[str]
) -> tuple[str, Model] | None:
    """What an input must beat, by the same model: metadata where that beats chance, else None; for a pair the better of its
    streams.
    """
    inputs, model = key
    parts = [(name, model) for pair in combinations(streams, 2) if "+".join(pair) == inputs for name in pair]
    if parts:
        return max(parts, key=lambda part: alone[part])
    floor = (METADATA, model)
    return floor if inputs != METADATA and alone.get(floor, 0.0) > CHANCE_AUROC else None
