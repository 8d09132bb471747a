"""The `onepass` command: composes the two stages, which know nothing of each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache.cli import convert_command, inspect_command
from cache.cli_errors import run_app
from heads.cli import train_head_command
from pipeline.cli import extract_command

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Decode every video once into a feature cache, then train violence-detection heads from it all day.",
)
app.command(name="extract")(extract_command)
app.command(name="train-head")(train_head_command)
app.command(name="inspect")(inspect_command)
app.command(name="convert")(convert_command)


@app.command()
def predict(
    paths: Annotated[list[Path], typer.Argument(help="Videos, folders, manifests, or one existing cache.")],
    head: Annotated[Path, typer.Option(help="Folder of a trained head.")],
    out: Annotated[Path, typer.Option(help="Scores to write: .csv or .jsonl.")] = Path("scores.csv"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    workers: Annotated[int, typer.Option(help="Decode processes; 0: one a core.")] = 0,
    decoder: Annotated[str, typer.Option(help="decord, pyav or opencv.")] = "",
    clip_weights: Annotated[
        str | None, typer.Option(help="FILE, where the head's CLIP weights came from one.")
    ] = None,
    slowfast_weights: Annotated[str | None, typer.Option(help="FILE, likewise for SlowFast.")] = None,
    max_rejects: Annotated[
        float, typer.Option(help="Share of rejected inputs up to which the exit code is 0.")
    ] = 0.1,
    keep_cache: Annotated[
        Path | None, typer.Option(help="Keep the features here instead of discarding them.")
    ] = None,
    allow_library_mismatch: Annotated[
        bool, typer.Option(help="Accept features of other library versions.")
    ] = False,
) -> None:
    """Score videos with a trained head: extract with the head's own settings, apply its threshold."""
    from commands.predict import predict as run

    run(
        paths,
        head=head,
        out=out,
        device=device,
        workers=workers,
        decoder=decoder,
        clip_weights=clip_weights,
        slowfast_weights=slowfast_weights,
        max_rejects=max_rejects,
        keep_cache=keep_cache,
        ignore_libraries=allow_library_mismatch,
    )


def main() -> None:
    """Entry point of `onepass`."""
    run_app(app)


if __name__ == "__main__":
    main()
