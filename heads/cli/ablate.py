"""The `onepass ablate` command. Heavy imports wait until the arguments are understood."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from heads.cli.labels import join_given

WHAT, HOW, READ = "What is swept", "How it is trained", "How it is read"


def _text(help_text: str, panel: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=False)


def ablate_command(
    features: Annotated[
        list[Path], _text("Cache, .zarr or .h5, or its s3:// address; several may follow.", WHAT)
    ],
    more: Annotated[list[Path] | None, typer.Argument(hidden=True, metavar="[CACHE]...")] = None,
    settings: Annotated[
        list[str] | None, _text("KEY=VALUE,VALUE,... of the train config; may be repeated.", WHAT, "--set")
    ] = None,
    grid: Annotated[Path | None, _text("YAML file: a mapping of settings to lists of values.", WHAT)] = None,
    preset: Annotated[
        str, typer.Option(help="What cells start from: default or final-model-4.", rich_help_panel=WHAT)
    ] = "default",
    search: Annotated[
        int | None, _text("Try N cells chosen by Optuna instead of all; ranges LOW..HIGH are allowed.", WHAT)
    ] = None,
    skip_invalid: Annotated[
        bool,
        typer.Option("--skip-invalid", help="Leave out combinations that cannot be.", rich_help_panel=WHAT),
    ] = False,
    labels: Annotated[Path | None, _text("Labels that replace those of the cache.", WHAT)] = None,
    positive: Annotated[str | None, _text("Name of the positive class in --labels.", WHAT)] = None,
    allow_unmatched: Annotated[
        bool,
        typer.Option(
            "--allow-unmatched", help="Go on without labels that match no video.", rich_help_panel=WHAT
        ),
    ] = False,
    ignore_libraries: Annotated[
        bool,
        typer.Option(
            "--allow-library-mismatch", help="Join caches of other library versions.", rich_help_panel=WHAT
        ),
    ] = False,
    seeds: Annotated[
        int | None,
        _text(
            "Trainings of every cell, each with folds of its own (default: 3; 1 where seed is swept).", HOW
        ),
    ] = None,
    cv: Annotated[
        int | None,
        _text("Folds of all videos outside test, by source group, scored by heads that never saw them.", HOW),
    ] = None,
    folds: Annotated[
        Path | None,
        _text(
            "File that names each video's fold (columns id, fold), in place of folds drawn here; sets --cv.",
            HOW,
        ),
    ] = None,
    ignore_splits: Annotated[
        bool,
        typer.Option("--ignore-splits", help="As if the cache stored no splits.", rich_help_panel=WHAT),
    ] = False,
    jobs: Annotated[
        int, typer.Option(help="Processes; 0: one a core where it pays.", rich_help_panel=HOW)
    ] = 0,
    device: Annotated[str, typer.Option(help="auto (the CPU), cpu or cuda.", rich_help_panel=HOW)] = "auto",
    out: Annotated[
        Path | None,
        _text("Folder of results, which a second run goes on from (default: ablate-out/CACHE).", HOW),
    ] = None,
    metric: Annotated[
        str, typer.Option(help="Ranks the cells: auroc, average_precision or f1.", rich_help_panel=READ)
    ] = "auroc",
    baseline: Annotated[
        str | None,
        _text("Cell that all are compared with, such as 'lr=1e-3 model=mlp' (default: the first).", READ),
    ] = None,
    floor_scores: Annotated[
        list[str] | None,
        _text(
            "NAME=FILE: scores of something else as a floor, such as onepass zero-shot's (repeatable).", READ
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option(help="Of the bootstrap by source group; 0 for no intervals.", rich_help_panel=READ)
    ] = 1000,
) -> None:
    """Train every combination of settings and rank them. A killed sweep goes on; nothing is trained twice."""
    from cache.errors import InputError
    from cache.lock import note_writers
    from cache.process.outputs import require_output_folder
    from cache.reader import open_cache
    from heads.ablation.grid import fix_single_values, make_cells, read_axes, settings_words
    from heads.ablation.leaderboard import METRICS
    from heads.ablation.leaderboard_files import write_leaderboard
    from heads.ablation.record import searched_words
    from heads.ablation.search import search as search_cells
    from heads.ablation.show import progress_line, show_leaderboard
    from heads.ablation.sweep import DEFAULT_SEEDS, Progress, Sweep, find_baseline
    from heads.cli.train import build_config, read_device
    from heads.report.show import make_console, printer
    from heads.scoring.floor_scores import parse_floor_files
    from heads.training.device import device_note

    own = {"data.ignore_splits": True} if ignore_splits else {}
    base, axes, fixed = fix_single_values(build_config(preset, own, ()), read_axes(settings or (), grid))
    if metric not in METRICS:
        raise InputError(f"--metric must be one of {', '.join(METRICS)}; got '{metric}'")
    sweeps_seed = any(axis.key == "seed" for axis in axes)
    if seeds is not None and seeds > 1 and sweeps_seed:
        raise InputError("seed is swept and --seeds is given; use one of the two")
    n_seeds = seeds if seeds is not None else 1 if sweeps_seed else DEFAULT_SEEDS
    if not 0 <= resamples <= 100_000:
        raise InputError(f"--resamples must be between 0 and 100,000, got {resamples}")
    cells, left_out = (
        ([], []) if search is not None else make_cells(base, axes, fixed=fixed, skip_invalid=skip_invalid)
    )
    reference = 0 if search is not None else find_baseline(cells, baseline)
    floor_files = parse_floor_files(floor_scores or ())
    caches = [*features, *(more or ())]
    folder = out or Path("ablate-out") / caches[0].stem
    require_output_folder("--out", folder)
    console = make_console()
    say = printer(console)

    def on_run(progress: Progress) -> None:
        say(progress_line(progress))

    if (note := device_note(read_device(device))) is not None:
        say(note)
    for line in left_out:
        say(f"left out: {line}")
    if fixed:
        say(f"in every cell: {settings_words(fixed)}")
    command = shlex.join(["onepass", *sys.argv[1:]])
    started = time.perf_counter()
    note_writers(*caches)
    with open_cache(*caches, ignore_libraries=ignore_libraries) as cache:
        join = join_given(cache, labels, positive=positive, allow_unmatched=allow_unmatched, say=say)
        with Sweep(
            cache,
            base,
            out=folder,
            n_seeds=n_seeds,
            cv=cv,
            folds=folds,
            jobs=jobs,
            labels=join,
            device=read_device(device),
            ignore_libraries=ignore_libraries,
            floor_files=floor_files,
        ) as sweep:
            searched = f"{settings_words(fixed)} {searched_words(axes)}" if search is not None else ""
            sweep.require_own_folder(cells, searched=searched)
            try:
                if search is not None:
                    cells, records = search_cells(
                        sweep, axes, n_cells=search, fixed=fixed, metric=metric, on_run=on_run
                    )
                    reference = find_baseline(cells, baseline)
                else:
                    runs = sweep.plan(cells)
                    finished, spoilt = sweep.finished(runs)
                    for line in spoilt:
                        say(line)
                    say(
                        f"{len(cells)} cells, {len(runs)} runs, {len(finished)} of them finished before; in {folder}"
                    )
                    records = sweep.train(cells, on_run=on_run)
            except KeyboardInterrupt:
                say(f"stopped; finished runs are kept in {folder}, and the same command goes on from there")
                raise
            board = sweep.leaderboard(
                cells,
                records,
                metric=metric,
                baseline=reference,
                n_resamples=resamples,
                searched=searched,
            )
            show_leaderboard(console, board)
            for name, path in write_leaderboard(board, folder, command=command).items():
                say(f"{name:<12} {path}")
    say(f"took {time.perf_counter() - started:.1f} s")
