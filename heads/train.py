"""From a cache to a trained head: read, split, fit, choose the threshold, score, put the floors beside it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cache.arguments import require_open_cache, shown
from cache.errors import InputError
from heads.data.dataset import HeadDataset, load_dataset
from heads.data.splits import Split, choose_split, labelled_rows, straddling_notes
from heads.scoring.bootstrap import interval_notes
from heads.scoring.calibration import probabilities, rescaled
from heads.scoring.evaluate import Evaluation, evaluate
from heads.scoring.floor_scores import with_floor_scores
from heads.scoring.floors import beaten_notes, evaluate_floors, floors_apart, missing_floor_notes
from heads.scoring.thresholds import choose_threshold, lipton_warning
from heads.trained.head import HeadInfo, TrainedHead
from heads.trained.record import PredictionTable, TrainingRecord
from heads.trained.seen import SeenVideos
from heads.training.config import TrainConfig
from heads.training.cross_validation import (
    OUT_OF_FOLD,
    CrossValidation,
    FoldResult,
    cross_validate,
    folds_of,
)
from heads.training.decide import Decision, decide
from heads.training.device import Device, resolve_device
from heads.training.fit import EpochRow, FitResult, fit, predict_logits
from heads.training.out_of_fold import FoldHeads, mean_history, mean_of_folds, refit
from heads.training.portfolio import EPOCHS, compare, usual_folds

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache

Float = npt.NDArray[np.float64]
FAR_APART = 0.15
"""Difference in AUROC between train and out of fold from which a note is made."""

Ensemble = Literal["folds", "refit"]
LIBRARIES = ("onepass", "torch", "numpy", "scikit-learn", "safetensors", "zarr", "h5py")


def train_head(
    cache: Cache,
    config: TrainConfig | None = None,
    *,
    labels: LabelJoin | None = None,
    device: Device = "auto",
    on_epoch: Callable[[EpochRow], None] | None = None,
    cv: int | None = None,
    ensemble: Ensemble | None = None,
    on_fold: Callable[[FoldResult], None] | None = None,
    floor_files: Mapping[str, str | Path] | None = None,
) -> TrainedHead:
    """Train one head from a cache, on its own split or a holdout by source group.

    config: None compares a portfolio of models out of fold and takes one (`heads.training.portfolio`). labels: a join that
    replaces the stored labels (`cache.labels.label_videos`). cv: folds by source group that decide instead of val, over all
    labelled videos outside test; the head is then trained on all of these. ensemble: the mean of the heads of the folds (None:
    the same), or one refitted on all. on_fold is called for every fold, on_epoch after every epoch where val chooses.
    floor_files: scores of something else as further floors, by name. Raises LabelError when labels cannot be trained on,
    InputError for settings that do not fit the cache, HeadError when the loss stops being finite.
    """
    require_open_cache(cache, "train_head")
    auto = config is None
    config = TrainConfig().updated({"epochs": EPOCHS}) if config is None else config
    if not isinstance(config, TrainConfig):
        raise InputError(
            f"config must be a TrainConfig, such as TrainConfig().updated({{...}}), not {shown(config)}"
        )
    started = time.perf_counter()
    separate = auto or config.model.separate_streams
    dataset = load_dataset(cache, separate_streams=separate, config=config.data, labels=labels)
    dataset = with_floor_scores(dataset, floor_files or {})
    columns, share = (dataset.labels, dataset.splits, dataset.groups), config.data.val_share
    split = choose_split(*columns, val_share=share, seed=config.seed, n_without=dataset.n_without)
    spent = {"load": time.perf_counter() - started}
    if auto:
        return train_auto(
            dataset, split, config, device=device, cv=cv, ensemble=ensemble, on_fold=on_fold, seconds=spent
        )
    return train_on(
        dataset,
        split,
        config,
        device=device,
        on_epoch=on_epoch,
        cv=cv,
        ensemble=ensemble,
        on_fold=on_fold,
        seconds=spent,
    )


def train_on(
    dataset: HeadDataset,
    split: Split,
    config: TrainConfig,
    *,
    device: Device = "auto",
    on_epoch: Callable[[EpochRow], None] | None = None,
    cv: int | None = None,
    ensemble: Ensemble | None = None,
    on_fold: Callable[[FoldResult], None] | None = None,
    fold_heads: FoldHeads | None = None,
    portfolio: Sequence[Mapping[str, Any]] = (),
    seconds: Mapping[str, float] | None = None,
) -> TrainedHead:
    """Train one head on a dataset that is already loaded: val chooses epoch, temperature and threshold, or with `cv`
    folds over all labelled videos outside the split's test choose the latter two.

    fold_heads: of these folds, where they are trained already. portfolio: what they were chosen from.
    """
    spent = dict(seconds or {})
    config = config.reading(dataset.streams)
    if cv is not None:
        split = out_of_fold_split(dataset, split, k=cv, seed=config.seed)
        folds = cross_validate(
            dataset, config, k=cv, rows=split.train, device=device, on_fold=on_fold, heads=fold_heads
        )
        spent["cross-validation"] = folds.seconds
        started = time.perf_counter()
        if ensemble != "refit":
            model = mean_of_folds(dataset, folds.heads)
        else:
            model = refit(dataset, folds.heads, device=device)
        spent["fit"] = time.perf_counter() - started
        first = folds.heads.results[0]
        history = mean_history(folds.heads.results)
        result = FitResult(model, history, first.best_epoch, first.pos_weight, first.precision)
        members = folds.k if ensemble != "refit" else 1
        return finish(
            dataset,
            split,
            config,
            result,
            cross_validation=folds,
            members=members,
            portfolio=portfolio,
            seconds=spent,
        )
    started = time.perf_counter()
    result = fit(
        dataset.tokens,
        dataset.labels,
        train=split.train,
        val=split.val,
        stream_dims=dataset.stream_dims,
        config=config,
        device=resolve_device(device),
        on_epoch=on_epoch,
        negative_hours=dataset.negative_hours(split.val),
        groups=dataset.groups,
    )
    spent["fit"] = time.perf_counter() - started
    return finish(dataset, split, config, result, seconds=spent)


def train_auto(
    dataset: HeadDataset,
    split: Split,
    config: TrainConfig,
    *,
    device: Device = "auto",
    cv: int | None = None,
    ensemble: Ensemble | None = None,
    on_row: Callable[[str, float], None] | None = None,
    on_fold: Callable[[FoldResult], None] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> TrainedHead:
    """Compare the portfolio on folds of all that is not in the split's test, and train what is taken.

    dataset: with separate streams. config: data, loss, optimiser, threshold and seed; its model is not looked at. cv:
    folds; None is as many as source groups allow, up to 5.
    """
    labelled, _ = labelled_rows(dataset.labels)
    rows = np.setdiff1d(labelled, split.test)
    given = dataset.given_folds
    k = (usual_folds(dataset, rows) if given is None else int(given.max())) if cv is None else cv
    folds, _ = folds_of(dataset, config, k=k, rows=rows)
    found = compare(dataset, config, folds, device=device, on_row=on_row)
    return train_on(
        dataset,
        split,
        found.config,
        device=device,
        cv=k,
        ensemble=ensemble,
        on_fold=on_fold,
        fold_heads=found.heads,
        portfolio=[row.as_dict() for row in found.rows],
        seconds={**(seconds or {}), "comparison": found.seconds},
    )


def out_of_fold_split(dataset: HeadDataset, split: Split, *, k: int, seed: int) -> Split:
    """train is all that has a label and is not in the split's test; no val."""
    labelled, notes = labelled_rows(dataset.labels, dataset.n_without)
    train = np.setdiff1d(labelled, split.test)
    drawn = f"by source group, seed {seed}" if dataset.folds is None else f"given by {dataset.folds.name}"
    origin = f"{k} folds {drawn}, of all labelled videos{' outside test' * bool(len(split.test))}"
    leaks = straddling_notes(Split(train, train[:0], split.test, origin, out_of_fold=True), dataset.groups)
    return Split(train, train[:0], split.test, origin, (*notes, *leaks), out_of_fold=True)


