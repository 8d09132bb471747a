"""What `onepass ablate` prints: a line a finished run, and the leaderboard."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from heads.ablation.grid import short_name
from heads.ablation.leaderboard import METRICS, Leaderboard, Metric, Row
from heads.ablation.sweep import Progress
from heads.report.show import print_fitting
from heads.report.words import Layout, number, with_interval

MOST_ROWS = 20
SHORT_NAMES: dict[Metric, str] = {"auroc": "AUROC", "average_precision": "AP", "f1": "F1"}


def progress_line(progress: Progress) -> str:
    """Such as "[ 7/48] lr=1e-3 model=mlp, seed 0: best val AUROC 0.873 in epoch 9, threshold 0.412, 8.1 s"."""
    record = progress.record
    width = len(str(progress.n_runs))
    run = f"seed {record.seed}" + ("" if record.fold is None else f", fold {record.fold + 1}")
    start = f"[{progress.n_done:>{width}}/{progress.n_runs}] {progress.label}, {run}: "
    if record.error is not None:
        return start + f"FAILED: {record.error}"
    best = record.auroc_by_epoch[record.best_epoch - 1]
    return (
        start + f"val AUROC {'-' if best is None else f'{best:.3f}'} in epoch {record.best_epoch} of "
        f"{len(record.auroc_by_epoch)}, threshold {record.threshold:.3f}, {record.seconds:.1f} s"
        + (" DEGENERATE: one class for everything" if record.degenerate else "")
    )


def show_leaderboard(console: Console, board: Leaderboard) -> None:
    """The best rows, the baseline wherever it stands, the floors, and how to read it."""
    print_fitting(console, lambda layout: leaderboard_table(board, layout))
    for row in board.floors:
        score, delta, *_ = _cells(board, row, "wide")
        line = f"floor {row.label}: {board.metric_name} {score}, to baseline {delta}"
        console.print(Text(line, style="dim"), soft_wrap=True)
    if any(row.differs for row in board.rows):
        console.print(Text("* the interval of the paired difference leaves out 0", style="dim"))
    for row in board.rows:
        for line in row.failed:
            console.print(Text(f"FAILED: {row.label}, {line}", style="bold red"), soft_wrap=True)
    for note in board.notes:
        style = "bold yellow" if note.startswith(("RANDOM", "leak")) else "yellow"
        console.print(Text(f"note: {note}", style=style), soft_wrap=True)


def leaderboard_table(board: Leaderboard, layout: Layout = "wide") -> Table:
    """At most 20 cells and the baseline; intervals are 95 %, by source group."""
    table = Table(
        title=f"{board.dataset}: {len(board.rows)} cells by {board.metric_name} on {board.n_videos:,} videos "
        f"({board.n_positive:,} positive, {board.n_groups:,} source groups); split: {board.split}\n"
        f"weights: {board.weights}",
        title_justify="left",
    )
    table.add_column("", justify="right")
    table.add_column(", ".join(short_name(key) for key in board.swept) or "cell")
    others = [SHORT_NAMES[name] for name in METRICS if name != board.metric]
    heads = (board.metric_name, "to baseline", *others, "threshold", "s", "parameters")
    for name in heads[: 2 if layout == "short" else None]:
        table.add_column(name, justify="right", no_wrap=True)
    shown = [row for row in board.rows if row.is_baseline or (row.rank or len(board.rows)) <= MOST_ROWS]
    for row in shown:
        settings = ", ".join(value for _, value in row.settings) or row.label
        style = "bold" if row.is_baseline else None
        cells = _cells(board, row, layout)[: 2 if layout == "short" else None]
        table.add_row(str(row.rank or "-"), settings, *cells, style=style)
    if len(shown) < len(board.rows):
        table.caption = f"{len(board.rows) - len(shown)} more in leaderboard.csv and leaderboard.html"
    elif layout == "short":
        table.caption = "all columns: leaderboard.csv, leaderboard.html"
    return table


def _cells(board: Leaderboard, row: Row, layout: Layout) -> list[str]:
    between = " " if layout == "wide" else "\n"
    others = [row.scores[name] for name in METRICS if name != board.metric]
    threshold = number(row.threshold_mean)
    if row.n_runs > 1 and row.threshold_low is not None and row.threshold_high is not None:
        threshold += f"{between}({row.threshold_low:.2f}-{row.threshold_high:.2f})"
    if row.is_baseline:
        delta = "baseline"
    elif row.delta is None:
        delta = "-"
    else:
        delta = f"{row.delta:+.3f}" + (
            f"{between}[{row.delta_interval.low:+.2f}, {row.delta_interval.high:+.2f}]{row.delta_interval.mark}"
            if row.delta_interval
            else ""
        )
    return [
        with_interval(row.scores[board.metric], row.interval, layout=layout),
        delta + ("*" if row.differs else ""),
        *(number(value) for value in others),
        threshold,
        f"{row.seconds:.1f}",
        f"{row.n_parameters:,}",
    ]
