"""A sweep's cells ranked by one metric, with bootstrap intervals by source group and paired against a baseline.

All cells are scored on the same videos. A resample draws source groups; the metric of every cell is taken on the
same draws, so the difference to the baseline has an interval of its own (a paired bootstrap). A cell's number is
the mean over its seeds; under cross-validation a seed's number is taken over all folds' held-out videos together.
Shape legend: R resamples, V scored videos, K cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cache.errors import InputError
from cache.fingerprint import fingerprint_digest
from heads.ablation.grid import Cell
from heads.ablation.record import SweepRecord
from heads.ablation.runs import Run, RunRecord
from heads.data.dataset import HeadDataset, StreamInput, random_note, weights_line
from heads.scoring.bootstrap import Interval, group_bootstrap, interval_notes
from heads.scoring.cuts import ResampledScores
from heads.scoring.floors import MEAN_POOLED, STATISTICS_FLOOR, missing_floor_notes

Metric = Literal["auroc", "average_precision", "f1"]
METRICS: tuple[Metric, ...] = ("auroc", "average_precision", "f1")
METRIC_NAMES: dict[Metric, str] = {"auroc": "AUROC", "average_precision": "average precision", "f1": "F1"}

Float = npt.NDArray[np.float64]
Statistic = Callable[[Float], Float]


@dataclass(frozen=True, slots=True)
class Row:
    """One cell, or a floor (rank None). Numbers are None where undefined or where a run has failed.

    scores: every metric, mean over seeds. seed_sd: of the ranking metric, from two seeds on (under cross-validation
    each with folds of its own). interval, delta, delta_interval: of the ranking metric; delta is this row minus the
    baseline. threshold_mean, _low, _high: over seeds and folds. threshold_drift: mean change of the threshold from
    one epoch to the next. seconds: of all its runs. failed: what went wrong, run by run.
    """

    rank: int | None
    label: str
    settings: tuple[tuple[str, str], ...]
    is_baseline: bool
    scores: Mapping[Metric, float | None]
    interval: Interval | None
    seed_sd: float | None
    delta: float | None
    delta_interval: Interval | None
    threshold_mean: float | None
    threshold_low: float | None
    threshold_high: float | None
    threshold_drift: float | None
    n_degenerate: int
    best_epoch: float | None
    seconds: float
    n_parameters: int
    n_runs: int
    precision: str
    failed: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the interval of the difference to the baseline leaves out 0."""
        return self.delta_interval is not None and 0.0 not in self.delta_interval


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """rows: cells, best first, failed ones last. floors: what every cell must beat. notes: how to read it.

    sweep: which sweep it is of, None where it was not made by one.
    """

    metric: Metric
    rows: tuple[Row, ...]
    floors: tuple[Row, ...]
    dataset: str
    cache_digest: str
    split: str
    n_videos: int
    n_positive: int
    n_groups: int
    weights: str
    random_note: str
    fingerprints: Mapping[str, str]
    fingerprint_details: Mapping[str, Any]
    notes: tuple[str, ...]
    sweep: SweepRecord | None = None

    @property
    def metric_name(self) -> str:
        """As tables show it."""
        return METRIC_NAMES[self.metric]

    @property
    def swept(self) -> tuple[str, ...]:
        """Dotted keys of what differs between cells, in the order given."""
        return tuple(dict.fromkeys(key for row in self.rows for key, _ in row.settings))


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """A cell's or a floor's finished runs by seed, and its scores on all scored videos."""

    label: str
    settings: tuple[tuple[str, str], ...]
    records: list[RunRecord]
    probabilities: list[Float]
    decisions: list[Float]

    def statistic(self, metric: Metric, labels: npt.NDArray[np.int8]) -> Statistic | None:
        """weights [R, V] -> the metric's mean over seeds [R]; None where a run has failed."""
        if not self.probabilities:
            return None
        own = [
            _seed_statistic(metric, labels, scores, flags)
            for scores, flags in zip(self.probabilities, self.decisions, strict=True)
        ]

        def mean_over_seeds(weights_RV: Float) -> Float:
            mean: Float = np.mean([one(weights_RV) for one in own], axis=0)
            return mean

        return mean_over_seeds


def _seed_statistic(metric: Metric, labels: npt.NDArray[np.int8], scores: Float, flags: Float) -> Statistic:
    if metric == "f1":
        truth = (labels == 1).astype(np.float64)

        def f1(weights_RV: Float) -> Float:
            hits, total = weights_RV @ (flags * truth), weights_RV @ flags + weights_RV @ truth
            score: Float = np.divide(2 * hits, total, out=np.full_like(hits, np.nan), where=total > 0)
            return score

        return f1
    resampled = ResampledScores(labels, scores)
    score: Statistic = resampled.auroc if metric == "auroc" else resampled.average_precision
    return score