def finish(
    dataset: HeadDataset,
    split: Split,
    config: TrainConfig,
    result: FitResult,
    *,
    cross_validation: CrossValidation | None = None,
    members: int = 1,
    portfolio: Sequence[Mapping[str, Any]] = (),
    seconds: Mapping[str, float] | None = None,
) -> TrainedHead:
    """Calibrate and choose the threshold on val, then score every part once and put the floors beside it.

    cross_validation: it has calibrated and chosen, out of fold. members: heads of folds whose mean the head is.
    """
    started = time.perf_counter()
    folds = cross_validation
    table, decision = (
        _decided_on_val(dataset, split, config, result)
        if folds is None
        else _decided_out_of_fold(dataset, split, result, folds)
    )
    choice = decision.choice
    rows_of = {part: table.rows_of(part) for part in ("val", "test", "train")}
    evaluations = [] if folds is None else [folds.head]
    evaluations += [
        evaluate(
            "head",
            part,
            table.labels[places],
            table.probabilities[places],
            threshold=choice.threshold,
            groups=[table.groups[i] for i in places],
            n_resamples=config.n_resamples if part != "train" else 0,
            seed=config.seed,
        )
        for part, places in rows_of.items()
        if len(places)
    ]
    if folds is not None:
        scores = decision.probabilities(predict_logits(result.model, dataset.tokens, split.train))
        groups = [dataset.groups[i] for i in split.train]
        evaluations.append(
            evaluate(
                "head",
                "train",
                dataset.labels[split.train],
                scores,
                threshold=choice.threshold,
                groups=groups,
            )
        )
    floors = () if folds is None else folds.floors
    if folds is None or len(split.test):
        floors += evaluate_floors(
            dataset,
            split,
            config=config.threshold,
            n_resamples=config.n_resamples,
            seed=config.seed,
            thresholds=None if folds is None else folds.floor_thresholds,
        )
    chose = table.rows_of("val" if folds is None else OUT_OF_FOLD)
    notes = (
        *split.notes,
        *missing_floor_notes(dataset),
        *dataset.copy_notes,
        *choice.warnings,
        *calibration_notes(decision, table, chose),
    )
    for evaluation in evaluations:
        if evaluation.part not in ("val", "test"):
            continue
        if config.n_resamples:
            own_threshold = (choice.interval,) if evaluation.part == "val" else ()
            notes += interval_notes(evaluation.part, (*evaluation.intervals.values(), *own_threshold))
        notes += beaten_notes(evaluation, floors_apart(config.model.architecture, floors))
    if folds is not None:
        notes += tuple(note for note in folds.notes if note not in notes)
        notes += _far_apart(evaluations[-1], folds.head)
    record = TrainingRecord(
        split=split,
        history=result.history,
        predictions=table,
        evaluations=tuple(evaluations),
        floors=floors,
        calibration=decision.calibration,
        seconds={**(seconds or {}), "evaluate": time.perf_counter() - started},
        cross_validation=folds,
    )
    info = HeadInfo(
        config=config,
        streams=dataset.streams,
        grid=dataset.grid,
        label_names=dataset.label_names,
        threshold=choice,
        temperature=decision.temperature,
        best_epoch=result.best_epoch,
        pos_weight=result.pos_weight,
        precision=result.precision,
        n_parameters=result.model.n_parameters,
        metrics={e.part: _metrics(e) for e in evaluations},
        floors={f"{e.name} on {e.part}": _metrics(e) for e in floors},
        trained_on=_trained_on(dataset, split),
        notes=notes,
        versions=library_versions(),
        members=members,
        portfolio=tuple(portfolio),
    )
    return TrainedHead(result.model, info, record)


