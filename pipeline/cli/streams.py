"""The `onepass streams` command: which streams there are, what they read and cost, and one in full; torch is not imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from pipeline.backbones.kind import Example, Settled

LOG_WIDTH = 150
COLUMNS = ("kind", "stream", "width", "reads", "GFLOP\na token", "GFLOP\na second", "weights")
NARROW = ("stream", "width", "reads", "GFLOP\na second")
"""Columns of a console that is too narrow for all."""


def streams_command(
    stream: Annotated[
        str | None, typer.Argument(help="One in full: a name, or NAME=KIND:MODEL[,key=value...].")
    ] = None,
) -> None:
    """List the kinds of streams with examples: what each reads, how wide its tokens are and what they cost."""
    from cache.process.terminal import make_console

    console = make_console()
    if stream is not None:
        _show_one(console, stream)
        return
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console = make_console(width=LOG_WIDTH)
    _list(console)


def _list(console: Console) -> None:
    from rich.measure import Measurement

    from cache.errors import InputError
    from pipeline.backbones.choice import RECIPES
    from pipeline.backbones.kind import kind_named, kind_names

    examples: list[tuple[str, Example]] = []
    about, broken = [], []
    for name in kind_names():
        try:
            kind = kind_named(name)
            examples += [(name, example) for example in kind.examples()]
        except InputError as error:
            broken.append(str(error))
            continue
        extra = f" (needs the extra {kind.extra})" if kind.extra else ""
        about.append(f"{name}: {kind.about}{extra}")
    tables = [_table(examples, columns) for columns in (COLUMNS, NARROW)]
    wide = Measurement.get(console, console.options.update(width=10_000), tables[0]).maximum
    console.print(tables[wide > console.width], soft_wrap=False)
    console.print(
        "reads: frames of a token x pixels, at frames a second; GFLOP: 2 a multiply-add, of a token and of a second of video"
    )
    for line in (*about, *(f"not to be used: {line}" for line in broken)):
        console.print(line)
    console.print(f"By name alone: {', '.join(RECIPES)}. One in full: onepass streams {next(iter(RECIPES))}")


def _table(examples: Sequence[tuple[str, Example]], columns: tuple[str, ...]) -> Table:
    from rich.table import Table

    from pipeline.backbones.choice import parse_stream

    table = Table(title="streams", title_justify="left")
    for column in columns:
        text = column in ("kind", "stream", "weights")
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    for kind, example in examples:
        choice = parse_stream(example.choice)
        cells = {
            "kind": kind,
            "stream": ",".join(part for part in example.choice.split(",") if not part.startswith("weights=")),
            "width": str(example.width),
            "reads": example.reads or f"{example.frames} x {_size(example.size)} at {example.fps:.4g}",
            "GFLOP\na token": f"{example.gflop:,.4g}",
            "GFLOP\na second": f"{example.gflop * example.fps / example.stride:,.4g}" if example.fps else "-",
            "weights": choice.weights or "needs none",
        }
        table.add_row(*(cells[column] for column in columns))
    return table


def _size(size: int | tuple[int, int]) -> str:
    height, width = (size, size) if isinstance(size, int) else size
    return str(height) if height == width else f"{height}x{width}"


def _show_one(console: Console, text: str) -> None:
    """Raises InputError, WeightsError."""
    import json

    from pipeline.backbones.choice import parse_stream
    from pipeline.backbones.kind import identity, settle

    settled = settle(parse_stream(text))
    choice, plan = settled.choice, settled.plan
    sampling, shape = plan.sampling, plan.token_shape
    every = sampling.stride / sampling.fps
    frames = f"{sampling.window} frames" if sampling.window > 1 else "1 frame"
    frames = f"{sampling.window} samples of sound" if plan.sound else frames
    leaves = "x".join(map(str, shape))
    reads = f"{frames} at {sampling.fps:g} a second, a token every {every:g} s"
    if plan.words is not None:
        joined = f"{settled.sampling['window_seconds']:g} s"
        reads = f"words: a token a cue, short ones joined up to {joined}, at most {plan.words.max_tokens} word pieces each"
    lines = [
        f"stream       {choice}",
        f"reads        {reads}",
        f"a token      leaves the decode worker as {leaves} {plan.token_dtype}, {plan.token_bytes / 1e6:.3g} MB",
        f"weights      {_origin(settled)}",
        *([f"note         {settled.note}"] if settled.note else []),
        "fingerprint, as far as it is known without weights:",
        json.dumps(
            {
                **identity(settled),
                "preprocessing": dict(settled.preprocessing),
                "sampling": dict(settled.sampling),
            },
            indent=2,
        ),
    ]
    for line in lines:
        console.print(line)


def _origin(settled: Settled) -> str:
    weights, origin = settled.choice.weights, settled.origin
    if not weights:
        return origin or "none"
    return f"{weights}, from {origin}" if origin else weights