def build_leaderboard(
    cells: Sequence[Cell],
    runs: Sequence[Run],
    records: Mapping[str, RunRecord],
    *,
    dataset: HeadDataset,
    streams: Sequence[StreamInput],
    floors: Mapping[str, Sequence[tuple[int, RunRecord]]],
    metric: Metric = "auroc",
    baseline: int = 0,
    n_resamples: int = 1000,
) -> Leaderboard:
    """Rank finished cells. floors: by name, each record with the offset of its seed.

    Raises InputError for an unknown metric or when a run is not finished.
    """
    if metric not in METRICS:
        raise InputError(f"metric must be one of {', '.join(METRICS)}; got '{metric}'")
    missing = [run.label for run in runs if run.key not in records]
    if missing:
        raise InputError(f"{len(missing)} runs are not finished, such as {missing[0]}; train them first")
    splits = {(run.offset, run.fold): run for run in runs}
    scored = np.unique(np.concatenate([run.scored for run in splits.values()]))
    places = {key: np.searchsorted(scored, run.scored) for key, run in splits.items()}
    entries = []
    for number, cell in enumerate(cells):
        own = [(run.offset, records[run.key]) for run in runs if run.number == number]
        entries.append(_entry(cell.label, cell.settings, own, places, len(scored)))
    pooled = "+".join(stream.name for stream in dataset.streams)
    for name, found in floors.items():
        label = f"{name} of {pooled}" if name in (MEAN_POOLED, STATISTICS_FLOOR) else name
        entries.append(_entry(label, (), list(found), places, len(scored)))
    labels, groups = dataset.labels[scored], [dataset.groups[row] for row in scored]
    rows = _rows(
        entries, labels, groups, metric=metric, baseline=baseline, n_cells=len(cells), n_resamples=n_resamples
    )
    ranked = sorted(rows[: len(cells)], key=lambda row: _descending(row.scores[metric]))
    first = runs[0]
    return Leaderboard(
        metric=metric,
        rows=tuple(_with_rank(row, place, metric) for place, row in enumerate(ranked, start=1)),
        floors=tuple(rows[len(cells) :]),
        dataset=dataset.cache_name,
        cache_digest=dataset.cache_digest,
        split=first.split.origin if first.fold is None else _fold_words(splits),
        n_videos=len(scored),
        n_positive=int((labels == 1).sum()),
        n_groups=len(set(groups)),
        weights=weights_line(streams),
        random_note=random_note(streams),
        fingerprints={stream.name: fingerprint_digest(stream.fingerprint) for stream in streams},
        fingerprint_details={stream.name: dict(stream.fingerprint) for stream in streams},
        notes=(
            *_notes(runs, len(cells), dataset),
            *_floor_notes(ranked[0], rows[len(cells) :], metric),
            *_interval_notes(rows, metric) * bool(n_resamples),
        ),
    )


def _fold_words(splits: Collection[tuple[int, int | None]]) -> str:
    n_seeds, n_folds = len({offset for offset, _ in splits}), len({fold for _, fold in splits})
    again = f"; drawn again for each of {n_seeds} seeds" if n_seeds > 1 else ""
    return f"{n_folds} folds, each scored by heads that never saw it{again}"


def _entry(
    label: str,
    settings: tuple[tuple[str, str], ...],
    records: list[tuple[int, RunRecord]],
    places: Mapping[tuple[int, int | None], npt.NDArray[np.int64]],
    n_scored: int,
) -> _Entry:
    """records: each with the offset of its seed."""
    by_seed: dict[int, list[RunRecord]] = {}
    for offset, record in records:
        by_seed.setdefault(offset, []).append(record)
    entry = _Entry(label, settings, [record for _, record in records], [], [])
    if any(record.error for record in entry.records):
        return entry
    for offset, members in by_seed.items():
        scores, flags = np.zeros(n_scored), np.zeros(n_scored)
        for record in members:
            found = np.array(record.probabilities)
            scores[places[offset, record.fold]] = found
            flags[places[offset, record.fold]] = found >= record.threshold
        entry.probabilities.append(scores)
        entry.decisions.append(flags)
    return entry


def _rows(
    entries: Sequence[_Entry],
    labels: npt.NDArray[np.int8],
    groups: Sequence[str],
    *,
    metric: Metric,
    baseline: int,
    n_cells: int,
    n_resamples: int,
) -> list[Row]:
    statistics = [entry.statistic(metric, labels) for entry in entries]

    def all_rows(weights_RV: Float) -> Float:
        nothing = np.full(len(weights_RV), np.nan)
        columns = np.stack([nothing if s is None else s(weights_RV) for s in statistics], axis=1)
        return np.concatenate([columns, columns - columns[:, baseline : baseline + 1]], axis=1)

    observed = all_rows(np.ones((1, len(labels))))[0]
    intervals: list[Interval | None] = [None] * (2 * len(entries))
    if n_resamples:
        intervals = group_bootstrap(groups, all_rows, labels=labels, n_resamples=n_resamples)
    return [
        _row(
            entry,
            labels,
            is_baseline=number == baseline,
            is_cell=number < n_cells,
            metric=metric,
            delta=None if number == baseline else _defined(observed[len(entries) + number]),
            interval=intervals[number],
            delta_interval=None if number == baseline else intervals[len(entries) + number],
        )
        for number, entry in enumerate(entries)
    ]


