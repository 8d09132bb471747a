"""What train-head prints: what is trained on what, a line an epoch, and the result beside its floors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.box import HEAVY_HEAD, SIMPLE
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cache.process import terminal
from heads.data.dataset import HeadDataset, random_note, weights_line
from heads.data.splits import Split
from heads.models.model import ModelConfig
from heads.report import words
from heads.report.words import LAYOUTS, Layout, number
from heads.scoring.evaluate import Evaluation
from heads.trained.head import TrainedHead
from heads.training.config import TrainConfig
from heads.training.cross_validation import FoldResult
from heads.training.fit import EpochRow
from heads.training.losses import positive_weight

LOG_WIDTH = 150
EPOCH_HEADER = (
    f"{'epoch':>5}  {'lr':>8}  {'loss':>7}  {'val loss':>8}  {'threshold':>9}  "
    f"{'precision':>9}  {'recall':>6}  {'F1':>6}  {'AUROC':>6}"
)


def make_console() -> Console:
    """A console as wide as the terminal; in a log as COLUMNS says, else wide enough for every table."""
    console = terminal.make_console(soft_wrap=False)
    if console.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return console
    return terminal.make_console(soft_wrap=False, width=LOG_WIDTH)


def printer(console: Console) -> Callable[[str], None]:
    """What prints a line as it is: names in it may hold brackets, and a log wraps nothing."""
    return partial(console.print, markup=False, soft_wrap=True)


def print_fitting(console: Console, table: Callable[[Layout], Table]) -> None:
    """The table in the first layout that the console is wide enough for, else in the last."""
    for layout in LAYOUTS:
        made = table(layout)
        if Measurement.get(console, console.options.update(width=10_000), made).maximum <= console.width:
            break
    console.print(made)


def show_start(
    console: Console,
    dataset: HeadDataset,
    split: Split,
    config: TrainConfig,
    *,
    caches: Sequence[str | Path],
    auto: bool = False,
) -> None:
    """Which cache, weights, split, model and loss, before the first epoch."""
    negative, positive = dataset.label_names
    lines = [
        ("features", f"{', '.join(map(str, caches))} ({dataset.cache_name}, {len(dataset)} videos)"),
        ("weights", weights_line(dataset.streams)),
        (
            "split",
            split.origin + ("; the cache's own splits are ignored" if config.data.ignore_splits else ""),
        ),
    ]
    for part, rows in split.parts().items():
        positives = int((dataset.labels[rows] == 1).sum())
        groups = len({dataset.groups[i] for i in rows})
        counts = f"{positives} {positive}, {len(rows) - positives} {negative}"
        lines.append((part, f"{len(rows)} videos ({counts}) from {groups} source groups"))
    if dataset.absent:
        lacking = ", ".join(f"{name} {count}" for name, count in dataset.absent.items())
        lines.append(("lacking", f"{lacking} of {len(dataset)} videos"))
    model = config.model
    what = "auto, compared out of fold" if auto else f"{model.architecture}, {model_words(model)}"
    lines.append(("model", f"{what}; inputs {', '.join(streams_read(dataset))}"))
    lines.append(("loss", loss_line(dataset, split, config)))
    for name, value in lines:
        console.print(Text(f"{name:<9} {value}"), soft_wrap=True)
    if note := random_note(dataset.streams):
        console.print(Text(note, style="bold yellow"), soft_wrap=True)
    for note in split.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)


def model_words(model: ModelConfig) -> str:
    """Pool, change and join, such as "attention pool, change beside, join late"."""
    change = f", change {model.delta}" if model.delta != "off" else ""
    return f"{model.pooling} pool{change}, join {model.joining}"


def portfolio_table(head: TrainedHead) -> Table:
    """What auto compared: a row a candidate."""
    table = Table(title=words.PORTFOLIO_TITLE, title_justify="left")
    for place, name in enumerate(words.PORTFOLIO_COLUMNS):
        table.add_column(name, justify="right" if name else "left", no_wrap=bool(name) or place == 0)
    for row, cells in zip(head.info.portfolio, words.portfolio_rows(head), strict=True):
        table.add_row(*cells, style="bold" if row["taken"] else None)
    return table


def streams_read(dataset: HeadDataset) -> list[str]:
    """Each stream with its width, such as "clip 512"."""
    return [f"{stream.name} {stream.dim}" for stream in dataset.streams]


def loss_line(dataset: HeadDataset, split: Split, config: TrainConfig) -> str:
    """The loss and its pos_weight with where it comes from."""
    if config.model.architecture == "logistic":
        return "bce with L2, videos weigh alike"
    labels = dataset.labels[split.train]
    positives = int((labels == 1).sum())
    balanced = config.optim.sampler == "balanced"
    weight = positive_weight(
        config.loss, n_negative=len(labels) - positives, n_positive=positives, balanced_batches=balanced
    )
    source = {"auto": "auto", "off": "off"}.get(str(config.loss.pos_weight), "given")
    if source == "auto" and config.loss.kind == "bce" and not balanced:
        negative, positive = dataset.label_names
        source = f"{len(labels) - positives} {negative} / {positives} {positive} in train"
    line = f"{config.loss.kind}, pos_weight {weight:.4f} ({source})"
    if config.loss.kind == "focal":
        line += f", gamma {config.loss.focal_gamma:g}, alpha {config.loss.focal_alpha or 'off'}"
    if config.loss.label_smoothing:
        line += f", label smoothing {config.loss.label_smoothing:g}"
    return line + (", balanced batches" if balanced else "")


def epoch_line(row: EpochRow) -> str:
    """One line under EPOCH_HEADER; * marks the best epoch so far."""
    mark = " *" if row.best else ""
    mark += " one class for everything" if row.degenerate else ""
    return (
        f"{row.epoch:>5}  {row.lr:>8.1e}  {row.train_loss:>7.4f}  {row.val_loss:>8.4f}  "
        f"{row.threshold:>9.4f}  {number(row.precision):>9}  {row.recall:>6.3f}  {row.f1:>6.3f}  {number(row.auroc):>6}{mark}"
    )


def show_result(console: Console, head: TrainedHead, written: Mapping[str, Path]) -> None:
    """The head beside its floors on val and test, the threshold, notes, and where everything lies."""
    record = head.training
    assert record is not None
    info = head.info
    if info.portfolio:
        console.print(portfolio_table(head))
    for evaluation in record.evaluations:
        if evaluation.part != "train":
            floors = [floor for floor in record.floors if floor.part == evaluation.part]
            show_table(console, evaluation, floors, weights=info.weights)
    for line in words.lines(words.result_facts(head, record)):
        console.print(Text(line), soft_wrap=True)
    for note in info.notes:
        print_note(console, note)
    for name, path in written.items():
        console.print(Text(f"{name:<17} {path}"), soft_wrap=True)


def print_note(console: Console, note: str) -> None:
    """A note in yellow, one that unmakes the scores in red."""
    loud = note.startswith(("DEGENERATE", "SEEN"))
    text = Text(note if loud else f"note: {note}", style="bold red" if loud else "yellow")
    console.print(text, soft_wrap=True)


def fold_line(fold: FoldResult, k: int) -> str:
    """A fold that is trained, scored and decided by the others."""
    mark = ", one class for everything" if fold.degenerate else ""
    return (
        f"fold {fold.number} of {k}: {fold.n} videos held out; the other folds choose threshold "
        f"{fold.threshold:.4f}{mark}"
    )


def show_table(console: Console, head: Evaluation, floors: Sequence[Evaluation], *, weights: str) -> None:
    """`result_table` as wide as the console."""
    print_fitting(console, lambda layout: result_table(head, floors, weights=weights, layout=layout))


def result_table(
    head: Evaluation, floors: Sequence[Evaluation], *, weights: str, layout: Layout = "wide"
) -> Table:
    """One row the head and one a floor; intervals are 95 %, by source group; ~ marks a rough one."""
    table = Table(
        title=f"{words.result_title(head)}\nweights: {weights}",
        title_justify="left",
        pad_edge=layout != "short",
        box=SIMPLE if layout == "short" else HEAVY_HEAD,
    )
    columns = words.RESULT_COLUMNS[: words.SHORT_COLUMNS if layout == "short" else None]
    table.add_column("", no_wrap=layout == "wide")
    for name, key in columns:
        wide_head = layout == "wide" and key != "ece"
        table.add_column(name if wide_head else SHORT_HEADS.get(key, name), justify="right", no_wrap=True)
    for row in (head, *floors):
        cells = words.result_cells(row, layout=layout)
        table.add_row(row.name, *cells, style="bold" if row is head else None)
    if layout == "short":
        table.caption = "accuracy, Brier and ECE: metrics.json"
    return table


SHORT_HEADS = {"average_precision": "AP", "precision": "prec.", "accuracy": "acc."}
