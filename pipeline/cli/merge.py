"""The `onepass merge` command: parts into one cache, which accounts for every input of their source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache.cli import say_words
from cache.objects.store import as_location
from cache.process.outputs import require_cache_output


def merge_command(
    parts: Annotated[list[Path], typer.Argument(help="Caches to join, such as the shards of one source.")],
    out: Annotated[
        Path, typer.Option(help="Cache to write: .zarr or .h5, or an s3://, gs:// or az:// address.")
    ],
    src: Annotated[
        Path | None, typer.Option(help="The source of all parts: every input must be in one of them.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing cache at --out.")] = False,
    allow_library_mismatch: Annotated[
        bool, typer.Option(help="Accept parts made with other library versions.")
    ] = False,
) -> None:
    """Join parts into one cache: nothing lost, nothing twice. Run it again to resume."""
    from cache.lock import note_writers
    from cache.merge import merge
    from cache.objects.address import shown
    from cache.objects.mirror import written

    require_cache_output("--out", out, remote=True)
    listed = None
    if src is not None:
        from cache.reader import open_cache
        from pipeline.backbones.kind import sound_alone_will_do
        from pipeline.sources.tree import discover

        with open_cache(parts[0]) as part:
            sound = sound_alone_will_do((info.fingerprint, info.optional) for info in part.streams.values())
        listed = [source.id for source in discover(as_location(src), sound=sound).sources]
    note_writers(*parts)
    with written(out, typer.echo) as local:
        found = merge(
            parts, local, listed=listed, overwrite=overwrite, ignore_libraries=allow_library_mismatch
        )
    known = f" = {len(listed)} in {as_location(src)}" if src is not None and listed is not None else ""
    twice = f"; {found.n_twice} ids stood in two parts, alike" if found.n_twice else ""
    typer.echo(
        f"{shown(out)}: {found.n_parts} parts, {found.n_videos} videos + {found.n_rejects} rejects{known}: adds up{twice}"
    )
    if found.n_passing:
        typer.echo(
            f"note: {found.n_passing} of the rejects are passing trouble: these inputs were never read. extract --src SRC --out "
            f"{shown(out)} tries them again"
        )
    say_words(local, out)
