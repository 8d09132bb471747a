"""Cross-validation of one recipe: every video scored by a head that never saw it or its source group.

K heads are trained, each without one fold. A fold's epoch, temperature and threshold come from videos held out
of the rest (its inner val), so nothing that scores a video was chosen on it. The floors go the same way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.arguments import shown
from cache.errors import HeadError, InputError
from heads.data.dataset import HeadDataset
from heads.data.splits import FoldConfig, Split, fold_splits
from heads.models.model import count_parameters
from heads.scoring.bootstrap import interval_notes
from heads.scoring.calibration import at_bound
from heads.scoring.evaluate import Evaluation, evaluate
from heads.scoring.floors import (
    beaten_notes,
    floor_names,
    floor_probabilities,
    floor_threshold,
    mean_tokens,
    missing_floor_notes,
)
from heads.scoring.thresholds import ThresholdChoice, choose_on_rows
from heads.training.batched import FitJob, fit_together, heads_together
from heads.training.config import TrainConfig
from heads.training.device import Device, resolve_device
from heads.training.epochs import FitResult
from heads.training.held_out import score_rows

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

OUT_OF_FOLD = "out-of-fold"
"""The name of the part that all folds make together."""

HEAD = "head"


@dataclass(frozen=True, slots=True)
class FoldResult:
    """The head that was trained without fold `number` (from 1), which holds n videos.

    best_epoch, threshold, temperature and degenerate (one class for everything) are of the fold's inner val.
    """

    number: int
    n: int
    best_epoch: int
    threshold: float
    temperature: float
    degenerate: bool


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFoldTable:
    """One row a video, sorted by id, each scored by the head of the fold that holds it.

    labels: int8 [M]. folds: int64 [M], from 1. probabilities, thresholds: float64 [M], a threshold being that
    of the head that scored the video.
    """

    ids: tuple[str, ...]
    labels: npt.NDArray[np.int8]
    groups: tuple[str, ...]
    folds: Int
    probabilities: Float
    thresholds: Float

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def flagged(self) -> npt.NDArray[np.bool_]:
        """Decisions, bool [M]."""
        return self.probabilities >= self.thresholds


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidation:
    """What K folds found. head, floors: on all videos of the table, decided by each fold's own threshold.

    threshold: the best single one for all out-of-fold probabilities, with its bootstrap interval by source
    group; no head uses it. notes: what the user must know. seconds: wall time.
    """

    k: int
    table: OutOfFoldTable
    head: Evaluation
    floors: tuple[Evaluation, ...]
    folds: tuple[FoldResult, ...]
    threshold: ThresholdChoice
    notes: tuple[str, ...]
    seconds: float

    def __repr__(self) -> str:
        return f"CrossValidation({self.k} folds, {len(self.table)} videos, AUROC {self.head.metrics.auroc})"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the table."""
        return {
            "k": self.k,
            "head": self.head.as_dict(),
            "floors": {floor.name: floor.as_dict() for floor in self.floors},
            "threshold": self.threshold.as_dict(),
            "folds": [asdict(fold) for fold in self.folds],
            "notes": list(self.notes),
        }


