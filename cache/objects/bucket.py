"""The address of one cache: objects below it, and its commit record, which only a conditional put replaces."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from cache.errors import CacheNotFound, InputError
from cache.objects.record import OBJECTS, RECORD_NAME, is_object_name
from cache.objects.store import Objects, ObjectTrouble, StoredObject, open_objects, redacted, split

PROBE_NAME = "write.probe"


class Bucket:
    """One address. `name`: its last part, which is the name of the cache. Methods raise ObjectTrouble."""

    def __init__(self, url: str, *, make: bool = True) -> None:
        """Asks nothing of the store yet. make: a folder that stands for a bucket is made where it is not there.

        Raises InputError for an address that cannot be, and where obstore is missing, and CacheNotFound for a missing folder.
        """
        self.url = redacted(url)
        if re.search("[?#]", url):
            raise InputError(
                f"{self.url}...: an address of a cache has no '?' and no '#', which begin a query: give another name"
            )
        self.name = self.url.rpartition("/")[2]
        self._folder: Path | None = None
        if url.startswith("file://"):
            self._folder = Path(url.removeprefix("file://"))
            if not make and not self._folder.is_dir():
                raise CacheNotFound(f"{self.url}: there is no such folder, so no cache")
            self._objects, self._prefix = _open_folder(self._folder), ""
        else:
            _, key = split(url)
            if not key:
                raise InputError(
                    f"{self.url}: is a whole bucket; give a name in it, such as {self.url}/v1.zarr"
                )
            self._objects, self._prefix = open_objects(url), f"{key}/"

    def write(self, name: str, data: bytes) -> None:
        """Put an object that is the same whoever puts it."""
        self._objects.put(self._prefix + name, data)

    def read(self, name: str) -> bytes:
        """An object whole."""
        return self._objects.read_all(self._prefix + name)[0]

    def written_ns(self, name: str) -> int:
        """When an object was put, by the store's clock, in nanoseconds since 1970."""
        return self._objects.look(self._prefix + name).mtime_ns

    def require_writable(self) -> None:
        """Put an empty object and remove it again, if that is allowed. Raises ObjectTrouble where writing is not."""
        try:
            self.write(PROBE_NAME, b"")
        except ObjectTrouble as trouble:
            if trouble.kind != "passing":
                raise ObjectTrouble(f"{self.url} cannot be written to: {trouble}", trouble.kind) from None
        with contextlib.suppress(ObjectTrouble):
            self.remove([PROBE_NAME])

    def clock_ns(self) -> int:
        """What the store's clock says: the time of an object that is put, looked at and removed."""
        probe = f"{uuid.uuid4().hex}.probe"
        self.write(probe, b"")
        now_ns = self.written_ns(probe)
        self.remove([probe])
        return now_ns

    def list_objects(self) -> Iterator[StoredObject]:
        """The pieces that are there, by their names relative to the address."""
        for one in self._objects.list(f"{self._prefix}{OBJECTS}"):
            name = one.key.removeprefix(self._prefix)
            if is_object_name(name):  # anything else there is somebody else's
                yield replace(one, key=name)

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, if they are there."""
        wanted = list(names)
        try:
            self._objects.remove([self._prefix + name for name in wanted])
        except ObjectTrouble as trouble:
            if trouble.kind != "missing":
                raise
            if len(wanted) > 1:  # where one is missing, those that follow may be left
                for name in wanted:
                    self.remove([name])

    def read_record(self) -> tuple[bytes, str] | None:
        """The commit record and its etag (or generation), None where there is none. A bucket that is not there is trouble."""
        try:
            data, found = self._objects.read_all(self._prefix + RECORD_NAME)
            return data, found.condition
        except ObjectTrouble as trouble:
            if trouble.kind == "missing":
                return None
            raise

    def replace_record(self, data: bytes, etag: str | None) -> str:
        """Put the record in the place of the one with this etag (None: where there is none); returns the new one's.

        Raises ObjectTrouble: `exists` or `changed` where it is another one; after `passing` it may have been put.
        """
        key = self._prefix + RECORD_NAME
        if etag is None:
            return self._objects.put(key, data, create=True)
        if self._folder is None:
            return self._objects.put(key, data, etag=etag)
        # a folder knows no conditional put: a lock stands in for it
        with FileLock(self._folder / f"{RECORD_NAME}.lock"):
            if self._objects.look(key).etag != etag:
                raise ObjectTrouble(f"{self.url}/{RECORD_NAME}: is not what it was", "changed")
            return self._objects.put(key, data)


def _open_folder(folder: Path) -> Objects:
    try:
        from obstore.store import LocalStore
    except ImportError as error:
        raise InputError(f"file://{folder}: needs a library: pip install 'onepass[objects]'") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"file://{folder}: cannot be made: {error.strerror}") from error
    return Objects(f"file://{folder}", LocalStore(folder), None)
