"""A file in object storage: its URL, what it was when it was seen, and its contents, range after range."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cache.objects.store import Objects, ObjectTrouble, StoredObject, open_objects, split
from pipeline.decoding.trouble import Stamp

CHUNK_BYTES = 8 << 20
"""Of one request: what is lost where an answer is cut."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An object by its URL, and what it was when it was last seen; None where it was not."""

    url: str
    seen: StoredObject | None = None

    @property
    def stamp(self) -> Stamp | None:
        """Size and time of change, as of a file."""
        return None if self.seen is None else (self.seen.size_bytes, self.seen.mtime_ns)


class Stores:
    """The stores of a run by URL; threads share them. stop: ends what waits for another try."""

    def __init__(self, stop: threading.Event | None = None) -> None:
        self._stop, self._open, self._lock = stop, dict[str, Objects](), threading.Lock()

    def of(self, url: str) -> tuple[Objects, str]:
        """The store and the key in it."""
        store_url, key = split(url)
        with self._lock:
            if store_url not in self._open:
                self._open[store_url] = open_objects(store_url, self._stop)
            return self._open[store_url], key

    def look(self, remote: RemoteFile) -> RemoteFile:
        """The object as it is now. Raises ObjectTrouble."""
        objects, key = self.of(remote.url)
        return replace(remote, seen=objects.look(key))

    def chunks(self, remote: RemoteFile) -> Iterator[bytes]:
        """The contents of the version that was seen. Raises ObjectTrouble, `changed` where it is another by now."""
        objects, key = self.of(remote.url)
        seen = remote.seen
        assert seen is not None
        size = seen.size_bytes
        for start in range(0, size, CHUNK_BYTES):
            if size <= CHUNK_BYTES:
                data, found = objects.read_all(key, seen.etag)
            else:
                data, found = objects.read(key, start, min(start + CHUNK_BYTES, size), seen.etag)
            tagged = found.etag and seen.etag
            same = found.etag == seen.etag if tagged else found.mtime_ns == seen.mtime_ns
            if not same or found.size_bytes != seen.size_bytes:
                raise ObjectTrouble(f"{remote.url}: is not what it was", "changed")
            yield data


def object_digest(remote: RemoteFile) -> str:
    """`blake2b:<hex>` of an object's contents, as `file_digest` gives it of a file; nothing is kept. Raises ObjectTrouble."""
    stores = Stores()
    digest = hashlib.blake2b(digest_size=20)
    for data in stores.chunks(remote if remote.seen else stores.look(remote)):
        digest.update(data)
    return f"blake2b:{digest.hexdigest()}"
