"""`onepass evaluate`: a trained head on the labelled videos of a cache that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cache.errors import InputError
from heads.cli.labels import join_given

if TYPE_CHECKING:
    from rich.console import Console

    from heads.trained.evaluation import HeadEvaluation
    from heads.trained.head import TrainedHead

SHOWN = 8


def evaluate_command(
    head: Annotated[Path, typer.Argument(help="Folder of a trained head.")],
    features: Annotated[
        list[Path],
        typer.Argument(help="Cache with labels, .zarr or .h5, or its s3:// address; several may follow."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for figures, tables and report.html.", show_default=False)
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Labels that replace those of the cache.")] = None,
    positive: Annotated[str | None, typer.Option(help="Name of the positive class in --labels.")] = None,
    allow_unmatched: Annotated[bool, typer.Option(help="Go on without labels that match no video.")] = False,
    seen: Annotated[
        bool, typer.Option("--seen", help="Take videos that the head has seen as well; every result says so.")
    ] = False,
    src: Annotated[
        Path | None, typer.Option(help="Root of the videos: report.html shows the mistaken ones.")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap by source group; 0: no intervals.")] = 1000,
    ignore_libraries: Annotated[
        bool, typer.Option("--allow-library-mismatch", help="Accept features of other library versions.")
    ] = False,
    floor_scores: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="Scores of something else as a floor: onepass zero-shot's (repeatable)."
        ),
    ] = None,
) -> None:
    """Every measure of a head with intervals, beside floors and by source, on videos that it has not seen."""
    from heads.trained.folder import require_head

    require_head(head)
    from cache.lock import note_writers
    from cache.process.outputs import require_output_folder
    from cache.reader import open_cache
    from heads.report.evaluation import require_folder, write_evaluation
    from heads.report.show import make_console, printer
    from heads.scoring.floor_scores import parse_floor_files
    from heads.trained.evaluation import evaluate_head
    from heads.trained.head import TrainedHead

    if not 0 <= resamples <= 100_000:
        raise InputError(f"--resamples must be between 0 and 100,000, got {resamples}")
    if src is not None and not src.is_dir():
        raise InputError(f"--src {src} is no folder; give the root that video ids are relative to")
    if out is not None:
        require_folder(out)
        require_output_folder("--out", out)
    floor_files = parse_floor_files(floor_scores or [])
    console = make_console()
    trained = TrainedHead.load(head)
    note_writers(*features)
    with open_cache(*features, ignore_libraries=ignore_libraries) as cache:
        say = printer(console)
        join = join_given(cache, labels, positive=positive, allow_unmatched=allow_unmatched, say=say)
        found = evaluate_head(
            trained,
            cache,
            seen=seen,
            labels=join,
            n_resamples=resamples,
            ignore_libraries=ignore_libraries,
            floor_files=floor_files,
        )
        show_evaluation(console, trained, found)
        if out is not None:
            for name, path in write_evaluation(trained, found, out, cache=cache, src=src).items():
                console.print(f"{name:<17} {path}", soft_wrap=True)


def show_evaluation(console: Console, head: TrainedHead, found: HeadEvaluation) -> None:
    """Facts, the head beside its floors, the worst sources, and notes."""
    from rich.table import Table
    from rich.text import Text

    from heads.report.evaluation import evaluation_facts
    from heads.report.show import print_note, show_table

    for name, value in evaluation_facts(head, found):
        console.print(Text(f"{name:<12} {value}"), soft_wrap=True)
    if head.info.random_note:
        console.print(Text(head.info.random_note, style="bold yellow"), soft_wrap=True)
    show_table(console, found.head, found.floors, weights=head.info.weights)
    table = Table(title="by source group, the worst first", title_justify="left")
    table.add_column("source group", overflow="fold")
    for column in ("videos", head.info.label_names[1], "missed", "false alarms", "log loss"):
        table.add_column(column, justify="right")
    for source in found.sources[:SHOWN]:
        counts = (source.n, source.n_positive, source.n_missed, source.n_false_alarms)
        table.add_row(source.group, *map(str, counts), f"{source.log_loss:.3f}")
    if len(found.sources) > SHOWN:
        table.caption = f"{len(found.sources) - SHOWN} more in sources.csv (--out)"
    console.print(table)
    for note in found.notes:
        print_note(console, note)
