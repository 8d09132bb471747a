"""Cross-validation of one recipe: every video scored by a head that never saw it or its source group.

K heads are trained, each without one fold, and what they say of it decides temperature and threshold. Each fold is
decided by the threshold that the *other* folds choose, so that no decision here was chosen on the video that it
is made on; the temperature is one for all, which moves no order. The floors go the same way, without a temperature.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.arguments import shown
from cache.errors import InputError
from heads.data.dataset import HeadDataset
from heads.data.splits import FoldConfig, fold_rows, given_fold_notes, labelled_rows
from heads.scoring.bootstrap import interval_notes
from heads.scoring.calibration import Calibration
from heads.scoring.evaluate import Evaluation, evaluate
from heads.scoring.floors import beaten_notes, floors_apart, floors_out_of_fold, missing_floor_notes
from heads.scoring.pairs import PairScore, pair_score, within_parts
from heads.scoring.thresholds import ThresholdChoice, choose_on_rows
from heads.training.config import TrainConfig
from heads.training.decide import Decision, decide
from heads.training.device import Device
from heads.training.out_of_fold import FoldHeads, fit_fold_heads

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

OUT_OF_FOLD = "out-of-fold"
"""The name of the part that all folds make together."""

HEAD = "head"


@dataclass(frozen=True, slots=True)
class FoldResult:
    """The head that was trained without fold `number` (from 1), which holds n videos.

    threshold and degenerate (one class for everything) are those of the other folds' videos.
    """

    number: int
    n: int
    best_epoch: int
    threshold: float
    degenerate: bool


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFoldTable:
    """One row a video, sorted by id, each scored by the head of the fold that holds it.

    labels: int8 [M]. folds: int64 [M], from 1. logits, probabilities, thresholds: float64 [M], a threshold
    being that which the other folds choose.
    """

    ids: tuple[str, ...]
    labels: npt.NDArray[np.int8]
    groups: tuple[str, ...]
    folds: Int
    logits: Float
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
    """What K folds found. head, floors: on all videos of the table, each decided by what the other folds chose.

    decision: of all out-of-fold logits together, the threshold with its bootstrap interval by source
    group; the stored head takes it. within_folds: AUROC over pairs of one fold, in which no head is compared with
    another's scale. floor_thresholds: the same of each floor. notes: what the user must know.
    seconds: wall time. heads: what was trained.
    """

    k: int
    table: OutOfFoldTable
    head: Evaluation
    floors: tuple[Evaluation, ...]
    folds: tuple[FoldResult, ...]
    decision: Decision
    within_folds: PairScore
    floor_thresholds: Mapping[str, float]
    notes: tuple[str, ...]
    seconds: float
    heads: FoldHeads

    def __repr__(self) -> str:
        return f"CrossValidation({self.k} folds, {len(self.table)} videos, AUROC {self.head.metrics.auroc})"

    @property
    def threshold(self) -> ThresholdChoice:
        """The decision's."""
        return self.decision.choice

    @property
    def calibration(self) -> Calibration:
        """The decision's."""
        return self.decision.calibration

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the table."""
        return {
            "k": self.k,
            "head": self.head.as_dict(),
            "floors": {floor.name: floor.as_dict() for floor in self.floors},
            "calibration": asdict(self.calibration),
            "threshold": self.threshold.as_dict(),
            "within_folds": self.within_folds.as_dict(),
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
    heads: FoldHeads | None = None,
) -> CrossValidation:
    """Train and score K stratified, group-disjoint folds of `rows` (int64 [M]) that have a label.

    k: taken from the dataset's given folds where it has some. rows: None is everything outside the stored split test.
    on_fold is called for every fold as it is decided. heads: of these folds, where they are trained already. Raises
    LabelError when source groups are too few for K folds,
    InputError for settings that do not fit, HeadError naming the fold whose loss stops being finite.
    """
    if not isinstance(dataset, HeadDataset):
        raise InputError(
            f"cross_validate takes a dataset, not {shown(dataset)}: heads.data.dataset.load_dataset(cache, ...)"
        )
    started = time.perf_counter()
    rows = dataset.outside_test if rows is None else rows
    if heads is None:
        found_folds, _ = folds_of(dataset, config, k=k, rows=rows)
        heads = fit_fold_heads(dataset, config, found_folds, device=device)
    scored, fold_of = heads.rows, heads.fold_of[heads.rows]
    logits, labels = heads.logits[scored], dataset.labels[scored]
    together = decide(logits, labels, config, dataset=dataset, rows=scored, n_resamples=config.n_resamples)
    scores, thresholds = together.probabilities(logits), np.empty(len(scored))
    folds = []
    for number in range(1, len(heads.folds) + 1):
        own = fold_of == number
        choice = choose_on_rows(dataset, scored[~own], scores[~own], config=config.threshold)
        thresholds[own] = choice.threshold
        best_epoch = heads.results[number - 1].best_epoch
        folds.append(FoldResult(number, int(own.sum()), best_epoch, choice.threshold, choice.degenerate))
        if on_fold is not None:
            on_fold(folds[-1])
    table = OutOfFoldTable(
        ids=tuple(dataset.ids[i] for i in scored),
        labels=labels,
        groups=tuple(dataset.groups[i] for i in scored),
        folds=fold_of,
        logits=logits,
        probabilities=scores,
        thresholds=thresholds,
    )
    found_floors = floors_out_of_fold(
        dataset, heads.folds, config=config.threshold, pooled=heads.token_statistics
    )
    head, *floors = (
        evaluate(
            name,
            OUT_OF_FOLD,
            labels,
            own_scores,
            threshold=own_thresholds,
            groups=table.groups,
            n_resamples=config.n_resamples,
            seed=config.seed,
        )
        for name, own_scores, own_thresholds in (
            (HEAD, scores, thresholds),
            *((n, f.probabilities[scored], f.thresholds[scored]) for n, f in found_floors.items()),
        )
    )
    choice = together.choice
    notes = [*fold_notes(dataset, heads), *missing_floor_notes(dataset), *dataset.copy_notes]
    notes += _decision_notes(folds)
    notes += [f"{warning} (the out-of-fold threshold)" for warning in choice.warnings]
    if config.n_resamples:
        notes += interval_notes("out-of-fold videos", (*head.intervals.values(), choice.interval))
    notes += beaten_notes(head, floors_apart(config.model.architecture, tuple(floors)))
    return CrossValidation(
        k=len(heads.folds),
        table=table,
        head=head,
        floors=tuple(floors),
        folds=tuple(folds),
        decision=together,
        within_folds=pair_score(
            labels,
            table.groups,
            within_parts(labels, logits, fold_of.tolist()),
            fold_of.tolist(),
            n_resamples=config.n_resamples,
            seed=config.seed,
        ),
        floor_thresholds={name: floor.threshold for name, floor in found_floors.items()},
        notes=tuple(notes),
        seconds=time.perf_counter() - started,
        heads=heads,
    )


def folds_of(
    dataset: HeadDataset, config: TrainConfig, *, k: int, rows: Int
) -> tuple[list[tuple[Int, Int]], tuple[str, ...]]:
    """The folds of these rows that have a label, and notes on rows without one."""
    known, notes = labelled_rows(dataset.labels, dataset.n_without)
    folds = fold_rows(
        dataset.labels,
        dataset.groups,
        np.intersect1d(known, rows),
        config=FoldConfig(k=k),
        seed=config.seed,
        given=dataset.given_folds,
    )
    return folds, notes


def fold_notes(dataset: HeadDataset, heads: FoldHeads) -> list[str]:
    """Videos without a label, and folds of a single class."""
    _, notes = labelled_rows(dataset.labels, dataset.n_without)
    one_class = [
        f"fold {number} holds a single class"
        for number, (_, fold) in enumerate(heads.folds, start=1)
        if len(np.unique(dataset.labels[fold])) == 1
    ]
    given = dataset.folds
    told = (
        () if given is None else (*given.notes, *given_fold_notes(dataset.groups, heads.rows, given.numbers))
    )
    return [*notes, *told, *one_class]


def _decision_notes(folds: list[FoldResult]) -> list[str]:
    notes = []
    if one_class := [str(fold.number) for fold in folds if fold.degenerate]:
        notes.append(
            f"DEGENERATE: without fold {', '.join(one_class)} of {len(folds)} the threshold calls every out-of-fold "
            "video one class"
        )
    return notes
