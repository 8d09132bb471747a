"""Adding a stream to a cache that has videos already: only the new stream is computed, nothing else is touched.

The new stream grows in a sidecar cache beside the main one, with the same crash safety and resumption; when it holds every
stored video it is attached in one atomic step and the sidecar goes. Until then the main cache is as it was. A video whose
contents can no longer be decoded becomes a reject of the main cache, since every stored video has every stream; for one that
only could not be read this time the stream waits.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cache.errors import FingerprintMismatch, InputError
from cache.fingerprint import is_imported, require_same
from cache.lock import CacheLock
from cache.reader import open_cache
from cache.schema import Reject, StreamSpec, VideoLabel
from cache.stores.open import cache_exists
from cache.writer import CacheWriter
from pipeline.backbones.base import Backbone
from pipeline.config import TRIED, ExtractConfig, make_flow, open_writer
from pipeline.counts import FlowCounts
from pipeline.sources.inventory import Input
from pipeline.sources.labelled import ResolvedSources


def missing_streams(out: Path, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Streams that an existing, non-empty cache lacks. Raises FingerprintMismatch where it has more than was asked for."""
    if not cache_exists(out):
        return ()
    with open_cache(out) as cache:
        held, n_videos = set(cache.streams), len(cache)
        imported = sorted(name for name, info in cache.streams.items() if is_imported(info.fingerprint))
    if imported:
        raise FingerprintMismatch(
            f"{out} holds {', '.join(imported)}, imported: extract cannot make what was made elsewhere, and every "
            "stored video has every stream. Extract into another --out, then add them to it with onepass import"
        )
    extra = sorted(held - set(asked))
    if extra:
        raise FingerprintMismatch(
            f"{out} also holds {', '.join(extra)}, and every stored video has every stream: "
            f"ask for --streams {','.join(sorted(held | set(asked)))}, or use another --out"
        )
    return tuple(name for name in asked if name not in held) if n_videos else ()


def require_same_streams(out: Path, specs: Mapping[str, StreamSpec], *, ignore_libraries: bool) -> None:
    """The streams that a cache holds must be those that this run would make. Raises FingerprintMismatch naming the fields.

    Checked before a further stream is computed for every video: afterwards the cache could not be continued.
    """
    with open_cache(out) as cache:
        for name, info in cache.streams.items():
            spec = specs[name]
            require_same(
                spec.fingerprint, info.fingerprint, where=str(out), ignore_libraries=ignore_libraries
            )
            if (spec.dim, spec.dtype) != (info.dim, info.dtype):
                raise FingerprintMismatch(
                    f"stream {name} is {spec.dtype} [{spec.dim}] here but {info.dtype} [{info.dim}] in {out}: "
                    "use the same settings, or another cache"
                )


def sidecar_path(out: Path, stream: str) -> Path:
    """Where a stream grows before it is attached."""
    return out.with_name(f"{out.name}.adding-{stream}.zarr")


def remove_sidecar(out: Path, stream: str) -> None:
    """Remove the sidecar of an attached stream, also one that a killed run left behind after attaching it."""
    sidecar = sidecar_path(out, stream)
    if sidecar.exists():
        shutil.rmtree(sidecar)
    Path(f"{sidecar}.lock").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class AddedStream:
    """How it went: what the flow did, and the stored videos that still lack the stream, each with why."""

    counts: FlowCounts
    lacking: dict[str, str]
    attached: bool


def add_stream(
    name: str,
    config: ExtractConfig,
    resolved: ResolvedSources,
    backbones: Mapping[str, Backbone],
    *,
    console: Console,
    stop: threading.Event,
    held: CacheLock,
) -> AddedStream:
    """Compute stream `name` for every stored video and attach it; after an interruption the same command goes on.

    held: the lock of the cache.

    Where passing trouble kept a stored video from being read, or its folder from being listed, the stream is not attached.
    Raises InputError where stored videos are not in the source or have no digest, and FingerprintMismatch where a file changed.
    """
    with CacheWriter.reopen(config.out, held=held) as main:
        stored = {video_id: entry for video_id, entry in main.known().items() if entry.state == "stored"}
        by_id = {source.id: source for source in resolved.sources}
        hidden = {
            i: f"unreadable-file: the folder {folder.id} cannot be listed: {folder.unlisted}"
            for i in stored.keys() - by_id.keys()
            for folder in resolved.sources
            if folder.unlisted and i.startswith(f"{folder.id}/")
        }
        gone = sorted(stored.keys() - by_id.keys() - hidden.keys())
        if gone:
            raise InputError(
                f"stream {name} cannot be added: {len(gone)} stored videos are not in {config.src}, such as {gone[0]}; "
                "give the source that holds them all"
            )
        if unknown := sorted(i for i, entry in stored.items() if not entry.digest):
            raise InputError(
                f"stream {name} cannot be added: {len(unknown)} stored videos have no digest, such as {unknown[0]}, so that "
                "nothing tells whether the files are the same; extract all streams into a new cache"
            )
        console.print(f"adding stream {name} to {len(stored)} stored videos", highlight=False, markup=False)
        sidecar = sidecar_path(config.out, name)
        with open_writer(config, sidecar, {name: backbones[name]}, resolved) as writer:
            done = writer.known()
            work = [
                Input(by_id[i], resolved.labels.get(i, VideoLabel(-1, "")), entry.size_bytes, entry.mtime_ns)
                for i, entry in stored.items()
                if i not in hidden and (i not in done or done[i].passing)
            ]
            flow = make_flow(config, {name: backbones[name]}, writer=writer, digests={}, adding=True)
            counts = flow.run(work, console=console, stop=stop)
            ended = writer.known()
        lacking = {i: f"{e.reason}: {e.detail}" for i, e in ended.items() if i in stored and e.passing}
        lacking |= {i: why for i, why in sorted(hidden.items()) if i not in ended}
        if stop.is_set() or lacking:
            return AddedStream(counts, lacking, attached=False)
        changed = [
            i for i, entry in stored.items() if ended[i].digest != entry.digest and ended[i].state == "stored"
        ]
        if changed:
            raise FingerprintMismatch(
                f"stream {name} cannot be added: {len(changed)} files changed since they were stored, such as {changed[0]}; "
                f"bring the cache up to date with its own streams first, then remove {sidecar} and add the stream"
            )
        _drop_undecodable(
            main, sidecar, stored.keys() & {i for i, e in ended.items() if e.state == "rejected"}
        )
        main.attach_stream(sidecar)
        if tried := config.left_to_auto({name: backbones[name]}):
            main.describe({TRIED: sorted({*main.provenance.get(TRIED, ()), *tried})})
    remove_sidecar(config.out, name)
    return AddedStream(counts, lacking, attached=True)


def _drop_undecodable(main: CacheWriter, sidecar: Path, ids: set[str]) -> None:
    if not ids:
        return
    with open_cache(sidecar) as cache:
        rejects: list[Reject] = [
            r for r in (cache.rejects.row(i) for i in range(len(cache.rejects))) if r.id in ids
        ]
    main.commit([], rejects)
