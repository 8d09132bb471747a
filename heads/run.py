"""What train-head does with an open cache, in one screen: load, split, train, write, and print each step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from heads.config import TrainConfig
from heads.dataset import load_dataset
from heads.outputs import write_training
from heads.show import EPOCH_HEADER, epoch_line, make_console, show_result, show_start
from heads.splits import choose_split
from heads.train import Device, train_on
from heads.trained import TrainedHead

if TYPE_CHECKING:
    from cache.labels import LabelJoin
    from cache.reader import Cache


def train_from_cache(
    cache: Cache,
    config: TrainConfig,
    *,
    out: Path,
    labels: LabelJoin | None = None,
    device: Device = "auto",
    console: Console | None = None,
) -> TrainedHead:
    """Train on the cache's split (or a holdout), print every step, write the head and what belongs to it to
    `out`.

    Raises what `heads.train.train_head` and `heads.outputs.write_training` raise.
    """
    console = console or make_console()
    for line in labels.report() if labels is not None else ():
        console.print(line, markup=False, soft_wrap=True)
    data = load_dataset(
        cache, separate_streams=config.model.separate_streams, config=config.data, labels=labels
    )
    split = choose_split(
        data.labels, data.splits, data.groups, val_share=config.data.val_share, seed=config.seed
    )
    show_start(console, data, split, config, caches=cache.paths)
    console.print(f"{EPOCH_HEADER}   (all but loss on val)", markup=False, soft_wrap=True)
    head = train_on(
        data,
        split,
        config,
        device=device,
        on_epoch=lambda row: console.print(epoch_line(row), markup=False, soft_wrap=True),
    )
    show_result(console, head, write_training(head, out))
    return head
