"""Which store stands behind a path: `.zarr` folder, `.h5` file, or the staging folder of an unfinished
`.h5`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cache.errors import CacheError, CacheNotFound
from cache.stores.layout import StoreReader
from cache.stores.zarr_read import ZarrReader

CacheFormat = Literal["zarr", "hdf5"]

STAGING_SUFFIX = ".staging"


def cache_format(path: Path) -> CacheFormat:
    """The format that a path's suffix stands for. Raises `CacheError` for any other suffix."""
    suffix = path.suffix.lower()
    if suffix == ".zarr":
        return "zarr"
    if suffix in (".h5", ".hdf5"):
        return "hdf5"
    raise CacheError(f"{path} is no name for a cache: it must end in .zarr, .h5 or .hdf5")


def cache_exists(path: Path) -> bool:
    """Whether something stands at `path`, or in the staging folder of an unfinished `.h5` cache beside it."""
    return path.exists() or staging_path(path).exists()


def staging_path(path: Path) -> Path:
    """Where the writer of an `.h5` cache works until it publishes: `<name>.h5.staging` beside it."""
    return path.with_name(path.name + STAGING_SUFFIX)


def open_store(path: Path) -> StoreReader:
    """Open what is committed at `path`.

    Raises `CacheNotFound`, `CacheError` (not a cache, unknown version, staging of another file) or
    `CacheCorrupt`.
    """
    if cache_format(path) == "zarr":
        return ZarrReader(path)
    if path.is_symlink():
        path = path.resolve()  # staging lies beside the file itself
    from cache.stores.hdf5 import Hdf5Reader

    try:
        staging = ZarrReader(staging_path(path))
    except CacheNotFound:
        return Hdf5Reader(path)
    if path.exists():
        require_same_origin(path, staging)
    return staging


def require_same_origin(path: Path, staging: ZarrReader) -> None:
    """Raise `CacheError` unless the staging folder continues the published file at `path`.

    It does when it was made from that file, or when that file was published from it (and the writer was
    killed before it could remove the folder).
    """
    from cache.stores.hdf5 import Hdf5Reader

    published = Hdf5Reader(path)
    try:
        known = published.attributes.store_id
    finally:
        published.close()
    if known not in (staging.attributes.base_id, staging.attributes.store_id):
        raise CacheError(
            f"{path} was replaced since an unfinished run left {staging.path}, and the two do not belong "
            "together. Move away or remove the one that you do not want."
        )
