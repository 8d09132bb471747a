"""Addresses of caches in object storage, and where their local copies lie."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from cache.errors import CacheError
from cache.objects.store import as_location, redacted
from cache.objects.telling import CLOUDS

_STORES = (
    *(name for cloud in CLOUDS.values() for name in (*cloud.names, *cloud.endpoints)),
    "AZURE_STORAGE_USE_EMULATOR",
)
"""Variables that say which store an address is looked for in; names and addresses, no secrets."""
_FOLDER = re.compile(r"file:/+(?=[^/])")


def remote_url(path: str | Path) -> str | None:
    """The address that `path` is, None for a local path. `file://` is a folder that stands for a bucket.

    A `Path` made of an address has lost a slash, which is put back.
    """
    if found := _FOLDER.match(str(path)):
        return f"file:///{str(path)[found.end() :].rstrip('/')}"
    location = as_location(path)
    return location if isinstance(location, str) else None


def shown(path: str | Path) -> str:
    """A path or an address as messages name it."""
    url = remote_url(path)
    return str(path) if url is None else redacted(url)


def objects_folder() -> Path:
    """Where local copies lie: $ONEPASS_OBJECTS_DIR, else $XDG_CACHE_HOME/onepass/objects, else ~/.cache/onepass/objects."""
    if given := os.environ.get("ONEPASS_OBJECTS_DIR"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onepass" / "objects"


def working_folder(url: str) -> Path:
    """Where this machine's writer of `url` works: a folder for each store that the environment makes of the address."""
    where = [url, *(os.environ[name] for name in _STORES if name in os.environ)]
    return objects_folder() / "work" / hashlib.blake2b("\n".join(where).encode(), digest_size=12).hexdigest()


def require_local(path: str | Path) -> None:
    """Raise CacheError for an address, where only a local cache can be changed."""
    if (url := remote_url(path)) is not None:
        raise CacheError(
            f"{redacted(url)} is in object storage, where only extract, merge and convert write: work on a copy (onepass convert "
            f"{redacted(url)} COPY.zarr) and convert that to a new address"
        )
