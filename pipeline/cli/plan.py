"""The `onepass plan` command: shards of equal length."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from cache.errors import InputError

MAX_SHARDS = 100_000


def plan_command(
    src: Annotated[
        Path,
        typer.Option(help="Folder, manifest (.csv, .tsv, .json, .jsonl) or video, or an address of one."),
    ],
    shards: Annotated[int, typer.Option(help="How many.")],
    out: Annotated[Path, typer.Option(help="The plan to write, for extract --plan.")] = Path("plan.json"),
    taper: Annotated[
        float,
        typer.Option(
            help="0 to 1: first shards longer, last ones shorter than the mean by this share; for many shards a machine."
        ),
    ] = 0.0,
    workers: Annotated[int, typer.Option(help="Probe processes; 0: one a core.")] = 0,
) -> None:
    """Look at every video once and divide them into shards of nearly equal declared duration."""
    from cache.process.outputs import require_output
    from cache.process.terminal import make_console
    from pipeline.config import ExtractConfig
    from pipeline.decoding.memory import asked_workers
    from pipeline.decoding.pool import PoolSettings
    from pipeline.dry_run import dry_run
    from pipeline.sources.shards import balanced, write_plan

    if not 1 <= shards <= MAX_SHARDS:
        raise InputError(f"--shards {shards}: between 1 and {MAX_SHARDS}")
    if not 0 <= taper <= 1:
        raise InputError(f"--taper {taper}: between 0 and 1")
    require_output("--out", out)
    console = make_console()
    config = ExtractConfig(
        src=src,
        out=Path("plan.zarr"),
        allow_unmatched=True,
        pool=PoolSettings(workers=asked_workers(workers)),
    )
    declared: dict[str, float] = {}
    dry_run(config, console=console, declared_seconds=declared)
    placed = balanced(declared, shards, taper=taper)
    write_plan(out, placed, shards)
    seconds: defaultdict[int, float] = defaultdict(float)
    for video_id, place in placed.items():
        seconds[place] += declared[video_id]
    loads = [seconds[place] for place in range(1, shards + 1)]
    console.print(
        f"{out}: {len(placed)} videos in {shards} shards of {min(loads):.0f} to {max(loads):.0f} s; what did not open goes by "
        "its hash",
        highlight=False,
        markup=False,
    )
