"""`onepass probe`: what each stream of a cache is worth, by plain models, in seconds."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heads.cli.labels import join_given

if TYPE_CHECKING:
    from rich.console import Console

    from heads.audit.probe import ProbeReport, ProbeRow
    from heads.report.words import Layout
    from heads.scoring.pairs import PairScore


def probe_command(
    features: Annotated[
        list[Path],
        typer.Argument(help="Cache with labels, .zarr or .h5, or its s3:// address; several may follow."),
    ],
    labels: Annotated[Path | None, typer.Option(help="Labels that replace those of the cache.")] = None,
    positive: Annotated[str | None, typer.Option(help="Name of the positive class in --labels.")] = None,
    allow_unmatched: Annotated[bool, typer.Option(help="Go on without labels that match no video.")] = False,
    ignore_libraries: Annotated[
        bool, typer.Option("--allow-library-mismatch", help="Join caches of other library versions.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Is a stream worth anything? Every stream and pair by plain models, out of fold, beside metadata."""
    from cache.lock import note_writers
    from cache.reader import open_cache
    from heads.audit.probe import probe_cache
    from heads.report.show import make_console

    console = make_console()
    note_writers(*features)
    with open_cache(*features, ignore_libraries=ignore_libraries) as cache:
        join = join_given(
            cache,
            labels,
            positive=positive,
            allow_unmatched=allow_unmatched,
            say=partial(typer.echo, err=as_json),
        )
        report = probe_cache(cache, labels=join)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        show_probe(console, report)


def show_probe(console: Console, report: ProbeReport) -> None:
    """The table, what its columns mean, and a verdict on every stream and pair."""
    from rich.table import Table
    from rich.text import Text

    from heads.report.show import print_fitting, print_note
    from heads.report.words import with_interval
    from heads.scoring.bootstrap import interval_notes

    def table(layout: Layout) -> Table:
        made = Table(
            title=f"{', '.join(report.paths)}: {report.n_videos:,} videos, {report.n_positive:,} positive, "
            f"{report.n_groups:,} source groups; out of {report.n_folds} folds by source group\nweights: {report.weights}",
            title_justify="left",
        )
        made.add_column("inputs")
        made.add_column("model")
        columns = ("AUROC", "over", "same recording", "pooled")[: 2 if layout == "short" else None]
        for column in columns:
            made.add_column(column, justify="right", no_wrap=True)
        for row in report.rows:
            cells = (
                with_interval(row.within_folds.auroc, row.within_folds.interval, layout=layout),
                _gain(row, layout),
                with_interval(row.same_recording.auroc, row.same_recording.interval, layout=layout),
                f"{row.pooled:.3f}",
            )
            made.add_row(row.inputs, row.model, *cells[: len(columns)])
        return made

    print_fitting(console, table)
    lines = [
        "AUROC: a positive and a negative video of one fold compared, so that the scale of each fold's model plays no part; "
        "pooled: of any two folds",
        "over: the paired difference to metadata or chance, for a pair to the better of its streams; * it leaves out 0",
        f"same recording: {_pairs(report.rows[0].same_recording)}: scene and camera are the same in both, what happens is not",
        *(verdict(row) for row in report.rows if row.over is not None and row.model == "logistic"),
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    if report.random_note:
        console.print(Text(report.random_note, style="bold yellow"), soft_wrap=True)
    intervals = [
        interval for row in report.rows for interval in (row.within_folds.interval, row.gain_interval)
    ]
    for note in (*report.notes, *interval_notes("these videos", intervals)):
        print_note(console, note)


def verdict(row: ProbeRow) -> str:
    """What a row says, such as "motion: worth +0.213 over metadata"."""
    assert row.gain is not None
    interval = (
        "" if row.gain_interval is None else f" [{row.gain_interval.low:+.2f}, {row.gain_interval.high:+.2f}]"
    )
    told = "is worth more than" if row.gains else "is not shown to be worth more than"
    return f"{row.inputs} {told} {row.over}{' alone' if '+' in row.inputs else ''}: {row.gain:+.3f}{interval}"


def _gain(row: ProbeRow, layout: Layout) -> str:
    if row.gain is None:
        return "-"
    interval, between = row.gain_interval, " " if layout == "wide" else "\n"
    shown = "" if interval is None else f"{between}[{interval.low:+.2f}, {interval.high:+.2f}]{interval.mark}"
    differs = interval is not None and 0.0 not in interval
    return f"{row.gain:+.3f}{shown}{'*' if differs else ''}"


def _pairs(score: PairScore) -> str:
    if not score.n_pairs:
        return "no source group holds both classes, so there is no such pair"
    return f"{score.n_pairs:,} pairs of a positive and a negative of one source, from {score.n_parts} source groups"
