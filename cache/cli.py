"""The commands that need nothing but a cache: `onepass inspect`, `convert`, `export` and `sweep`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cache.errors import InputError

if TYPE_CHECKING:
    from cache.reader import Cache


def inspect_command(
    cache: Annotated[
        Path, typer.Argument(help="A .zarr or .h5 cache, or its s3://, gs:// or az:// address.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Videos, labels, splits, streams, token counts, fingerprints, and rejects by reason."""
    from cache.lock import note_writers
    from cache.reader import open_cache

    note_writers(cache)
    with open_cache(cache) as opened:
        facts = describe(opened)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        _print(facts)


def convert_command(
    source: Annotated[Path, typer.Argument(help="The cache to read.")],
    target: Annotated[
        Path, typer.Argument(help="The cache to write: .zarr or .h5, or an s3://, gs:// or az:// address.")
    ],
    overwrite: Annotated[bool, typer.Option(help="Replace an existing cache at the target.")] = False,
) -> None:
    """Copy a cache into the other format (or the same, without superseded rows); nothing is lost."""
    from cache.convert import convert
    from cache.lock import note_writers
    from cache.objects.address import shown
    from cache.objects.mirror import written
    from cache.process.outputs import require_cache_output
    from cache.reader import open_cache

    require_cache_output("TARGET", target, remote=True)
    note_writers(source)
    with written(target, typer.echo) as local:
        convert(source, local, overwrite=overwrite)
        with open_cache(local) as opened:
            tokens = ", ".join(f"{info.n_tokens} {name}" for name, info in opened.streams.items())
            told = f"{len(opened)} videos, {tokens} tokens, {len(opened.rejects)} rejects"
    typer.echo(f"{shown(target)}: {told}")
    say_words(local, target)


def say_words(cache: Path, target: Path) -> None:
    """Print where the words lie that went along with a copy, if there are any: personal data, now in one more place.

    None go to an address: what the working copy `cache` of one holds is removed.
    """
    from cache.kept_text import kept_text_path
    from cache.objects.address import remote_url

    if not (words := kept_text_path(cache)).exists():
        return
    if remote_url(target) is None:
        typer.echo(f"{words}: the words that --keep-text kept, copied along")
    else:
        words.unlink()
        typer.echo("the words that --keep-text kept stay where they are: none go to an address")