def _row(
    entry: _Entry,
    labels: npt.NDArray[np.int8],
    *,
    is_baseline: bool,
    is_cell: bool,
    metric: Metric,
    delta: float | None,
    interval: Interval | None,
    delta_interval: Interval | None,
) -> Row:
    once = np.ones((1, len(labels)))
    scores: dict[Metric, float | None] = {}
    for name in METRICS:
        statistic = entry.statistic(name, labels)
        scores[name] = None if statistic is None else _defined(statistic(once)[0])
    by_seed = [
        float(_seed_statistic(metric, labels, p, d)(once)[0])
        for p, d in zip(entry.probabilities, entry.decisions, strict=True)
    ]
    done = [record for record in entry.records if record.error is None]
    thresholds = [record.threshold for record in done]
    steps = [
        abs(b - a) for r in done for a, b in zip(r.threshold_by_epoch, r.threshold_by_epoch[1:], strict=False)
    ]
    return Row(
        rank=None,
        label=entry.label,
        settings=entry.settings,
        is_baseline=is_baseline,
        scores=scores,
        interval=interval,
        seed_sd=float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
        delta=delta,
        delta_interval=delta_interval,
        threshold_mean=float(np.mean(thresholds)) if thresholds else None,
        threshold_low=min(thresholds, default=None),
        threshold_high=max(thresholds, default=None),
        threshold_drift=float(np.mean(steps)) if steps else None,
        n_degenerate=sum(record.degenerate for record in done),
        best_epoch=float(np.mean([r.best_epoch for r in done])) if is_cell and done else None,
        seconds=sum(record.seconds for record in entry.records),
        n_parameters=max((record.n_parameters for record in done), default=0),
        n_runs=len(entry.records),
        precision=", ".join(sorted({r.precision for r in done})),
        failed=tuple(
            f"seed {r.seed}{'' if r.fold is None else f', fold {r.fold + 1}'}: {r.error}"
            for r in entry.records
            if r.error
        ),
    )


def _with_rank(row: Row, place: int, metric: Metric) -> Row:
    return row if row.scores[metric] is None else replace(row, rank=place)


def _descending(value: float | None) -> float:
    return math.inf if value is None else -value


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _interval_notes(rows: Sequence[Row], metric: Metric) -> tuple[str, ...]:
    scored = [row for row in rows if row.scores[metric] is not None]
    found = [interval for row in scored for interval in (row.interval, row.delta_interval)]
    return interval_notes("the scored videos", found)


def _floor_notes(best: Row, floors: Sequence[Row], metric: Metric) -> tuple[str, ...]:
    """A note where the best cell is no better than floors, which are what a cell must beat to mean anything."""
    own = best.scores[metric]
    above = [
        f"{floor.label} ({value:.3f})"
        for floor in floors
        if own is not None and (value := floor.scores[metric]) is not None and value >= own
    ]
    if own is None or not above:
        return ()
    return (
        f"the best cell, {best.label}, is no better than the floors {', '.join(above)}: {METRIC_NAMES[metric]} {own:.3f}",
    )


def _notes(runs: Sequence[Run], n_cells: int, dataset: HeadDataset) -> tuple[str, ...]:
    first = runs[0]
    notes = [*dict.fromkeys(note for run in runs for note in run.split.notes)]
    if first.fold is None:
        notes.append(
            "val chose epoch, temperature and threshold of every cell and ranks them here, so all scores are "
            "optimistic; --cv K ranks by held-out folds"
        )
        if any(run.offset for run in runs):
            notes.append(
                "all seeds share one split, so seed SD leaves out what another split would change; --cv has it"
            )
    notes += (*missing_floor_notes(dataset), *dataset.copy_notes)
    notes += () if dataset.folds is None else dataset.folds.notes
    if n_test := len(dataset) - len(dataset.outside_test):
        notes.append(f"the {n_test} test videos were not looked at; train-head scores its choice there, once")
    if n_cells > 1:
        notes.append(
            f"the best of {n_cells} cells is partly luck: read the intervals, and confirm the winner on videos "
            "that played no part here"
        )
    if note := random_note(dataset.streams):
        notes.append(note)
    return tuple(notes)
