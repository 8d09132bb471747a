"""Is a stream worth anything? Plain models on every stream and every pair of them, out of fold, beside metadata.

Nothing is trained that is kept, and nothing is to be set. Each stream's tokens become their mean and deviation over time
(`heads.scoring.statistics`); a pair of streams is the mean of their logits, or of their neighbours' shares. Folds keep source
groups together, and the stored test split is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cache.arguments import require_open_cache, require_whole
from cache.fingerprint import weights_name
from heads.data.rows import METADATA_COLUMNS, VideoRows, read_rows, varying_columns
from heads.data.splits import FoldConfig, Split, fold_splits
from heads.scoring.bootstrap import Interval, group_bootstrap
from heads.scoring.calibration import probabilities
from heads.scoring.cuts import ResampledScores
from heads.scoring.pairs import PairScore, pair_score, same_source, within_parts
from heads.scoring.statistics import mean_and_deviation, out_of_sample_logits, out_of_sample_neighbours

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache

FOLDS = 5
CHANCE_AUROC = 0.5
METADATA, CHANCE = "metadata", "chance"
Model = Literal["logistic", "k-NN"]
LOGISTIC: Model = "logistic"
NEIGHBOURS: Model = "k-NN"

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
    rows = read_rows(cache, labels)
    splits, notes = _folds(rows, seed)
    scored = np.sort(np.concatenate([split.test for split in splits]))
    columns = {name: mean_and_deviation(cache, name)[rows.order] for name in cache.streams}
    varying = varying_columns(rows.metadata[scored])
    if varying.any():
        columns = {METADATA: np.nan_to_num(rows.metadata)[:, varying], **columns}
    else:
        notes += (f"no metadata: {', '.join(METADATA_COLUMNS)} are unknown or the same for all videos",)
    scores = _out_of_fold(columns, rows, splits, scored, seed)
    fold_of = np.zeros(len(rows), dtype=np.int64)
    for number, split in enumerate(splits, start=1):
        fold_of[split.test] = number
    own_labels, groups = rows.labels[scored], [rows.groups[row] for row in scored]
    found = _rows(
        scores, own_labels, groups, fold_of[scored], tuple(cache.streams), n_resamples=n_resamples, seed=seed
    )
    fingerprints = {name: info.fingerprint for name, info in cache.streams.items()}
    return ProbeReport(
        paths=tuple(map(str, cache.paths)),
        n_videos=len(scored),
        n_positive=int((own_labels == 1).sum()),
        n_groups=len(set(groups)),
        n_folds=len(splits),
        weights=", ".join(f"{name}: {weights_name(found)}" for name, found in fingerprints.items()),
        random_weights=cache.random_weights,
        rows=found,
        notes=notes,
    )


def _folds(rows: VideoRows, seed: int) -> tuple[list[Split], tuple[str, ...]]:
    outside_test = np.flatnonzero(np.array(rows.splits) != "test")
    names = np.array(rows.groups, dtype=object)
    with_label = [len(set(names[outside_test][rows.labels[outside_test] == label])) for label in (0, 1)]
    k = max(2, min(FOLDS, *with_label))
    splits = fold_splits(rows.labels, rows.groups, config=FoldConfig(k=k), seed=seed, rows=outside_test)
    notes = tuple(dict.fromkeys(note for split in splits for note in split.notes))
    if n_test := len(rows) - len(outside_test):
        notes += (f"the {n_test} test videos were not looked at",)
    return splits, notes


def _out_of_fold(
    columns: Mapping[str, Float],
    rows: VideoRows,
    splits: Sequence[Split],
    scored: npt.NDArray[np.int64],
    seed: int,
) -> dict[tuple[str, Model], Float]:
    """Probabilities or shares of every input by both models, of the scored rows: float64 [M]."""
    logits = {name: np.zeros(len(rows)) for name in columns}
    shares = {name: np.zeros(len(rows)) for name in columns}
    for split in splits:
        train = np.sort(np.concatenate([split.train, split.val]))
        for name, own in columns.items():
            logits[name][split.test], _ = out_of_sample_logits(
                own, rows.labels, rows.groups, train=train, rows=split.test, seed=seed
            )
            shares[name][split.test] = out_of_sample_neighbours(
                own, rows.labels, train=train, rows=split.test
            )
    streams = [name for name in columns if name != METADATA]
    for one, other in combinations(streams, 2):
        logits[f"{one}+{other}"] = (logits[one] + logits[other]) / 2
        shares[f"{one}+{other}"] = (shares[one] + shares[other]) / 2
    found: dict[tuple[str, Model], Float] = {}
    for name in logits:
        found[name, LOGISTIC] = probabilities(logits[name][scored])
        found[name, NEIGHBOURS] = shares[name][scored].clip(0, 1)
    return found


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
