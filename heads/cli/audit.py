"""The `onepass audit` command."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heads.cli.labels import join_given

if TYPE_CHECKING:
    from heads.audit.audit import AuditReport

LEAKS_FOUND = 1
SHOWN = 5


def audit_command(
    caches: Annotated[
        list[Path],
        typer.Argument(help="One or more caches, .zarr or .h5, or their s3:// addresses, as one data set."),
    ],
    labels: Annotated[Path | None, typer.Option(help="Labels that replace those of the cache.")] = None,
    positive: Annotated[str | None, typer.Option(help="Name of the positive class in --labels.")] = None,
    near_threshold: Annotated[
        float | None,
        typer.Option(
            help="Whitened cosine from which two videos are near duplicates (default: 0.85 or more)."
        ),
    ] = None,
    shortcut_limit: Annotated[
        float, typer.Option(help="AUROC of metadata alone whose whole interval lies above it is a leak.")
    ] = 0.55,
    ignore_libraries: Annotated[
        bool, typer.Option("--allow-library-mismatch", help="Join caches of other library versions.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look for leaks: duplicates and source groups across splits, labels told by metadata. Exit 1 if any."""
    from cache.lock import note_writers
    from cache.reader import open_cache
    from heads.audit.audit import audit_cache

    note_writers(*caches)
    with open_cache(*caches, ignore_libraries=ignore_libraries) as cache:
        join = join_given(
            cache, labels, positive=positive, allow_unmatched=True, say=partial(typer.echo, err=as_json)
        )
        report = audit_cache(cache, labels=join, near_threshold=near_threshold, shortcut_limit=shortcut_limit)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        for line in report_lines(report):
            typer.echo(line)
    raise typer.Exit(LEAKS_FOUND if report.leaks else 0)


def report_lines(report: AuditReport) -> list[str]:
    """The report as text: what was looked at, how, what was found, and the verdict."""
    from heads.scoring.bootstrap import interval_notes

    lines = [
        f"cache      {', '.join(report.paths)}: {report.n_videos:,} videos from {report.n_groups:,} source groups",
        f"weights    {report.weights}",
    ]
    if report.random_streams:
        names = ", ".join(report.random_streams)
        lines.append(
            f"           RANDOM weights of {names}: near duplicates are still told by them, violence is not"
        )
    for split, counts in report.balance.items():
        shown = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
        lines.append(f"{split:<10} {shown}")
    for shortcut in report.shortcuts:
        interval = f" ({shortcut.interval})" if shortcut.interval else ""
        lines.append(
            f"metadata   {shortcut.model} on width, height, fps, duration: AUROC {shortcut.auroc:.3f}{interval}, "
            f"out of {shortcut.n_folds} folds by source group of {shortcut.n_videos:,} videos"
        )
    for shortcut in report.missing:
        interval = f" ({shortcut.interval})" if shortcut.interval else ""
        lines.append(
            f"missing    {shortcut.model} on which streams a video lacks: AUROC {shortcut.auroc:.3f}{interval}, "
            f"out of {shortcut.n_folds} folds by source group of {shortcut.n_videos:,} videos"
        )
    intervals = [shortcut.interval for shortcut in report.shortcuts]
    lines += [f"           {note}" for note in interval_notes("metadata", intervals)]
    if report.near is not None:
        parts = ", ".join(f"{count} of {name}" for name, count in report.near.n_components.items())
        reach = report.near.unrelated
        told = "" if reach is None else f"; other videos of different sources reach {reach:.3f} at most"
        lines.append(
            f"near       mean features, whitened ({parts} components), cosine averaged over streams; "
            f"threshold {report.near.threshold:.3f}{told}"
        )
    for finding in report.findings:
        lines.append(f"{finding.severity.upper():<10} {finding.kind} ({finding.count:,}): {finding.message}")
        lines += [f"           {example}" for example in finding.examples[:SHOWN]]
        if finding.count > SHOWN:
            lines.append(f"           and {finding.count - SHOWN:,} more (--json shows 20)")
    n_leaks = len(report.leaks)
    kinds = ", ".join(dict.fromkeys(finding.kind for finding in report.leaks))
    lines.append(f"LEAKS FOUND: {kinds}" if n_leaks else "no leaks found")
    return lines
