"""A trained head on the labelled videos of a cache: all measures with intervals, floors, and which sources go wrong.

Videos that the head has seen, by file or by source group (`heads.trained.seen`), are refused; `seen=True` takes them all the
same and says so in every result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cache.errors import LabelError
from heads.data.dataset import HeadDataset, load_dataset
from heads.data.splits import FoldConfig, feasible_folds, fold_rows, labelled_rows
from heads.scoring.bootstrap import interval_notes
from heads.scoring.evaluate import Evaluation, evaluate
from heads.scoring.floor_scores import with_floor_scores
from heads.scoring.floors import (
    ALL_POSITIVE,
    FloorScores,
    beaten_notes,
    floors_out_of_fold,
    missing_floor_notes,
)
from heads.scoring.thresholds import ThresholdConfig
from heads.trained.head import TrainedHead
from heads.trained.record import SEEN, UNKNOWN, UNSEEN, PredictionTable
from heads.trained.seen import NOT_RECORDED, Overlap, SeenVideos, require_unseen

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache

FLOOR_FOLDS = 5
"""Or as many as source groups allow."""
LEAST_MISTAKES = 3
"""Below so many mistakes of one source, nothing is made of where they come from."""

SMALLEST = 1e-12
Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SourceScore:
    """One source group: its videos, and those on the wrong side of the threshold. log_loss: mean over its videos."""

    group: str
    n: int
    n_positive: int
    n_missed: int
    n_false_alarms: int
    log_loss: float

    @property
    def n_mistakes(self) -> int:
        """Missed and false alarms."""
        return self.n_missed + self.n_false_alarms


@dataclass(frozen=True, slots=True, eq=False)
class HeadEvaluation:
    """part: `UNSEEN`, `SEEN` (some are) or `UNKNOWN` (the head does not know its videos). table: every scored video.

    floors: fitted on these videos themselves, out of fold by source group. sources: worst first. overlap: None where
    the head does not know its videos. false_alarms_per_hour: of negative video, None where durations are unknown.
    """

    part: str
    where: str
    table: PredictionTable
    head: Evaluation
    floors: tuple[Evaluation, ...]
    sources: tuple[SourceScore, ...]
    overlap: Overlap | None
    false_alarms_per_hour: float | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the table."""
        return {
            "part": self.part,
            "cache": self.where,
            "overlap": None if self.overlap is None else self.overlap.words(),
            "head": self.head.as_dict(),
            "floors": {floor.name: floor.as_dict() for floor in self.floors},
            "false_alarms_per_hour": self.false_alarms_per_hour,
            "sources": [asdict(source) for source in self.sources],
            "notes": list(self.notes),
        }


def scored_dataset(
    head: TrainedHead, cache: Cache, *, labels: LabelJoin | None = None, ignore_libraries: bool = False
) -> HeadDataset:
    """The cache as the head reads it. Raises HeadError, FingerprintMismatch, and LabelError for other class names."""
    head.require_fits(cache, ignore_libraries=ignore_libraries)
    info = head.info
    config = replace(info.config.data, streams=tuple(s.name for s in info.streams), grid=info.grid)
    dataset = load_dataset(
        cache, separate_streams=info.config.model.separate_streams, config=config, labels=labels
    )
    if dataset.label_names != info.label_names:
        raise LabelError(
            f"the head decides {info.label_names[1]} against {info.label_names[0]}; these labels are "
            f"{dataset.label_names[1]} and {dataset.label_names[0]}. Pass --positive or other labels"
        )
    return dataset


