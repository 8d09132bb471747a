"""Stage 1 from Python: what the command does, without a terminal."""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from cache.arguments import shown
from cache.errors import InputError
from cache.process.terminal import make_console
from pipeline.backbones.choice import DEFAULT_STREAMS, StreamChoice, choose_streams
from pipeline.backbones.load import BackboneConfig
from pipeline.config import ExtractConfig
from pipeline.decoding.memory import asked_workers
from pipeline.decoding.pool import PoolSettings
from pipeline.reporting.report import ExtractReport

OnLine = Callable[[str], object]
_OF_STREAMS = frozenset(inspect.signature(choose_streams).parameters) - {"asked", "weights"}


def extract(
    src: str | Path,
    out: str | Path,
    *,
    streams: Sequence[str | StreamChoice] = DEFAULT_STREAMS,
    weights: str | None = None,
    labels: str | Path | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    decoder: Literal["pyav", "decord", "opencv"] = "pyav",
    workers: int = 0,
    max_rejects: float = 1.0,
    dry_run: bool = False,
    on_line: OnLine | None = None,
    **settings: Any,
) -> ExtractReport:
    """Decode every video of a source once and write its features to a cache; run again, it resumes or adds.

    >>> report = extract("RWF-2000", "cache/v1.zarr", weights="random", on_line=print)  # doctest: +SKIP
    >>> report.found == report.stored + report.rejected, report.rejects  # doctest: +SKIP

    src: a folder, a video, a manifest, or the URL of one in object storage (`s3://bucket/prefix`). out: `.zarr`, `.h5`, or an
    address (`s3://bucket/v1.zarr`). streams: names of recipes (`clip`, `slowfast`, `image`, `motion`, `audio`, `text`) or
    `NAME=KIND:MODEL,key=value`, as `--stream` takes them. weights: for all streams that do not name their own (`random` for a dry
    run); None: the published ones. labels: a file that joins them. device: auto, cpu, cuda, cuda:N, all, or several by commas.
    workers: decode processes, 0: one a core. max_rejects: share of rejects above which RejectLimitExceeded is raised, after
    everything is stored; 1 never does (the command's is 0.1). dry_run: look at every file, store nothing. on_line: called with
    every line that the command would print. settings: seed, clip_model, clip_weights, clip_tag, clip_fps, slowfast_weights,
    slowfast_stride, any other field of `BackboneConfig` (runtime, batch_sizes={"clip": 64}, ...) or of `ExtractConfig` (dtype,
    min_seconds, redo, ...).

    Returns the report: counts, rejects by id with their reasons, notes, seconds. Raises an OnepassError (`cache.errors`) where
    the command ends with one line, and TypeError for a setting that does not exist. Two ends of the command are told by the
    report alone: `interrupted`, and `waiting` (streams that lack videos which could not be read this time).
    """
    for name, path, optional in (("src", src, False), ("out", out, False), ("labels", labels, True)):
        if not ((isinstance(path, str | os.PathLike) and path != "") or (optional and path is None)):
            raise InputError(f"{name} is a path, got {shown(path)}")
    known = {*BackboneConfig.__dataclass_fields__, *_OF_STREAMS}
    of_models = {name: settings.pop(name) for name in list(settings) if name in known}
    config = ExtractConfig(
        src=src,
        out=Path(out),
        labels=None if labels is None else Path(labels),
        backbones=BackboneConfig.of(
            streams, weights=weights, device=device, precision=precision, **of_models
        ),
        decoder=decoder,
        max_rejects=max_rejects,
        **{"pool": PoolSettings(workers=asked_workers(workers))} | settings,
    )
    return run_config(config, dry_run=dry_run, on_line=on_line)


def run_config(
    config: ExtractConfig, *, dry_run: bool = False, on_line: OnLine | None = None
) -> ExtractReport:
    """The same for settings that are at hand. Raises as `extract`."""
    from cache.errors import RejectLimitExceeded
    from pipeline.dry_run import dry_run as probe
    from pipeline.run import extract as run

    console = make_console(file=_Lines(on_line), width=200)
    report = (probe if dry_run else run)(config, console=console)
    for line in report.lines():
        console.print(line)
    if not report.interrupted and report.reject_share > config.max_rejects:
        raise RejectLimitExceeded(
            f"{report.rejected} of {report.found} inputs were rejected ({report.reject_share:.1%}), over max_rejects "
            f"{config.max_rejects:g}; report.rejects of a run with a higher limit names the reasons"
        )
    return report


class _Lines(io.TextIOBase):
    """A file that hands over whole lines."""

    def __init__(self, on_line: OnLine | None) -> None:
        self._on_line, self._open = on_line, ""

    def write(self, text: str) -> int:
        *lines, self._open = (self._open + text).split("\n")
        if self._on_line is not None:
            for line in lines:
                self._on_line(line)
        return len(text)
