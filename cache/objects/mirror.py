"""Writing a cache to object storage: an ordinary local cache, of which committed states are published.

    with Mirror.open("s3://bucket/v1/part-003.zarr") as mirror:
        with CacheWriter.open(mirror.path, ...) as writer:
            writer.after_change = mirror.publish_if_due
            ...

The working copy lies in the folder of `working_folder`. A publish sends the files that are new or changed as objects that never
change, and then replaces the commit record by a put that holds only if the record is the one this writer knows: whatever stops
it, the address shows the old state or the new, and of two writers the second is told who was first.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from cache.errors import CacheError, CacheLocked, InputError, OnepassError
from cache.lock import CacheLock
from cache.objects.address import remote_url, working_folder
from cache.objects.bucket import Bucket
from cache.objects.record import RECORD_NAME, CommitRecord, StoredFile, digest_of
from cache.objects.store import ObjectTrouble, redacted
from cache.objects.transfer import describe_file, in_parallel, receive, send
from cache.stores import files
from cache.stores.layout import TRANSCRIPTS_SUFFIX
from cache.stores.open import cache_exists, open_store, staging_path

PUBLISH_SECONDS = 60.0
STATE_NAME = "state.json"
_SETTLED_NS = 2_000_000_000
"""A file that changed so shortly before it was read may change again without another time of change."""
_TRIES = 6
Say = Callable[[str], object]
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Published:
    """A record as it stands at the address."""

    record: CommitRecord
    digest: str
    etag: str


class Mirror:
    """The working copy of one address, held by one process. `path` is the local cache. A context manager; made by `open`."""

    def __init__(
        self, bucket: Bucket, folder: Path, lock: CacheLock, say: Say, every_seconds: float, whole: bool
    ) -> None:
        self.bucket, self._folder, self._lock, self._say = bucket, folder, lock, say
        self._every_seconds, self._whole = every_seconds, whole
        self.writer = uuid.uuid4().hex
        self._base: _Published | None = None
        self._described: dict[str, tuple[_Stamp, StoredFile]] = {}
        self._sent: set[str] = set()
        self._failed: OnepassError | None = None
        self._last = time.monotonic()
        self.path = folder / bucket.name

    @classmethod
    def open(
        cls,
        url: str,
        *,
        say: Say = lambda _: None,
        every_seconds: float = PUBLISH_SECONDS,
        whole: bool = False,
    ) -> Mirror:
        """Take hold of the working copy of `url` and bring it to the state that is published there.

        A copy that is ahead of that state (its run was killed before it could publish) is kept as it is. whole: the cache is made
        in one piece, again where it was not published, and published only where nothing went wrong. Raises CacheLocked where
        another process of this machine has it, CacheCorrupt for objects that are missing or damaged, ObjectTrouble where the
        address cannot be written to, and CacheError.
        """
        if url.startswith("http"):
            raise InputError(
                f"{redacted(url)}: a web server is only read from; write to an s3://, gs:// or az:// address"
            )
        bucket = Bucket(url)
        folder = working_folder(bucket.url)
        with files.storage_errors(folder):
            files.make_directory(folder)
        try:
            lock = CacheLock(folder / "mirror")
        except CacheLocked as error:
            told = str(error).replace(str(folder / "mirror"), bucket.url)
            raise CacheLocked(f"{told} Its working copy is {folder}") from None
        mirror = cls(bucket, folder, lock, say, every_seconds, whole)
        try:
            with files.storage_errors(folder):
                mirror._take_over()
                bucket.require_writable()
        except BaseException:
            lock.release()
            raise
        return mirror

    def __enter__(self) -> Mirror:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish what is committed, also where the run ended with an error that a user can mend."""
        try:
            if error is None:
                self.publish()
            elif isinstance(error, OnepassError) and not self._whole:
                self._publish_after(error)
        finally:
            self._lock.release()
            if isinstance(error, OnepassError):  # users know the address, not the working copy
                error.args = (str(error).replace(str(self.path), self.bucket.url),)

    def _publish_after(self, error: OnepassError) -> None:
        if error is self._failed:  # it was publishing that ended the run
            return
        try:
            self.publish()
        except OnepassError as second:  # the first error is the one to report
            error.add_note(f"publishing failed as well: {second}")

    def publish_if_due(self) -> None:
        """`publish`, if the last one is long enough ago. Storage that cannot be reached now is tried again later."""
        if time.monotonic() - self._last < self._every_seconds:
            return
        try:
            self.publish()
        except ObjectTrouble as trouble:
            if trouble.kind != "passing":
                raise
            self._say(f"not published yet: {trouble}")

    def publish(self) -> None:
        """Make the committed state of the working copy the one that stands at the address. Nothing may write to it meanwhile.

        Raises CacheLocked where another writer was first, ObjectTrouble, and CacheError.
        """
        with files.storage_errors(self._folder):
            try:
                self._publish()
            except ObjectTrouble as trouble:
                kept = f"what is committed lies in {self._folder}, and the same command goes on with it"
                if self._whole:
                    kept = "nothing was published; run the same command again"
                self._failed = ObjectTrouble(f"{trouble}; {kept}", trouble.kind)
                raise self._failed from trouble
            except OnepassError as error:
                self._failed = error
                raise
            finally:
                self._last = time.monotonic()

    def _publish(self) -> None:
        if not cache_exists(self.path):
            return
        listed = [(path, self._describe(path)) for path in self._local_files()]
        state = tuple(file for _, file in listed)
        pieces = {span[0]: (path, span) for path, file in listed for span in file.spans()}
        self._send(pieces, pieces.keys() - self._sent)
        if self._base is not None and state == self._base.record.files:
            return
        self._replace_record(state)
        self._save_state()
        self._sent = set()  # nothing is known to be there until it was looked at: trouble here is made good by the next publish
        self._sent = (
            pieces.keys() & self._there()
        )  # what no record names may be swept away, or was, before this one named it
        self._send(pieces, pieces.keys() - self._sent)

    def _send(
        self, pieces: Mapping[str, tuple[Path, tuple[str, int, int]]], lacking: Collection[str]
    ) -> None:
        in_parallel(lambda one: send(self.bucket, *one), [pieces[digest] for digest in lacking])
        self._sent |= set(lacking)

    def _there(self) -> set[str]:
        """Pieces that lie at the address."""
        return {one.key.rpartition("/")[2] for one in self.bucket.list_objects()}

    def _replace_record(self, state: tuple[StoredFile, ...]) -> None:
        n_videos, n_rejects = _count(self.path)
        for attempt in range(_TRIES):
            base = self._base
            record = CommitRecord(
                name=self.path.name,
                sequence=base.record.sequence + 1 if base else 1,
                writer=self.writer,
                host=socket.gethostname(),
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                previous=base.digest if base else "",
                n_videos=n_videos,
                n_rejects=n_rejects,
                files=state,
            )
            body = record.to_bytes()
            try:
                etag = self.bucket.replace_record(body, base.etag if base else None)
            except ObjectTrouble as trouble:
                if trouble.kind not in ("exists", "changed", "passing"):
                    raise
                found = self._read_published()
                if found is not None and found.digest == digest_of(body):
                    etag = found.etag  # it was done, only the answer was lost
                elif found is not None and found.record.writer == self.writer:
                    self._base = found  # an earlier put, given up as lost, came through after all
                    continue
                elif (found and found.etag) == (base and base.etag):
                    if trouble.kind == "passing" and attempt == _TRIES - 1:
                        raise
                    # the storage is busy, or two puts came at one moment, of which neither holds
                    time.sleep(0.1 * 2**attempt)
                    continue
                else:
                    raise self._told_who_won(found) from trouble
            self._base = _Published(record, digest_of(body), etag)
            return
        raise ObjectTrouble(
            f"{self.bucket.url}/{RECORD_NAME}: could not be replaced in {_TRIES} tries", "passing"
        )

    def _told_who_won(self, found: _Published | None) -> CacheError:
        mine = self._base.record.sequence if self._base else 0
        if found is None:
            return CacheError(
                f"{self.bucket.url}: its {RECORD_NAME} was removed while this run worked, whose commits lie in {self._folder}"
            )
        won = found.record
        return CacheLocked(
            f"{self.bucket.url}: another writer on {won.host} published record {won.sequence} at {won.time} "
            f"({won.n_videos} videos), while this one worked from record {mine}: nothing of the other's was touched, and what "
            "this run extracted since is not published. When the other has ended, the same command takes over its state and "
            "extracts only what lacks; give each shard an --out of its own"
        )

    def _take_over(self) -> None:
        """Bring the working copy to the published state, unless it continues just that."""
        found = self._read_published()
        continued = self._load_state()
        if found is None:
            if continued:
                raise CacheError(
                    f"{self.bucket.url} has no {RECORD_NAME} any more, and {self._folder} is the working copy of one: restore "
                    "it, or remove that folder to begin again"
                )
            if self._whole:
                for root in self._roots():
                    files.remove(root)
            return
        self._base = found
        self._sent = _pieces(found.record.files) & self._there()
        self.path = self._folder / found.record.name
        if self._whole or continued != found.digest or not cache_exists(self.path):
            self._sync(found.record)
            self._save_state()

    def _sync(self, record: CommitRecord) -> None:
        files.remove_file(self._folder / STATE_NAME)  # whatever stops this: the next run begins it again
        files.remove_file(
            self.path.with_name(f"{self.path.name}{TRANSCRIPTS_SUFFIX}")
        )  # of the state that was here
        wanted = {file.path: file for file in record.files}
        held = {}
        for path in list(self._local_files()):
            name = path.relative_to(self._folder).as_posix()
            if name in wanted:
                held[name] = self._describe(path)
            else:
                files.remove_file(path)
        for folder in sorted(
            (p for root in self._roots() for p in root.rglob("*") if p.is_dir()), reverse=True
        ):
            if not any(folder.iterdir()):
                folder.rmdir()
        lacking = [file for name, file in wanted.items() if held.get(name) != file]
        size = sum(file.size for file in lacking) / 1e6
        self._say(
            f"{self.bucket.url}: record {record.sequence} by {record.host} of {record.time}, {record.n_videos} videos; "
            f"{len(lacking)} of {len(wanted)} files ({size:.1f} MB) are fetched"
        )
        in_parallel(lambda file: receive(self.bucket, file, self._folder / file.path), lacking)
        files.sync(self._folder / file.path for file in lacking)

    def _read_published(self) -> _Published | None:
        found = self.bucket.read_record()
        if found is None:
            return None
        data, etag = found
        record = CommitRecord.from_bytes(data, where=f"{self.bucket.url}/{RECORD_NAME}")
        return _Published(record, digest_of(data), etag)

    def _roots(self) -> tuple[Path, Path]:
        return self.path, staging_path(self.path)

    def _local_files(self) -> Iterator[Path]:
        for root in self._roots():
            if root.is_file():
                yield root
            yield from sorted(p for p in root.rglob("*") if p.is_file() and p.suffix != files.PART_SUFFIX)

    def _describe(self, path: Path) -> StoredFile:
        name = path.relative_to(self._folder).as_posix()
        found = path.stat()
        stamp = (found.st_size, found.st_mtime_ns, found.st_ino)
        known = self._described.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        settled = time.time_ns() - found.st_mtime_ns > _SETTLED_NS
        file = describe_file(path, name)
        if settled:
            self._described[name] = (stamp, file)
        return file

    def _load_state(self) -> str:
        """Digest of the record that the working copy continues, "" where it continues none."""
        try:
            found = json.loads((self._folder / STATE_NAME).read_bytes())
            for name, (size, mtime_ns, inode, pieces, text) in found["files"].items():
                self._described[name] = ((size, mtime_ns, inode), StoredFile(name, size, tuple(pieces), text))
            return str(found["base"])
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheError(f"{self._folder / STATE_NAME} cannot be read ({error}): remove it") from error

    def _save_state(self) -> None:
        assert self._base is not None
        described = {
            name: [*stamp, file.pieces, file.text] for name, (stamp, file) in self._described.items()
        }
        found = {"url": self.bucket.url, "base": self._base.digest, "files": described}
        files.replace(self._folder / STATE_NAME, json.dumps(found).encode())


def _pieces(state: tuple[StoredFile, ...]) -> set[str]:
    return {piece for file in state for piece in file.pieces}


@contextlib.contextmanager
def written(target: Path, say: Say = print) -> Iterator[Path]:
    """Where to write the cache that is to stand at `target`: there, or in the working copy, which is published at the end."""
    url = remote_url(target)
    if url is None:
        yield target
        return
    with Mirror.open(url, say=say, whole=True) as mirror:
        yield mirror.path


def _count(path: Path) -> tuple[int, int]:
    """Live videos and rejects of a local cache."""
    store = open_store(path)
    try:
        gone = store.attributes
        return (
            store.n_rows("videos/id") - len(gone.superseded_videos),
            store.n_rows("rejects/id") - len(gone.superseded_rejects),
        )
    finally:
        store.close()
