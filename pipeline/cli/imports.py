"""The `onepass import` command: features made elsewhere as a cache, or as a stream of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache.errors import InputError, RejectLimitExceeded


def import_command(
    src: Annotated[
        Path,
        typer.Argument(
            help="Folder of .npy, .npz, .h5 or .parquet files, a list of paths, a manifest, or one file."
        ),
    ],
    stream: Annotated[str, typer.Option(help="Name of the stream, such as i3d.")],
    out: Annotated[
        Path,
        typer.Option(help="Cache to write, .zarr or .h5; one that is there gets the stream, joined by id."),
    ],
    fps: Annotated[
        float | None,
        typer.Option(help="Frames a second behind the tokens; with --snippet N, N frames a token."),
    ] = None,
    snippet: Annotated[int, typer.Option(help="Frames a token: 16 for most I3D and CLIP features.")] = 1,
    stride_seconds: Annotated[
        float | None, typer.Option(help="Or: seconds from one token to the next.")
    ] = None,
    window_seconds: Annotated[
        float | None, typer.Option(help="Seconds of a token; left out: the stride.")
    ] = None,
    spans: Annotated[
        str,
        typer.Option(help="Or: a .csv (id,start,end), a folder of .npy [T, 2], or a column of the manifest."),
    ] = "",
    crops: Annotated[str, typer.Option(help="Several crops of one moment: mean, or tokens.")] = "mean",
    crops_axis: Annotated[
        int | None, typer.Option(help="Of 3-D arrays: 1 for [T, crops, D], 0 for [crops, T, D].")
    ] = None,
    key: Annotated[str, typer.Option(help="The array of every .npz or .h5 file.")] = "",
    root: Annotated[Path | None, typer.Option(help="Where the files of a list or manifest lie.")] = None,
    ending: Annotated[
        str, typer.Option(help="What file names carry behind the video's name, such as _i3d.")
    ] = "",
    labels: Annotated[Path | None, typer.Option(help="Label file, as for extract.")] = None,
    sources: Annotated[Path | None, typer.Option(help="File of source groups, as for extract.")] = None,
    positive: Annotated[str | None, typer.Option(help="Name of the positive class.")] = None,
    negative: Annotated[
        str,
        typer.Option(
            help="Of many classes in folders or manifest: the normal one; all others are `anomaly`."
        ),
    ] = "",
    allow_unmatched: Annotated[
        bool, typer.Option(help="Go on without labels, or features, that match no video.")
    ] = False,
    made_by: Annotated[
        str, typer.Option(help="What made them, in your words; only what says the same is read as one.")
    ] = "",
    dtype: Annotated[
        str | None, typer.Option(help="float16 or float32; left out: what loses nothing.")
    ] = None,
    max_rejects: Annotated[
        float, typer.Option(help="Share of rejects up to which the exit code is 0.")
    ] = 0.1,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing cache at --out.")] = False,
) -> None:
    """Write features made elsewhere as a cache, or add them to one: nothing is decoded, no pickle is read."""
    from cache.process.outputs import require_cache_output
    from cache.process.terminal import make_console
    from cache.token_arrays import timing
    from pipeline.imports.run import ImportConfig, import_features

    if not 0 <= max_rejects <= 1:
        raise InputError(f"--max-rejects is a share between 0 and 1, got {max_rejects}")
    require_cache_output("--out", out)
    console = make_console()
    config = ImportConfig(
        src=src,
        out=out,
        stream=stream,
        timing=timing(fps=fps, snippet=snippet, stride_seconds=stride_seconds, window_seconds=window_seconds),
        spans=spans,
        crops=crops,  # type: ignore[arg-type]
        crops_axis=crops_axis,
        key=key,
        root=root,
        ending=ending,
        labels=labels,
        sources=sources,
        positive=positive,
        negative=negative,
        allow_unmatched=allow_unmatched,
        made_by=made_by,
        dtype=dtype,  # type: ignore[arg-type]
        overwrite=overwrite,
    )
    report = import_features(config, say=lambda line: console.print(line, highlight=False, markup=False))
    for line in report.lines():
        console.print(line, highlight=False, markup=False)
    if not report.adds_up:
        raise AssertionError("stored + rejected is not found")
    if report.reject_share > max_rejects:
        raise RejectLimitExceeded(
            f"{len(report.rejects)} of {report.found} videos were rejected ({report.reject_share:.1%}), over --max-rejects "
            f"{max_rejects:g}; the reasons stand above, raise the limit to accept them"
        )
