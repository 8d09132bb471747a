"""Whole-cache copies: a new store appears complete under its name, or not at all."""

from __future__ import annotations

import contextlib
import glob
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cache.errors import StorageFull
from cache.reader import Cache
from cache.schema import REJECT_COLUMNS, VIDEO_COLUMNS, StreamSpec
from cache.stores import files
from cache.stores.layout import CacheAttributes, all_specs
from cache.stores.open import staging_path
from cache.stores.zarr_append import ZarrAppender
from cache.stores.zarr_read import ZarrReader

CREATING_SUFFIX = ".creating"
REMOVING_SUFFIX = ".removing"


class _Sink(Protocol):
    def append(self, array: str, rows: Any) -> None: ...


def _beside(path: Path, suffix: str, fence: files.Fence) -> Path:
    return fence.beside(path.with_name(path.name + suffix), "")


def clean_leftovers(path: Path) -> None:
    """Remove what a killed writer of the cache at `path` may have left half made. The caller holds the
    lock.
    """
    for target in (path, staging_path(path)):
        for suffix in (CREATING_SUFFIX, REMOVING_SUFFIX):
            name = target.name + suffix
            for leftover in (target.with_name(name), *target.parent.glob(f"{glob.escape(name)}.*")):
                files.remove(leftover)


def new_zarr(
    target: Path,
    attributes: CacheAttributes,
    streams: Sequence[StreamSpec],
    fence: files.Fence = files.NO_FENCE,
) -> ZarrAppender:
    """Create an empty Zarr cache at `target`, which must not exist or be an empty folder."""
    try:
        with files.storage_errors(target):
            appender = _start_zarr(target, attributes, streams, fence)
            appender.commit(attributes)
            return _name_zarr(appender, target)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove_tree(_beside(target, CREATING_SUFFIX, fence))
        raise


def _name_zarr(appender: ZarrAppender, target: Path) -> ZarrAppender:
    files.put(appender.path, target, appender.fence)
    files.sync([target.parent])
    return ZarrAppender.open(target, appender.fence)


def _start_zarr(
    target: Path, attributes: CacheAttributes, streams: Sequence[StreamSpec], fence: files.Fence
) -> ZarrAppender:
    creating = _beside(target, CREATING_SUFFIX, fence)
    files.remove_tree(creating)
    return ZarrAppender.create(creating, streams, attributes, fence)


def copy_to_zarr(
    source: Cache, target: Path, attributes: CacheAttributes, fence: files.Fence = files.NO_FENCE
) -> ZarrAppender:
    """Copy the live contents of `source` to a Zarr cache at `target`, replacing what is there.

    The copy is complete before what is there goes. Raises `StorageFull` and leaves nothing behind.
    """
    _require_space(source, target)
    creating, removing = (_beside(target, suffix, fence) for suffix in (CREATING_SUFFIX, REMOVING_SUFFIX))
    with files.storage_errors(target):
        try:
            appender = _start_zarr(target, attributes, source.specs, fence)
            _copy(source, appender)
            appender.commit(attributes)
            if target.exists():
                files.remove_tree(removing)
                files.put(target, removing, fence)
            copied = _name_zarr(appender, target)
        except BaseException:
            with contextlib.suppress(OSError):
                files.remove_tree(creating)
            raise
        files.remove_tree(removing)
    return copied


def copy_to_hdf5(
    source: Cache, target: Path, attributes: CacheAttributes, fence: files.Fence = files.NO_FENCE
) -> None:
    """Copy the live contents of `source` to an HDF5 cache at `target`, replacing a file there in one step.

    Raises `StorageFull` and leaves nothing behind.
    """
    from cache.stores.hdf5 import Hdf5Builder

    _require_space(source, target)
    creating = _beside(target, CREATING_SUFFIX, fence)
    rows = dict.fromkeys(all_specs(source.specs), 0)
    rows |= {f"videos/{name}": source.n_videos for name in VIDEO_COLUMNS}
    rows |= {f"rejects/{name}": len(source.rejects) for name in REJECT_COLUMNS}
    for info in source.streams.values():
        rows[f"streams/{info.name}/values"] = rows[f"streams/{info.name}/spans"] = info.n_tokens
        rows[f"streams/{info.name}/offsets"] = source.n_videos + 1
        if info.optional:
            rows[f"streams/{info.name}/absent"] = source.n_videos
    with files.storage_errors(target):
        builder = Hdf5Builder(creating, source.specs, rows, attributes)
        try:
            _copy(source, builder)
            builder.finish()
            files.put(creating, target, fence)
        except BaseException:
            builder.abandon()
            raise
        files.sync([target.parent])


def publish(staging: Path, target: Path, fence: files.Fence = files.NO_FENCE) -> None:
    """Write the staging folder of an `.h5` cache to its file in one step, then remove the folder."""
    reader = ZarrReader(staging)
    found = reader.attributes
    attributes = CacheAttributes(
        dataset=found.dataset,
        label_names=found.label_names,
        provenance=found.provenance,
        store_id=found.store_id,
    )
    copy_to_hdf5(Cache([reader], [target]), target, attributes, fence)
    remove_staging(target, fence)


def remove_staging(path: Path, fence: files.Fence = files.NO_FENCE) -> None:
    """Remove the staging folder of the `.h5` cache at `path`: in one step for anyone who looks."""
    staging = staging_path(path)
    removing = _beside(staging, REMOVING_SUFFIX, fence)
    with files.storage_errors(path):
        files.remove_tree(removing)
        files.take_away(staging, removing, fence)


def _copy(source: Cache, sink: _Sink) -> None:
    for name in VIDEO_COLUMNS:
        sink.append(f"videos/{name}", source.videos.column(name))
    for name in REJECT_COLUMNS:
        sink.append(f"rejects/{name}", source.rejects.column(name))
    for stream, info in source.streams.items():
        if info.optional:
            sink.append(f"streams/{stream}/absent", source.absent(stream))
        sink.append(f"streams/{stream}/offsets", source.offsets(stream)[1:])
        for _, values, spans in source.iter_rows(stream):
            sink.append(f"streams/{stream}/values", values)
            sink.append(f"streams/{stream}/spans", spans)


def _require_space(source: Cache, target: Path) -> None:
    needed = sum(
        info.n_tokens * (info.dim * np.dtype(info.dtype).itemsize + 8) for info in source.streams.values()
    )
    with files.storage_errors(target):
        free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise StorageFull(
            f"writing {target} needs {needed / 1e6:.1f} MB but its disk has {free / 1e6:.1f} MB free; "
            "everything committed before is intact. Make room and run the same command again."
        )
