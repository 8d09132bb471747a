"""What train-head does with an open cache, in one screen: load, split, train, write, and print each step."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from cache.errors import InputError
from heads.data.dataset import HeadDataset, load_dataset
from heads.data.splits import choose_split, labelled_rows
from heads.report.outputs import write_training
from heads.report.show import EPOCH_HEADER, epoch_line, fold_line, make_console, show_result, show_start
from heads.report.tensorboard import TensorBoardLog
from heads.scoring.floor_scores import with_floor_scores
from heads.train import Ensemble, out_of_fold_split, train_auto, train_on
from heads.trained.head import TrainedHead
from heads.training.config import TrainConfig
from heads.training.cross_validation import FoldResult
from heads.training.device import Device, device_note
from heads.training.fit import EpochRow
from heads.training.portfolio import affordable_folds

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache


LEFT_OUT = "val decides: folds of this head would take more than about a minute, or want more source groups; --cv K asks"


def train_from_cache(
    cache: Cache,
    config: TrainConfig,
    *,
    out: Path,
    labels: LabelJoin | None = None,
    device: Device = "auto",
    cv: int | None = None,
    folds: Path | None = None,
    no_cv: bool = True,
    ensemble: Ensemble | None = None,
    auto: bool = False,
    src: Path | None = None,
    tensorboard: Path | None = None,
    floor_files: Mapping[str, str | Path] | None = None,
    console: Console | None = None,
) -> TrainedHead:
    """Train on the cache's split (or a holdout), print every step, write the head and what belongs to it to
    `out`.

    cv: folds that decide instead of val; None is, with no_cv, none, else as many as there can be where the head can be
    trained so often in about a minute. folds: a file that names each video's fold; cv is then their number. ensemble:
    what is stored of them. auto: compare a portfolio of models on the folds and take one, whatever the config's model.
    src: root of the videos, for pictures in the report. tensorboard: folder for its events, or None.
    floor_files: scores of something else as further floors, by name. Raises InputError
    when `src` is no folder, or without the package tensorboard where it is asked for, and what `heads.train.train_head`
    and `heads.report.outputs.write_training` raise.
    """
    console = console or make_console()
    if (note := device_note(device)) is not None:
        console.print(note, markup=False, soft_wrap=True)
    if src is not None and not src.is_dir():
        raise InputError(f"--src {src} is no folder; give the root that video ids are relative to")
    for line in labels.report() if labels is not None else ():
        console.print(line, markup=False, soft_wrap=True)
    separate = auto or config.model.separate_streams
    data = load_dataset(cache, separate_streams=separate, config=config.data, labels=labels, folds=folds)
    data = with_floor_scores(data, floor_files or {})
    cv = number_of_folds(data, cv)
    columns, share = (data.labels, data.splits, data.groups), config.data.val_share
    split = choose_split(*columns, val_share=share, seed=config.seed, n_without=data.n_without)
    if cv is None and (auto or not no_cv):
        cv = affordable_folds(
            data, config, np.setdiff1d(labelled_rows(data.labels)[0], split.test), auto=auto
        )
        if cv is None:
            console.print(LEFT_OUT, markup=False, soft_wrap=True)
    shown = split if cv is None else out_of_fold_split(data, split, k=cv, seed=config.seed)
    show_start(console, data, shown, config, caches=cache.names, auto=auto)
    with contextlib.nullcontext() if tensorboard is None else TensorBoardLog(tensorboard) as log:

        def on_fold(fold: FoldResult) -> None:
            console.print(fold_line(fold, cv or fold.number), markup=False, soft_wrap=True)

        def on_epoch(row: EpochRow) -> None:
            if row.epoch == 1:
                console.print(
                    f"{EPOCH_HEADER}   (all but loss on val; * best so far)", markup=False, soft_wrap=True
                )
            console.print(epoch_line(row), markup=False, soft_wrap=True)
            if log is not None:
                log.epoch(row)

        def on_row(name: str, auroc: float) -> None:
            console.print(f"{name:<26} out-of-fold AUROC {auroc:.3f}", markup=False, soft_wrap=True)

        if auto:
            head = train_auto(
                data, split, config, device=device, cv=cv, ensemble=ensemble, on_row=on_row, on_fold=on_fold
            )
        else:
            head = train_on(
                data,
                split,
                config,
                device=device,
                on_epoch=on_epoch,
                cv=cv,
                ensemble=ensemble,
                on_fold=on_fold,
            )
        written = write_training(head, out, cache=cache, src=src)
        show_result(console, head, written)
        if log is not None:
            log.result(head, [path for path in written.values() if path.suffix == ".png"])
    return head


def number_of_folds(data: HeadDataset, cv: int | None) -> int | None:
    """--cv as given, or the number of folds of --folds. Raises InputError where they differ."""
    if data.given_folds is None:
        return cv
    n_given = int(data.given_folds.max())
    if cv not in (None, n_given):
        raise InputError(f"--cv {cv}, but --folds gives {n_given} folds; leave --cv out")
    return n_given
