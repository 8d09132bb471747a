"""Sources in object storage: everything below a prefix, as a walk of the same tree on a disk would give it."""

from __future__ import annotations

import contextlib
import posixpath
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cache.errors import SourceError
from cache.objects.store import ObjectTrouble, open_objects, split
from pipeline.decoding.remote_file import RemoteFile, Stores
from pipeline.sources.names import portable

LOOKING = 16
"""Objects of a manifest that are asked about at a time."""
LOST_AT_ONCE = 32
"""After so many that could not be asked about, and none that could, the store is not there."""


def walk_objects(
    url: str, why_not: Callable[[str, bool], str]
) -> Iterator[tuple[str, RemoteFile | None, str]]:
    """(name below the prefix, the object, why it is no input) of everything below a URL; a folder that is no input comes once,

    without an object. why_not: of a name, and whether it is a folder's. Keys that only mark a folder are left out. Raises
    SourceError.
    """
    store_url, prefix = split(url)
    left: set[str] = set()
    marker = ""
    with _listing_errors():
        for found in open_objects(store_url).list(prefix):
            name = found.key[len(prefix) :].lstrip("/")
            if marker and not name.startswith(f"{marker}/"):
                yield marker, None, why_not(posixpath.basename(marker), False)
            marker = ""
            if not name:
                continue
            folders = name.split("/")[:-1]
            above = ["/".join(folders[: n + 1]) for n in range(len(folders))]
            if any(folder in left for folder in above):
                continue
            for folder in above:
                if why := why_not(posixpath.basename(folder), True):
                    left.add(folder)
                    yield folder, None, why
                    break
            else:
                why = why_not(posixpath.basename(name), False)
                if why and not found.size_bytes and "." not in posixpath.basename(name):
                    marker = name  # S3 keeps an empty folder as an empty object of its name
                else:
                    yield name, RemoteFile(f"{store_url}/{found.key}", found), why
    if marker:
        yield marker, None, why_not(posixpath.basename(marker), False)


def look(url: str) -> RemoteFile | None:
    """The object at a URL; None where there is none. Raises SourceError."""
    with _listing_errors():
        try:
            return Stores().look(RemoteFile(url))
        except ObjectTrouble as trouble:
            if trouble.kind == "missing":
                return None
            raise


@contextlib.contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """A small object as a file of its name. Raises SourceError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (portable(posixpath.basename(url)) or "file")
        with _listing_errors():
            objects, key = Stores().of(url)
            path.write_bytes(objects.read_all(key)[0])
        yield path


def beside(manifest_url: str, written: str) -> str:
    """The URL of what a manifest in a store names by a relative path. Raises SourceError where that leads out of the store."""
    store_url, key = split(manifest_url)
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(key), written))
    if joined.startswith(("../", "/")) or joined in ("..", "."):
        raise SourceError(f"{manifest_url}: {written} is no object of {store_url}")
    return f"{store_url}/{joined}"


def looked_at(remotes: list[RemoteFile]) -> list[RemoteFile]:
    """Those that were not seen, as they are now; what cannot be asked about stays unseen, and its fetch will say why.

    Raises SourceError where not one of many could be asked about.
    """
    stores = Stores()
    n_seen = n_lost = 0

    def is_away() -> bool:
        return n_lost > LOST_AT_ONCE and not n_seen

    def ask(remote: RemoteFile) -> RemoteFile:
        nonlocal n_seen, n_lost
        if remote.seen is not None or is_away():
            return remote
        try:
            found = stores.look(remote)
        except ObjectTrouble as trouble:
            if trouble.kind == "missing":
                return remote
            n_lost += 1
            if is_away():
                raise SourceError(f"{trouble}; no object of the manifest could be asked about") from None
            return remote
        n_seen += 1
        return found

    threads = ThreadPoolExecutor(LOOKING)
    try:
        return list(threads.map(ask, remotes))
    finally:
        threads.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _listing_errors() -> Iterator[None]:
    try:
        yield
    except ObjectTrouble as trouble:
        raise SourceError(str(trouble)) from None