def _far_apart(train: Evaluation, held_out: Evaluation) -> tuple[str, ...]:
    """A note where the head knows its own videos far better than others."""
    own, other = train.metrics.auroc, held_out.metrics.auroc
    if own is None or other is None or own - other <= FAR_APART:
        return ()
    return (
        f"far apart: AUROC {own:.3f} on train and {other:.3f} {OUT_OF_FOLD}; the head knows its own videos, so only "
        "the latter says what it will do on others",
    )


Decided = tuple[PredictionTable, Decision]


def _decided_on_val(dataset: HeadDataset, split: Split, config: TrainConfig, result: FitResult) -> Decided:
    rows = np.sort(np.concatenate(list(split.parts().values())))
    logits = predict_logits(result.model, dataset.tokens, rows)
    in_part = {int(row): name for name, part in split.parts().items() for row in part}
    splits = tuple(in_part[int(row)] for row in rows)
    val = np.flatnonzero(np.array(splits) == "val")
    decision = decide(
        logits[val],
        dataset.labels[rows[val]],
        config,
        dataset=dataset,
        rows=rows[val],
        n_resamples=config.n_resamples,
    )
    return _table(dataset, rows, splits, logits, decision), decision


def _decided_out_of_fold(
    dataset: HeadDataset, split: Split, result: FitResult, folds: CrossValidation
) -> Decided:
    logits = folds.heads.logits.copy()
    logits[split.test] = predict_logits(result.model, dataset.tokens, split.test) if len(split.test) else 0.0
    test = set(split.test.tolist())
    rows = np.sort(np.concatenate([split.train, split.test]))
    parts = tuple("test" if int(row) in test else OUT_OF_FOLD for row in rows)
    return _table(dataset, rows, parts, logits[rows], folds.decision), folds.decision