def cross_validate(
    dataset: HeadDataset,
    config: TrainConfig,
    *,
    k: int,
    rows: Int | None = None,
    device: Device = "auto",
    on_fold: Callable[[FoldResult], None] | None = None,
) -> CrossValidation:
    """Train and score K stratified, group-disjoint folds of `rows` (int64 [M]) that have a label.

    k: taken from the dataset's given folds where it has some. rows: None is everything outside the stored split test.
    on_fold is called for every fold as it is scored. Raises LabelError when source groups are too few for K folds,
    InputError for settings that do not fit, HeadError naming the fold whose loss stops being finite.
    """
    if not isinstance(dataset, HeadDataset):
        raise InputError(
            f"cross_validate takes a dataset, not {shown(dataset)}: heads.data.dataset.load_dataset(cache, ...)"
        )
    started = time.perf_counter()
    rows = dataset.outside_test if rows is None else rows
    splits = fold_splits(
        dataset.labels,
        dataset.groups,
        config=FoldConfig(k=k),
        seed=config.seed,
        rows=rows,
        given=dataset.given_folds,
    )
    k = len(splits)
    fold_of = np.zeros(len(dataset), dtype=np.int64)
    scores = {name: _Scores.nowhere(len(dataset)) for name in (HEAD, *floor_names(dataset))}
    pooled = mean_tokens(dataset.tokens)
    folds = []
    for number, split, result in _fit_folds(dataset, config, splits, device):
        fold = np.sort(split.test)
        fold_of[fold] = number
        own = score_rows(dataset, config, result, val=split.val, rows=fold)
        scores[HEAD].put(fold, own.probabilities, own.choice.threshold)
        for name, found in floor_probabilities(dataset, split.train, pooled=pooled).items():
            threshold = floor_threshold(name, dataset, split.val, found, config=config.threshold)
            scores[name].put(fold, found[fold], threshold)
        folds.append(
            FoldResult(
                number=number,
                n=len(fold),
                best_epoch=result.best_epoch,
                threshold=own.choice.threshold,
                temperature=own.temperature,
                degenerate=own.choice.degenerate,
            )
        )
        if on_fold is not None:
            on_fold(folds[-1])
    scored = np.flatnonzero(fold_of)
    table = OutOfFoldTable(
        ids=tuple(dataset.ids[i] for i in scored),
        labels=dataset.labels[scored],
        groups=tuple(dataset.groups[i] for i in scored),
        folds=fold_of[scored],
        probabilities=scores[HEAD].probabilities[scored],
        thresholds=scores[HEAD].thresholds[scored],
    )
    head, *floors = (
        evaluate(
            name,
            OUT_OF_FOLD,
            table.labels,
            found.probabilities[scored],
            threshold=found.thresholds[scored],
            groups=table.groups,
            n_resamples=config.n_resamples,
            seed=config.seed,
        )
        for name, found in scores.items()
    )
    choice = choose_on_rows(
        dataset,
        scored,
        table.probabilities,
        config=config.threshold,
        n_resamples=config.n_resamples,
        seed=config.seed,
    )
    notes = [*dict.fromkeys(note for split in splits for note in split.notes), *missing_floor_notes(dataset)]
    notes += _fold_notes(folds)
    notes += [f"{warning} (the out-of-fold threshold)" for warning in choice.warnings]
    if config.n_resamples:
        notes += interval_notes("out-of-fold videos", (*head.intervals.values(), choice.interval))
    notes += beaten_notes(head, tuple(floors))
    return CrossValidation(
        k=k,
        table=table,
        head=head,
        floors=tuple(floors),
        folds=tuple(folds),
        threshold=choice,
        notes=tuple(notes),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """Out-of-fold probabilities of one model and the threshold of each, float64 [V]; NaN where not scored."""

    probabilities: Float
    thresholds: Float

    @classmethod
    def nowhere(cls, n: int) -> _Scores:
        return cls(np.full(n, np.nan), np.full(n, np.nan))

    def put(self, rows: Int, probabilities: Float, threshold: float) -> None:
        self.probabilities[rows] = probabilities
        self.thresholds[rows] = threshold


def _fit_folds(
    dataset: HeadDataset, config: TrainConfig, splits: list[Split], device: Device
) -> Iterator[tuple[int, Split, FitResult]]:
    """Each fold's number (from 1), split and head, trained as many at a time as fit beside each other."""
    size = heads_together(
        batch_size=config.optim.batch_size,
        longest=int(dataset.tokens.lengths.max()),
        n_parameters=count_parameters(config.model, dataset.stream_dims),
    )
    jobs = [FitJob(config, split.train, split.val, dataset.negative_hours(split.val)) for split in splits]
    for pack in np.array_split(np.arange(len(splits)), math.ceil(len(splits) / size)):
        results = fit_together(
            dataset.tokens,
            dataset.labels,
            [jobs[place] for place in pack],
            stream_dims=dataset.stream_dims,
            device=resolve_device(device),
        )
        for place, result in zip(pack.tolist(), results, strict=True):
            if isinstance(result, HeadError):
                raise HeadError(f"fold {place + 1} of {len(splits)}: {result}") from result
            yield place + 1, splits[place], result


def _fold_notes(folds: list[FoldResult]) -> list[str]:
    notes = []
    if one_class := [str(fold.number) for fold in folds if fold.degenerate]:
        notes.append(
            f"DEGENERATE: in fold {', '.join(one_class)} of {len(folds)} the threshold calls every video of the inner "
            "val one class"
        )
    if off_scale := [str(fold.number) for fold in folds if at_bound(fold.temperature)]:
        notes.append(
            f"in fold {', '.join(off_scale)} of {len(folds)} the best temperature lies beyond the end of the search: "
            "such scores are on another scale than those of other folds, which blurs AUROC and the threshold over all"
        )
    return notes


def unlike_out_of_fold_notes(out_of_fold: ThresholdChoice, choice: ThresholdChoice) -> tuple[str, ...]:
    """A note when val's threshold lies outside the interval of the out-of-fold threshold."""
    interval = out_of_fold.interval
    if interval is None or choice.threshold in interval:
        return ()
    return (
        f"the checkpoint's threshold {choice.threshold:.4f}, chosen on val, lies outside the 95 % interval of the "
        f"out-of-fold threshold, {interval}: it may not hold on other videos",
    )
