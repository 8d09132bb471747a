"""What train-head does with an open cache, in one screen: load, split, train, write, and print each step."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cache.errors import InputError
from heads.data.dataset import HeadDataset, load_dataset
from heads.data.splits import choose_split
from heads.report.outputs import write_training
from heads.report.show import EPOCH_HEADER, epoch_line, fold_line, make_console, show_result, show_start
from heads.report.tensorboard import TensorBoardLog
from heads.train import train_on
from heads.trained.head import TrainedHead
from heads.training.config import TrainConfig
from heads.training.cross_validation import FoldResult
from heads.training.device import Device
from heads.training.fit import EpochRow

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache


def train_from_cache(
    cache: Cache,
    config: TrainConfig,
    *,
    out: Path,
    labels: LabelJoin | None = None,
    device: Device = "auto",
    cv: int | None = None,
    folds: Path | None = None,
    src: Path | None = None,
    tensorboard: Path | None = None,
    console: Console | None = None,
) -> TrainedHead:
    """Train on the cache's split (or a holdout), print every step, write the head and what belongs to it to
    `out`.

    cv: folds that are trained and scored before the head itself, or None. folds: a file that names each video's fold;
    cv is then their number. src: root of the videos, for pictures
    in the report. tensorboard: folder for its events, or None. Raises InputError when `src` is no folder, or
    without the package tensorboard where it is asked for, and what `heads.train.train_head` and
    `heads.report.outputs.write_training` raise.
    """
    console = console or make_console()
    if src is not None and not src.is_dir():
        raise InputError(f"--src {src} is no folder; give the root that video ids are relative to")
    for line in labels.report() if labels is not None else ():
        console.print(line, markup=False, soft_wrap=True)
    data = load_dataset(
        cache, separate_streams=config.model.separate_streams, config=config.data, labels=labels, folds=folds
    )
    cv = number_of_folds(data, cv)
    split = choose_split(
        data.labels, data.splits, data.groups, val_share=config.data.val_share, seed=config.seed
    )
    show_start(console, data, split, config, caches=cache.paths)
    if cv is not None:
        console.print(f"{cv} folds by source group, then the head itself", markup=False, soft_wrap=True)
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

        head = train_on(data, split, config, device=device, on_epoch=on_epoch, cv=cv, on_fold=on_fold)
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