def _table(
    dataset: HeadDataset,
    rows: npt.NDArray[np.int64],
    splits: tuple[str, ...],
    logits: Float,
    decision: Decision,
) -> PredictionTable:
    return PredictionTable(
        ids=tuple(dataset.ids[i] for i in rows),
        labels=dataset.labels[rows],
        splits=splits,
        groups=tuple(dataset.groups[i] for i in rows),
        logits=logits,
        probabilities=decision.probabilities(logits),
    )


def calibration_notes(
    decision: Decision,
    table: PredictionTable,
    val: npt.NDArray[np.int64],
) -> tuple[str, ...]:
    """Notes on a temperature at its bound, and on a calibrated F1 threshold that is far from half of the best
    F1.
    """
    notes: list[str] = []
    calibration, choice = decision.calibration, decision.choice
    if calibration.at_bound:
        notes.append(
            f"the best temperature lies beyond {calibration.temperature:.2f}, the end of the search: the logits "
            f"of the {calibration.n} {table.splits[val[0]]} videos are far from log-odds, so scores are not probabilities"
        )
    elif choice.objective == "f1" and not choice.degenerate:
        scores = probabilities(table.logits[val], temperature=calibration.temperature)
        calibrated = choose_threshold(table.labels[val], scores)
        interval = choice.interval and replace(
            choice.interval,
            low=rescaled(choice.interval.low, decision.temperature, calibration.temperature),
            high=rescaled(choice.interval.high, decision.temperature, calibration.temperature),
        )
        warning = lipton_warning(calibrated.threshold, calibrated.f1, interval=interval)
        notes += [warning] if warning else []
    return tuple(notes)


def _metrics(evaluation: Evaluation) -> dict[str, Any]:
    values = evaluation.as_dict()
    return {**values["metrics"], "intervals": values["intervals"]}


def _trained_on(dataset: HeadDataset, split: Split) -> dict[str, Any]:
    return {
        "dataset": dataset.cache_name,
        "cache_digest": dataset.cache_digest,
        "n_videos": len(dataset),
        "split": split.origin,
        "chosen_on": OUT_OF_FOLD if split.out_of_fold else "val",
        "median_seconds": float(np.median(dataset.durations[split.train])),
        "counts": {
            part: {dataset.label_names[label]: int((dataset.labels[rows] == label).sum()) for label in (0, 1)}
            for part, rows in split.parts().items()
        },
        "videos": SeenVideos.of(dataset, split.parts()).as_dict(),
    }


def library_versions() -> dict[str, str]:
    """Versions of what a score depends on; a library that is not installed as a package is left out."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
