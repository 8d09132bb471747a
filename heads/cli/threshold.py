"""`onepass threshold`: the threshold of a trained head for another objective, with its table and interval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cache.errors import InputError
from heads.cli.labels import join_given

if TYPE_CHECKING:
    from rich.console import Console

    from heads.report.words import Layout
    from heads.scoring.thresholds import ThresholdChoice, ThresholdConfig
    from heads.trained.head import TrainedHead
    from heads.trained.rethreshold import AtThreshold, SelectionScores

COUNTS = ("F1", "precision", "recall", "flagged", "false alarms/h")
SWEEP = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def threshold_command(
    head: Annotated[Path, typer.Option(help="Folder of a trained head.")],
    features: Annotated[list[Path], typer.Option(help="The cache it was trained on; several may follow.")],
    more: Annotated[list[Path] | None, typer.Argument(hidden=True, metavar="[CACHE]...")] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="f1, fbeta, precision-at-recall, recall-at-precision or false-alarms-per-hour; left out: all "
            "are compared.",
            show_default=False,
        ),
    ] = None,
    threshold_grid: Annotated[
        str, typer.Option(help="exact, coarse (0.30-0.70 by 0.05) or fine (0.01-0.99 by 0.01).")
    ] = "exact",
    beta: Annotated[float, typer.Option(help="Of fbeta; above 1 favours recall.")] = 2.0,
    floor: Annotated[float, typer.Option(help="Least recall or precision, by objective.")] = 0.9,
    max_false_alarms_per_hour: Annotated[
        float, typer.Option(help="Flagged negatives an hour of negative video.")
    ] = 1.0,
    part: Annotated[
        str, typer.Option(help="val, or all: every labelled video of a cache that the head has not seen.")
    ] = "val",
    labels: Annotated[Path | None, typer.Option(help="Labels that replace those of the cache.")] = None,
    positive: Annotated[str | None, typer.Option(help="Name of the positive class in --labels.")] = None,
    allow_unmatched: Annotated[bool, typer.Option(help="Go on without labels that match no video.")] = False,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap by source group; 0: no interval.")] = 1000,
    ignore_libraries: Annotated[
        bool, typer.Option("--allow-library-mismatch", help="Accept features of other library versions.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Store it in the head; what it was is kept in its history.")
    ] = False,
) -> None:
    """Choose the threshold of a trained head again, on the videos that may choose it (val, never test)."""
    if write and objective is None:
        raise InputError("--write stores one threshold: say which with --objective")
    if not 0 <= resamples <= 100_000:
        raise InputError(f"--resamples must be between 0 and 100,000, got {resamples}")
    match part:
        case "val" | "all":
            chosen_part = part
        case _:
            raise InputError(f"--part must be val or all, got '{part}'; train and test may not choose")
    from heads.trained.folder import INFO_FILE, require_head

    require_head(head)
    from cache.lock import note_writers
    from cache.process.outputs import require_output
    from cache.reader import open_cache
    from heads.report.show import make_console, printer
    from heads.scoring.thresholds import OBJECTIVES, ThresholdConfig
    from heads.trained.checkpoint import save_info
    from heads.trained.head import TrainedHead
    from heads.trained.rethreshold import choose_again, selection_scores, with_threshold

    def config(name: Any, grid: Any = threshold_grid) -> ThresholdConfig:
        return ThresholdConfig(name, grid, beta, floor, max_false_alarms_per_hour)

    wanted = [config(objective)] if objective is not None else [config(name) for name in OBJECTIVES]
    if objective is None and threshold_grid == "exact":
        wanted[1:1] = [config("f1", "coarse"), config("f1", "fine")]
    console = make_console()
    trained = TrainedHead.load(head)
    if write:
        require_output("--write", head / INFO_FILE)
    note_writers(*features, *(more or ()))
    with open_cache(*features, *(more or ()), ignore_libraries=ignore_libraries) as cache:
        say = printer(console)
        join = join_given(cache, labels, positive=positive, allow_unmatched=allow_unmatched, say=say)
        scores = selection_scores(
            trained, cache, part=chosen_part, labels=join, ignore_libraries=ignore_libraries
        )
    if objective is None and scores.negative_hours is None:
        wanted = [choice for choice in wanted if choice.objective != "false-alarms-per-hour"]
    seed = trained.info.config.seed
    found = [choose_again(scores, choice, n_resamples=resamples, seed=seed) for choice in wanted]
    _show(console, head, trained, scores, found, wanted)
    if write:
        changed = with_threshold(trained, scores, found[0], wanted[0], n_resamples=resamples)
        save_info(changed.info, head)
        console.print(
            f"stored     {head / 'head.json'}: threshold {found[0].threshold:.6f}, was "
            f"{trained.info.threshold.threshold:.6f} (kept in threshold_history); report.html and the figures "
            "there show the threshold of training",
            markup=False,
            soft_wrap=True,
        )


def _show(
    console: Console,
    folder: Path,
    head: TrainedHead,
    scores: SelectionScores,
    found: list[ThresholdChoice],
    wanted: list[ThresholdConfig],
) -> None:
    from rich.table import Table
    from rich.text import Text

    from heads.report.curves import objective_words
    from heads.report.show import print_fitting
    from heads.scoring.bootstrap import interval_notes
    from heads.trained.rethreshold import at_threshold

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    n_positive = int((scores.labels == 1).sum())
    say(f"head       {folder}: {head.info.config.model.architecture}, weights {head.info.weights}")
    say(
        f"chosen on  {scores.origin}: {len(scores.labels)} videos, {n_positive} {head.info.label_names[1]}, "
        f"{len(set(scores.groups))} source groups"
    )
    if head.info.random_note:
        say(head.info.random_note, "bold yellow")
    stored = head.info.threshold
    rows = [("stored in the head", stored, "dim")]
    for choice, config in zip(found, wanted, strict=True):
        rows.append((objective_words(config), choice, "bold" if len(found) == 1 else ""))

    def thresholds(layout: Layout) -> Table:
        table = Table(title="what each threshold does on these videos", title_justify="left")
        table.add_column("best", no_wrap=layout == "wide")
        columns = COUNTS[:3] if layout == "short" else COUNTS
        for column in ("threshold", *(("95 % interval",) if layout == "wide" else ()), *columns):
            table.add_column(column, justify="right", no_wrap=layout == "wide" or " " not in column)
        for name, choice, style in rows:
            value, interval, *counts = _row(choice, at_threshold(scores, choice.threshold))
            own = (value, interval) if layout == "wide" else (f"{value}\n{interval}",)
            table.add_row(name, *own, *counts[: len(columns)], style=style)
        return table

    print_fitting(console, thresholds)
    sweep = Table(title="at fixed thresholds", title_justify="left")
    for column in ("threshold", *COUNTS):
        sweep.add_column(column, justify="right", no_wrap=True)
    for threshold in SWEEP:
        sweep.add_row(f"{threshold:.2f}", *_counts(at_threshold(scores, threshold)))
    console.print(sweep)
    if any(choice.interval is not None for choice in found):
        for note in interval_notes("these videos", [choice.interval for choice in found]):
            say(note)
    for note in scores.notes:
        say(f"note: {note}", "yellow")
    for choice, config in zip(found, wanted, strict=True):
        for warning in choice.warnings:
            style = "bold red" if warning.startswith("DEGENERATE") else "yellow"
            say(f"{objective_words(config)}: {warning}", style)


def _row(choice: ThresholdChoice, at: AtThreshold) -> list[str]:
    interval = str(choice.interval) if choice.interval is not None else "-"
    return [f"{choice.threshold:.4f}", interval, *_counts(at)]


def _counts(at: AtThreshold) -> list[str]:
    m = at.metrics
    return [
        *("-" if value is None else f"{value:.3f}" for value in (m.f1, m.precision, m.recall)),
        str(m.true_positives + m.false_positives),
        "-" if at.false_alarms_per_hour is None else f"{at.false_alarms_per_hour:.1f}",
    ]