def evaluate_head(
    head: TrainedHead,
    cache: Cache,
    *,
    seen: bool = False,
    labels: LabelJoin | None = None,
    n_resamples: int = 1000,
    ignore_libraries: bool = False,
    floor_files: Mapping[str, str | Path] | None = None,
) -> HeadEvaluation:
    """Score every labelled video of the cache at the stored threshold.

    seen: take videos that the head has seen as well. labels: a join that replaces the stored labels. floor_files: scores of
    something else as further floors, by name. Raises InputError where the head has seen any and `seen` is False, LabelError
    unless both classes are there, HeadError or FingerprintMismatch for a cache that does not fit.
    """
    info = head.info
    dataset = scored_dataset(head, cache, labels=labels, ignore_libraries=ignore_libraries)
    rows, notes = labelled_rows(dataset.labels, dataset.n_without)
    notes += dataset.copy_notes
    dataset = with_floor_scores(dataset, floor_files or {})
    where = ", ".join(cache.names)
    known = SeenVideos.of_head(info)
    overlap, part = None, UNKNOWN
    if known is None:
        notes += (NOT_RECORDED,)
    else:
        overlap = known.overlap(dataset, rows)
        if not seen:
            require_unseen(
                overlap, where=where, instead="give other videos, or --seen to evaluate all the same"
            )
        part = SEEN if overlap.seen.any() else UNSEEN
        if part == SEEN:
            notes += (f"SEEN: {overlap.words()}; these scores are too good, and say nothing of new videos",)
    logits = head.logits(dataset.tokens, rows)
    table = PredictionTable(
        ids=tuple(dataset.ids[i] for i in rows),
        labels=dataset.labels[rows],
        splits=(part,) * len(rows),
        groups=tuple(dataset.groups[i] for i in rows),
        logits=logits,
        probabilities=head.probabilities(logits),
    )
    threshold = info.threshold.threshold
    found = evaluate(
        "head",
        part,
        table.labels,
        table.probabilities,
        threshold=threshold,
        groups=table.groups,
        n_resamples=n_resamples,
        seed=info.config.seed,
    )
    floors, missing = own_floors(
        dataset,
        rows,
        part=part,
        config=info.config.threshold,
        n_resamples=n_resamples,
        seed=info.config.seed,
    )
    sources = source_scores(table, threshold)
    hours = dataset.negative_hours(rows)
    if n_resamples:
        notes += interval_notes("these videos", found.intervals.values())
    return HeadEvaluation(
        part=part,
        where=where,
        table=table,
        head=found,
        floors=floors,
        sources=sources,
        overlap=overlap,
        false_alarms_per_hour=None if hours is None else found.metrics.false_positives / hours,
        notes=(*notes, *missing, *beaten_notes(found, floors), *source_notes(sources)),
    )


def own_floors(
    dataset: HeadDataset,
    rows: Int,
    *,
    part: str,
    config: ThresholdConfig,
    n_resamples: int = 0,
    seed: int = 0,
) -> tuple[tuple[Evaluation, ...], tuple[str, ...]]:
    """Every floor on `rows` (int64 [M], sorted), each video scored by a floor that never saw its source group, and notes.

    Where source groups are too few for folds, all-positive stands alone with those given.
    """
    notes = missing_floor_notes(dataset)
    try:
        columns = dataset.labels, dataset.groups, rows
        k = feasible_folds(*columns, k=FLOOR_FOLDS)
        folds = fold_rows(*columns, config=FoldConfig(k=k), seed=seed)
        scores = floors_out_of_fold(dataset, folds, config=config)
    except LabelError as error:
        flat = np.full(len(dataset), 0.5)
        scores = {ALL_POSITIVE: FloorScores(np.ones(len(dataset)), flat, 0.5)}
        scores |= {name: FloorScores(found, flat, 0.5) for name, found in dataset.given_floors.items()}
        notes += (f"no floors but all-positive, which would be fitted on these videos out of fold: {error}",)
    groups = [dataset.groups[i] for i in rows]
    return tuple(
        evaluate(
            name,
            part,
            dataset.labels[rows],
            found.probabilities[rows],
            threshold=found.thresholds[rows],
            groups=groups,
            n_resamples=n_resamples,
            seed=seed,
        )
        for name, found in scores.items()
    ), notes


def source_scores(table: PredictionTable, threshold: float) -> tuple[SourceScore, ...]:
    """Every source group, most mistakes first, then the highest log loss."""
    scores = np.clip(table.probabilities, SMALLEST, 1 - SMALLEST)
    positive = table.labels == 1
    losses = -np.log(np.where(positive, scores, 1 - scores))
    flagged = table.probabilities >= threshold
    names = np.array(table.groups, dtype=object)
    found = []
    for group in sorted(set(table.groups)):
        own = names == group
        found.append(
            SourceScore(
                group=group,
                n=int(own.sum()),
                n_positive=int((own & positive).sum()),
                n_missed=int((own & positive & ~flagged).sum()),
                n_false_alarms=int((own & ~positive & flagged).sum()),
                log_loss=float(losses[own].mean()),
            )
        )
    return tuple(sorted(found, key=lambda source: (-source.n_mistakes, -source.log_loss)))


def source_notes(sources: Sequence[SourceScore]) -> tuple[str, ...]:
    """A note where half of all mistakes or more come from one source group."""
    mistakes = sum(source.n_mistakes for source in sources)
    worst = sources[0]
    if len(sources) < 2 or worst.n_mistakes < LEAST_MISTAKES or 2 * worst.n_mistakes < mistakes:
        return ()
    return (
        f"{worst.n_mistakes} of the {mistakes} mistakes are clips of one source group, {worst.group} ({worst.n} clips): "
        "look at it before believing any of these numbers",
    )
