"""From a cache to a trained head: read, split, fit, choose the threshold, score, put the floors beside it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cache.arguments import require_open_cache, shown
from cache.errors import InputError
from heads.data.dataset import HeadDataset, load_dataset
from heads.data.splits import Split, choose_split, labelled_rows
from heads.scoring.bootstrap import interval_notes
from heads.scoring.calibration import Calibration, fit_temperature, probabilities, rescaled
from heads.scoring.evaluate import Evaluation, evaluate
from heads.scoring.floors import beaten_notes, evaluate_floors, missing_floor_notes
from heads.scoring.thresholds import ThresholdChoice, choose_on_rows, choose_threshold, lipton_warning
from heads.trained.head import HeadInfo, TrainedHead
from heads.trained.record import PredictionTable, TrainingRecord
from heads.trained.seen import SeenVideos
from heads.training.config import TrainConfig
from heads.training.cross_validation import (
    CrossValidation,
    FoldResult,
    cross_validate,
    unlike_out_of_fold_notes,
)
from heads.training.device import Device, resolve_device
from heads.training.fit import EpochRow, FitResult, fit, predict_logits

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache

Float = npt.NDArray[np.float64]
LIBRARIES = ("onepass", "torch", "numpy", "scikit-learn", "safetensors", "zarr", "h5py")


def train_head(
    cache: Cache,
    config: TrainConfig | None = None,
    *,
    labels: LabelJoin | None = None,
    device: Device = "auto",
    on_epoch: Callable[[EpochRow], None] | None = None,
    cv: int | None = None,
    on_fold: Callable[[FoldResult], None] | None = None,
) -> TrainedHead:
    """Train one head from a cache, on its own split or a holdout by source group.

    labels: a join that replaces the stored labels (`cache.labels.label_videos`). cv: folds by source group
    whose out-of-fold scores go to `head.training.cross_validation`; the head is the same with and without.
    on_fold is called for every fold, which come first, on_epoch after every epoch of the head itself. Raises
    LabelError when labels cannot be trained on, InputError for settings that do not fit the cache, HeadError
    when the loss stops being finite.
    """
    require_open_cache(cache, "train_head")
    config = TrainConfig() if config is None else config
    if not isinstance(config, TrainConfig):
        raise InputError(
            f"config must be a TrainConfig, such as TrainConfig().updated({{...}}), not {shown(config)}"
        )
    started = time.perf_counter()
    dataset = load_dataset(
        cache, separate_streams=config.model.separate_streams, config=config.data, labels=labels
    )
    split = choose_split(
        dataset.labels, dataset.splits, dataset.groups, val_share=config.data.val_share, seed=config.seed
    )
    load_seconds = time.perf_counter() - started
    return train_on(
        dataset,
        split,
        config,
        device=device,
        on_epoch=on_epoch,
        cv=cv,
        on_fold=on_fold,
        seconds={"load": load_seconds},
    )


def train_on(
    dataset: HeadDataset,
    split: Split,
    config: TrainConfig,
    *,
    device: Device = "auto",
    on_epoch: Callable[[EpochRow], None] | None = None,
    cv: int | None = None,
    on_fold: Callable[[FoldResult], None] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> TrainedHead:
    """Train one head on a dataset that is already loaded: val chooses epoch, temperature and threshold.

    cv: folds over all labelled videos that are not in the split's test.
    """
    spent = dict(seconds or {})
    folds = None
    if cv is not None:
        labelled, _ = labelled_rows(dataset.labels)
        rows = np.setdiff1d(labelled, split.test)
        folds = cross_validate(dataset, config, k=cv, rows=rows, device=device, on_fold=on_fold)
        spent["cross-validation"] = folds.seconds
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
    )
    spent["fit"] = time.perf_counter() - started
    return finish(dataset, split, config, result, cross_validation=folds, seconds=spent)


def finish(
    dataset: HeadDataset,
    split: Split,
    config: TrainConfig,
    result: FitResult,
    *,
    cross_validation: CrossValidation | None = None,
    seconds: Mapping[str, float] | None = None,
) -> TrainedHead:
    """Calibrate and choose the threshold on val, then score every part once and put the floors beside it.

    cross_validation goes into the record, with a note where its threshold is not like val's.
    """
    started = time.perf_counter()
    rows = np.sort(np.concatenate(list(split.parts().values())))
    logits = predict_logits(result.model, dataset.tokens, rows)
    in_part = {int(row): name for name, part in split.parts().items() for row in part}
    splits = tuple(in_part[int(row)] for row in rows)
    val = np.flatnonzero(np.array(splits) == "val")
    labels = dataset.labels[rows]
    calibration = fit_temperature(logits[val], labels[val])
    temperature = calibration.temperature if config.calibration == "temperature" else 1.0
    table = PredictionTable(
        ids=tuple(dataset.ids[i] for i in rows),
        labels=labels,
        splits=splits,
        groups=tuple(dataset.groups[i] for i in rows),
        logits=logits,
        probabilities=probabilities(logits, temperature=temperature),
    )
    choice = choose_on_rows(
        dataset,
        rows[val],
        table.probabilities[val],
        config=config.threshold,
        n_resamples=config.n_resamples,
        seed=config.seed,
    )
    evaluations = tuple(
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
        for part in ("val", "test", "train")
        if len(places := table.rows_of(part))
    )
    floors = evaluate_floors(
        dataset, split, config=config.threshold, n_resamples=config.n_resamples, seed=config.seed
    )
    notes = (
        *split.notes,
        *missing_floor_notes(dataset),
        *choice.warnings,
        *calibration_notes(calibration, choice, table, val, config),
    )
    for evaluation in evaluations[: 1 + bool(len(split.test))]:
        if config.n_resamples:
            own_threshold = (choice.interval,) if evaluation.part == "val" else ()
            notes += interval_notes(evaluation.part, (*evaluation.intervals.values(), *own_threshold))
        notes += beaten_notes(evaluation, floors)
    if cross_validation is not None:
        own = [note for note in cross_validation.notes if note not in notes]
        unlike = unlike_out_of_fold_notes(cross_validation.threshold, choice)
        cross_validation = replace(cross_validation, notes=(*own, *unlike))
    record = TrainingRecord(
        split=split,
        history=result.history,
        predictions=table,
        evaluations=evaluations,
        floors=floors,
        calibration=calibration,
        seconds={**(seconds or {}), "evaluate": time.perf_counter() - started},
        cross_validation=cross_validation,
    )
    info = HeadInfo(
        config=config,
        streams=dataset.streams,
        grid=dataset.grid,
        label_names=dataset.label_names,
        threshold=choice,
        temperature=temperature,
        best_epoch=result.best_epoch,
        pos_weight=result.pos_weight,
        precision=result.precision,
        n_parameters=result.model.n_parameters,
        metrics={e.part: _metrics(e) for e in evaluations},
        floors={f"{e.name} on {e.part}": _metrics(e) for e in floors},
        trained_on=_trained_on(dataset, split),
        notes=notes,
        versions=library_versions(),
    )
    return TrainedHead(result.model, info, record)


def calibration_notes(
    calibration: Calibration,
    choice: ThresholdChoice,
    table: PredictionTable,
    val: npt.NDArray[np.int64],
    config: TrainConfig,
) -> tuple[str, ...]:
    """Notes on a temperature at its bound, and on a calibrated F1 threshold that is far from half of the best
    F1.
    """
    notes: list[str] = []
    if calibration.at_bound:
        notes.append(
            f"the best temperature lies beyond {calibration.temperature:.2f}, the end of the search: the logits "
            f"of the {calibration.n} val videos are far from log-odds, so scores are not probabilities"
        )
    elif choice.objective == "f1" and not choice.degenerate:
        scores = probabilities(table.logits[val], temperature=calibration.temperature)
        calibrated = choose_threshold(table.labels[val], scores)
        applied = calibration.temperature if config.calibration == "temperature" else 1.0
        interval = choice.interval and replace(
            choice.interval,
            low=rescaled(choice.interval.low, applied, calibration.temperature),
            high=rescaled(choice.interval.high, applied, calibration.temperature),
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
        "chosen_on": "val",
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
