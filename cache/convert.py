"""Converting a cache between `.zarr` and `.h5`, or compacting it into the same format."""

from __future__ import annotations

import uuid
from pathlib import Path

from cache import copying
from cache.errors import CacheError, CacheNotFound
from cache.kept_text import words_along
from cache.lock import CacheLock
from cache.objects.address import require_local
from cache.reader import open_cache
from cache.stores import files
from cache.stores.layout import CacheAttributes
from cache.stores.open import cache_format, open_store, staging_path


def convert(source: str | Path, target: str | Path, *, overwrite: bool = False) -> None:
    """Write the live contents of the cache `source` to a new cache `target`; the suffixes choose the formats.

    Lossless for all live rows, tokens, rejects and attributes; superseded rows are dropped. `target` appears
    complete or not at all. `overwrite` lets it replace another cache, never anything else. Words that were kept go along.

    Raises `CacheError` (target exists, or is the source), `CacheLocked`, `CacheCorrupt`, `StorageFull`.
    """
    require_local(target)
    source, target = Path(source), Path(target).resolve()
    if source.resolve() == target:
        open_cache(source).close()
        raise CacheError(f"{source} cannot be converted into itself; give another name")
    cache_format(target)
    with open_cache(source):
        with files.storage_errors(target):
            files.make_directory(target.parent)
        lock = CacheLock(target)
        try:
            require_replaceable(target, overwrite)
            with words_along([source], target, contents=source):
                write_copy(source, target, fence=lock.fence)
        finally:
            lock.release()


def write_copy(source: Path, target: Path, *, fence: files.Fence) -> None:
    """The copy alone, in the place of what is there, for whoever holds the lock of `target`."""
    with open_cache(source) as cache:
        with files.storage_errors(target):
            copying.clean_leftovers(target)
        attributes = CacheAttributes(
            dataset=cache.dataset,
            label_names=cache.label_names,
            provenance=cache.provenance,
            store_id=uuid.uuid4().hex,
        )
        if cache_format(target) == "zarr":
            copying.copy_to_zarr(cache, target, attributes, fence)
        else:
            copying.copy_to_hdf5(cache, target, attributes, fence)
            copying.remove_staging(target, fence)


def require_replaceable(target: Path, overwrite: bool) -> None:
    """Raise `CacheError` unless `target` is free, or is a cache that may be overwritten."""
    if target.is_dir() and cache_format(target) == "zarr" and not any(target.iterdir()):
        return
    try:
        open_store(target).close()
    except CacheNotFound:
        return
    except CacheError as error:
        if target.exists() and not staging_path(target).exists():
            raise CacheError(f"{target} exists and will not be overwritten: {error}") from error
    if not overwrite:
        raise CacheError(f"{target} exists; remove it, give another name, or ask to overwrite it")