def sweep_command(
    address: Annotated[Path, typer.Argument(help="The s3://, gs:// or az:// address of a cache.")],
    older_than: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1e6,
            metavar="HOURS",
            help="Leave what was written later, and everything if the record was.",
        ),
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove the objects of an address that its commit record does not name: what later publishes and lost runs left."""
    from cache.objects.address import remote_url
    from cache.objects.store import as_location
    from cache.objects.sweep import sweep

    url = remote_url(address)
    if url is None or url.startswith("http"):
        raise InputError(
            f"{as_location(address)}: only an s3://, gs:// or az:// address of a cache has objects to sweep"
        )
    found = sweep(url, older_than_hours=older_than, dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    typer.echo(
        f"{url}: record {found.sequence} names {found.kept} objects; {found.removed} others ({found.removed_bytes / 1e6:.1f} MB) "
        f"{verb}, {found.young} younger than {older_than:g} h left"
    )


def export_command(
    cache: Annotated[Path, typer.Argument(help="The cache to read.")],
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty.")],
    how: Annotated[
        str,
        typer.Option(
            "--format", help="npy (a file a video), csv or parquet (a file a stream, a row a token)."
        ),
    ] = "npy",
    stream: Annotated[list[str] | None, typer.Option(help="Of these streams only (repeatable).")] = None,
) -> None:
    """Write features, spans, labels and ids as files that others read; onepass import reads npy and parquet again."""
    from cache.export import export_cache
    from cache.lock import note_writers
    from cache.process.outputs import require_output_folder
    from cache.reader import open_cache

    require_output_folder("--out", out)
    note_writers(cache)
    with open_cache(cache) as opened:
        for line in export_cache(opened, out, how=how, streams=stream or ()):
            typer.echo(f"{out}: {line}")


def describe(cache: Cache) -> dict[str, Any]:
    """What a cache holds, as JSON-able values."""
    from collections import Counter

    from cache.fingerprint import fingerprint_digest, is_random, weights_name

    videos = cache.videos
    names = cache.label_names or ("0", "1")
    shown = {1: names[1], 0: names[0], -1: "unknown"}
    splits: dict[str, dict[str, int]] = {}
    for (split, label), count in sorted(
        Counter(zip(videos.split, videos.label.tolist(), strict=True)).items()
    ):
        splits.setdefault(str(split) or "(no split)", {})[shown[label]] = count
    return {
        "paths": list(cache.names),
        "dataset": cache.dataset,
        "n_videos": len(cache),
        "video_seconds": float(videos.duration_seconds.sum()),
        "negative_label": cache.label_names[0] if cache.label_names else None,
        "positive_label": cache.label_names[1] if cache.label_names else None,
        "splits": splits,
        "n_source_groups": len({str(source) for source in videos.source} - {""}),
        "decoders": {str(k): v for k, v in Counter(videos.decoder).items()},
        "random_weights": cache.random_weights,
        "streams": {
            name: {
                "dim": info.dim,
                "dtype": info.dtype,
                "n_tokens": info.n_tokens,
                "weights": weights_name(info.fingerprint),
                "random_weights": is_random(info.fingerprint),
                "fingerprint_digest": fingerprint_digest(info.fingerprint),
                "fingerprint": dict(info.fingerprint),
                "optional": info.optional,
                "absent": dict(
                    Counter(str(why).partition(":")[0] for why in cache.absent(name) if why).most_common()
                ),
            }
            for name, info in cache.streams.items()
        },
        "n_rejects": len(cache.rejects),
        "rejects_by_reason": cache.rejects.counts(),
        "rejects": [
            {"id": str(i), "reason": str(r), "detail": str(d)}
            for i, r, d in zip(cache.rejects.id, cache.rejects.reason, cache.rejects.detail, strict=True)
        ],
        "provenance": dict(cache.provenance),
    }


def _print(facts: dict[str, Any]) -> None:
    from rich.table import Table

    from cache.process.terminal import make_console
    from cache.schema import REJECT_REASONS

    console = make_console()
    console.print(f"{', '.join(facts['paths'])}: {facts['n_videos']} videos, {facts['video_seconds']:.0f} s")
    if random := [name for name, stream in facts["streams"].items() if stream["random_weights"]]:
        console.print(f"RANDOM weights of {', '.join(random)}: these features carry no learned meaning")
    groups = facts["n_source_groups"]
    decoders = ", ".join(f"{name} {count}" for name, count in facts["decoders"].items())
    console.print(
        f"data set {facts['dataset']}, {groups} source groups given, decoded by {decoders or 'nothing yet'}"
    )
    labels = sorted({label for counts in facts["splits"].values() for label in counts})
    table = Table(
        "split",
        *labels,
        "sum",
        title=f"videos; positive class: {facts['positive_label']}",
        title_justify="left",
    )
    for split, counts in facts["splits"].items():
        table.add_row(split, *(str(counts.get(label, 0)) for label in labels), str(sum(counts.values())))
    console.print(table)
    for name, stream in facts["streams"].items():
        fields = stream["fingerprint"]
        console.print(
            f"stream {name}: {stream['n_tokens']} tokens of {stream['dim']} {stream['dtype']}, {fields.get('model', '?')}, "
            f"weights {stream['weights']}, {fields.get('precision', '?')}, fingerprint {stream['fingerprint_digest']}"
        )
        for why, count in stream["absent"].items():
            console.print(f"  {count} of {facts['n_videos']} videos lack it: {why}", markup=False)
    if facts["n_rejects"]:
        table = Table("rejects", "reason", "meaning")
        for reason, count in facts["rejects_by_reason"].items():
            table.add_row(str(count), reason, REJECT_REASONS.get(reason, ""))
        console.print(table)
        for entry in facts["rejects"][:20]:
            console.print(f"  {entry['id']}: {entry['reason']}: {entry['detail'][:160]}")
        if facts["n_rejects"] > 20:
            console.print(f"  and {facts['n_rejects'] - 20} more: --json has them all")
    else:
        console.print("no rejects")
