"""The one writer of a cache: creates or appends, commits whole batches, publishes `.h5` files.

    with CacheWriter.open("cache/v1.zarr", streams=specs, dataset="RWF-2000", label_names=("NonFight",
    "Fight"),
                          provenance={...}) as writer:
        todo = [path for path in found if path not in writer.known()]
        writer.commit(stored, rejected)

A `.zarr` cache is written in place. An `.h5` cache is written in the Zarr folder `<name>.h5.staging` beside
it and becomes the `.h5` file at `close`, in one rename; until then readers of the `.h5` path see the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from cache import copying
from cache.batch import append_tokens, cast_tokens, copy_stream, require_sidecar, require_streams
from cache.errors import CacheError, CacheLocked, CacheNotFound, FingerprintMismatch, OnepassError
from cache.fingerprint import require_same
from cache.known import KnownInputs
from cache.lock import CacheLock, LentLock
from cache.objects.address import require_local
from cache.reader import open_cache
from cache.schema import (
    REJECT_COLUMNS,
    RELABEL_COLUMNS,
    VIDEO_COLUMNS,
    Reject,
    StreamSpec,
    VideoFeatures,
    VideoLabel,
)
from cache.stores import files, relabel
from cache.stores.compatible import class_names, require_equal_rows, require_same_names, require_same_optional
from cache.stores.layout import CacheAttributes, StoreReader
from cache.stores.open import cache_format, open_store, require_same_origin, staging_path
from cache.stores.zarr_append import ZarrAppender
from cache.stores.zarr_read import ZarrReader


class CacheWriter:
    """Single writer of a cache, holding its lock. A context manager; made by `open` or `reopen`."""

    def __init__(
        self, path: Path, lock: CacheLock, appender: ZarrAppender | None, store: StoreReader
    ) -> None:
        self.path = path
        self._lock = lock
        self._appender = appender
        self._stored_attributes = store.attributes
        self._given_label_names: tuple[str, str] | None = None
        self._streams = dict(store.streams)
        self._known = KnownInputs(store)
        self._in_doubt = False
        self._closed = False
        self.after_change: Callable[[], object] | None = None
        """Called after each change that was committed, while nothing writes."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        streams: Sequence[StreamSpec],
        dataset: str,
        label_names: tuple[str, str] | None,
        provenance: Mapping[str, Any],
        ignore_libraries: bool = False,
        held: CacheLock | None = None,
    ) -> CacheWriter:
        """Create the cache, or continue it after undoing what a killed writer left uncommitted.

        label_names: (negative, positive); None keeps those stored. An existing cache keeps its dataset name
        and provenance, which describe its creation. held: the cache's lock, where the caller has it and keeps it.

        Raises `CacheLocked`, `FingerprintMismatch` (naming the fields), `CacheError` (not a cache, other
        streams or label names), `CacheCorrupt`, or `StorageFull`.
        """
        if not streams or len({spec.name for spec in streams}) != len(streams):
            raise ValueError("a cache needs at least one stream, and stream names that differ")
        attributes = CacheAttributes(dataset, label_names, dict(provenance))
        writer = cls._open(Path(path), streams, attributes, held)
        try:
            writer._require_same_streams(streams, ignore_libraries)
            writer._adopt_label_names(label_names)
        except BaseException:
            writer._release()
            raise
        return writer

    @classmethod
    def reopen(cls, path: str | Path, *, held: CacheLock | None = None) -> CacheWriter:
        """Open an existing cache with its own streams, to relabel it, attach to it or publish it. held: as of `open`."""
        return cls._open(Path(path), None, None, held)

    @classmethod
    def _open(
        cls,
        path: Path,
        streams: Sequence[StreamSpec] | None,
        attributes: CacheAttributes | None,
        held: CacheLock | None,
    ) -> CacheWriter:
        require_local(path)
        path = path.resolve()
        hdf5 = cache_format(path) == "hdf5"
        if streams is None:
            open_store(path).close()  # raises before a lock file is made beside something that is no cache
        with files.storage_errors(path):
            files.make_directory(path.parent)
        lock = CacheLock(path) if held is None else LentLock(held)
        try:
            with lock.held(), files.storage_errors(path):
                copying.clean_leftovers(path)
                tree = staging_path(path) if hdf5 else path
                appender: ZarrAppender | None = None
                if tree.is_dir() and any(tree.iterdir()):
                    if hdf5 and path.exists():
                        require_same_origin(path, ZarrReader(tree))
                    appender = ZarrAppender.open(tree, lock.fence, renew=lock.lease.taken_over)
                    relabel.finish(appender)
                elif hdf5 and path.is_dir():
                    raise CacheError(f"{path} is a folder; an .h5 cache is a file. Give another name.")
                elif path.exists() and not path.is_dir():
                    pass  # an .h5 file is copied when the first change comes; a foreign file is refused below
                elif streams is None or attributes is None:
                    raise CacheNotFound(f"no cache at {path}")
                else:
                    fresh = dataclasses.replace(attributes, store_id=uuid.uuid4().hex)
                    appender = copying.new_zarr(tree, fresh, streams, lock.fence)
            store = ZarrReader(tree) if appender is not None else open_store(path)
            try:
                require_equal_rows(store)
                return cls(path, lock, appender, store)
            finally:
                store.close()
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except OnepassError as second:  # the first error is the one to report
            error.add_note(f"closing the cache failed as well: {second}")

    @property
    def dataset(self) -> str:
        """The data set's name, as given when the cache was created."""
        return self._attributes.dataset

    @property
    def label_names(self) -> tuple[str, str] | None:
        """(negative, positive) class names, None while unknown."""
        return self._attributes.label_names

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """The streams that every stored video must have."""
        return tuple(self._streams.values())

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What is kept of how the cache was made."""
        return self._attributes.provenance

    def known(self) -> KnownInputs:
        """The live inputs by id, stored and rejected; follows commits."""
        return self._known

    def commit(self, stored: Sequence[VideoFeatures], rejected: Sequence[Reject]) -> None:
        """Make a batch of videos and rejects part of the cache, in one atomic step.

        An id that is live already is superseded: its old row is no longer current. Values are cast to the
        stream's dtype. Raises `CacheError` (and changes nothing) for an id given twice, missing or unknown
        streams, a wrong width or values not finite in the stream's dtype; `StorageFull` leaves the cache as
        it was and the writer usable.
        """
        if not stored and not rejected:
            return
        self._require_usable()
        rows = [video.row for video in stored]
        ids = [*(row.id for row in rows), *(reject.id for reject in rejected)]
        twice = [video_id for video_id, count in Counter(ids).items() if count > 1]
        if twice:
            raise CacheError(f"one commit holds {twice[0]!r} more than once")
        for video in stored:
            require_streams(video, self._streams)
        tokens = {name: cast_tokens(stored, spec) for name, spec in self._streams.items()}
        with self._change() as appender:
            videos, rejects = self._known.superseded_after(ids)
            attributes = dataclasses.replace(
                self._attributes, superseded_videos=videos, superseded_rejects=rejects
            )
            for name in VIDEO_COLUMNS:
                appender.append(f"videos/{name}", [getattr(row, name) for row in rows])
            for name in REJECT_COLUMNS:
                appender.append(f"rejects/{name}", [getattr(reject, name) for reject in rejected])
            for name, found in tokens.items():
                append_tokens(appender, name, found)
            appender.commit(attributes)
            self._known.update(rows, rejected)

    def withdraw(self, ids: Sequence[str]) -> None:
        """Take rejects off the record, in one atomic step. Raises `CacheError` for ids that are none, and `StorageFull`."""
        if not ids:
            return
        self._require_usable()
        for video_id in ids:
            if video_id not in self._known or self._known[video_id].state != "rejected":
                raise CacheError(f"{video_id!r} is no reject of {self.path}")
        with self._change() as appender:
            _, rejects = self._known.superseded_after(ids)
            appender.commit(dataclasses.replace(self._attributes, superseded_rejects=rejects))
            self._known.withdraw(ids)

    def relabel(self, labels: Mapping[str, VideoLabel], *, label_names: tuple[str, str] | None = None) -> int:
        """Put labels on stored videos, in one atomic step; returns how many videos changed.

        An empty split or source keeps what is stored. label_names: new (negative, positive) names; the caller
        then covers every labelled video. Raises `CacheError` for ids that are not stored, and `StorageFull`;
        if the disk fills up after the step was made permanent, the new labels hold and the rest is made up
        later.
        """
        self._require_usable()
        rows = self._known.video_rows
        unknown = [video_id for video_id in labels if video_id not in rows]
        if unknown:
            raise CacheError(
                f"{len(unknown)} ids to label are not stored in {self.path}, e.g. {unknown[0]!r}"
            )
        changes = self._label_changes({rows[video_id]: label for video_id, label in labels.items()})
        names = label_names or self.label_names
        names = names if names != self._written_attributes.label_names else None
        changed: set[int] = set().union(*changes.values())
        if changed or names:
            with self._change() as appender:
                relabel.start(appender, relabel.Journal(changes, names))
                relabel.finish(appender)
        return len(changed)

    def restamp(self, mtimes_ns: Mapping[str, int]) -> int:
        """Take over new times of change of files whose contents are what was stored; returns how many differed.

        In one atomic step, as `relabel`. Raises `CacheError` for ids that are not stored, and `StorageFull`.
        """
        self._require_usable()
        rows = self._known.video_rows
        unknown = [video_id for video_id in mtimes_ns if video_id not in rows]
        if unknown:
            raise CacheError(f"{unknown[0]!r} is not stored in {self.path}")
        changes = {
            rows[video_id]: mtime_ns
            for video_id, mtime_ns in mtimes_ns.items()
            if self._known[video_id].mtime_ns != mtime_ns
        }
        if changes:
            with self._change() as appender:
                relabel.start(appender, relabel.Journal({"mtime_ns": changes}, None))
                relabel.finish(appender)
            self._known.restamp(changes)
        return len(changes)

    def attach_stream(self, sidecar_path: str | Path) -> None:
        """Add a stream from another cache, in one atomic step.

        The sidecar is a complete cache that holds exactly the live videos of this one (same ids, same
        digests) and exactly one stream, which this cache lacks. Raises `CacheError` if not, and
        `StorageFull`.
        """
        self._require_usable()
        with open_cache(sidecar_path) as sidecar:
            spec = require_sidecar(sidecar, self._known, self._streams, self.path)
            with self._change() as appender:
                appender.add_stream(spec)
                copy_stream(sidecar, appender, spec, self._known.video_rows)
                appender.commit(self._attributes)
                self._streams[spec.name] = spec

    def adopt_fingerprints(self, fingerprints: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace the fingerprints of all streams, in one atomic step: what is stored is by now what these say.

        Raises `CacheError` unless exactly the cache's streams are named, and `StorageFull`.
        """
        self._require_usable()
        if set(fingerprints) != set(self._streams):
            raise CacheError(f"{self.path} holds the streams {', '.join(self._streams)}: name exactly those")
        streams = {
            name: dataclasses.replace(spec, fingerprint=fingerprints[name])
            for name, spec in self._streams.items()
        }
        with self._change() as appender:
            before = dict(appender.streams)
            appender.streams.update(streams)
            try:
                appender.commit(self._attributes)
            except BaseException:
                appender.streams.update(before)
                raise
        self._streams = streams

    def describe(self, provenance: Mapping[str, Any]) -> None:
        """Set entries of the provenance, in one atomic step; None takes one away. Nothing is written where all are so already."""
        self._require_usable()
        found = {**self._attributes.provenance, **provenance}
        found = {key: value for key, value in found.items() if value is not None}
        if found == dict(self._attributes.provenance):
            return
        with self._change() as appender:
            appender.commit(dataclasses.replace(self._attributes, provenance=found))

    def close(self) -> None:
        """Publish an `.h5` cache that changed, and let go of the lock. Harmless when done twice.

        Raises `StorageFull` if the file cannot be written; the staging folder then keeps everything.
        """
        if self._closed:
            return
        try:
            if self._lock.lease.lost:
                return  # said when it was found; the tree is another writer's by now
            if self._appender is not None and self._appender.path != self.path:
                with self._lock.held():
                    copying.publish(self._appender.path, self.path, self._lock.fence)
        finally:
            self._release()

    def require_own(self) -> None:
        """Raise `CacheLocked` where another writer has taken the cache over; for what is written beside it."""
        self._lock.lease.check()

    def _release(self) -> None:
        self._closed = True
        self._lock.release()

    def _require_usable(self) -> None:
        if self._closed:
            raise CacheError(f"the writer of {self.path} is closed")
        if self._in_doubt:
            raise CacheError(
                f"the last change to {self.path} was interrupted half-way; open the writer again to go on"
            )

    @property
    def _written_attributes(self) -> CacheAttributes:
        return self._appender.attributes if self._appender else self._stored_attributes

    @property
    def _attributes(self) -> CacheAttributes:
        found = self._written_attributes
        if found.label_names is None and self._given_label_names:
            return dataclasses.replace(found, label_names=self._given_label_names)
        return found

    @contextlib.contextmanager
    def _change(self) -> Iterator[ZarrAppender]:
        """The tree to change. What goes wrong before the commit is undone, so that it can be retried."""
        with self._lock.held(), files.storage_errors(self.path):
            appender = self._appender = self._appender or self._stage()
            relabel.finish(appender)
            before = appender.root_record
            self._in_doubt = True
            try:
                yield appender
            except CacheLocked:  # another writer's by now: nothing here may be undone
                raise
            except BaseException as error:
                if isinstance(error, FileNotFoundError):
                    self._lock.lease.check()
                if appender.root_record is before and appender.is_current():
                    appender.discard()
                    self._in_doubt = False
                raise
            self._in_doubt = False
        if self.after_change is not None:
            self.after_change()

    def _stage(self) -> ZarrAppender:
        """Copy the published file into a staging folder, where it can be changed safely."""
        with open_cache(self.path) as published:
            attributes = dataclasses.replace(
                self._stored_attributes, store_id=uuid.uuid4().hex, base_id=self._stored_attributes.store_id
            )
            return copying.copy_to_zarr(published, staging_path(self.path), attributes, self._lock.fence)

    def _require_same_streams(self, streams: Sequence[StreamSpec], ignore_libraries: bool) -> None:
        given = {spec.name: spec for spec in streams}
        if set(given) != set(self._streams):
            raise FingerprintMismatch(
                f"{self.path} holds the streams {', '.join(self._streams)} but this run makes "
                f"{', '.join(given)}. Ask for the same streams, or use another cache."
            )
        for name, stored in self._streams.items():
            spec = given[name]
            require_same_optional(name, spec.optional, stored.optional, where=self.path)
            require_same(
                spec.fingerprint, stored.fingerprint, where=str(self.path), ignore_libraries=ignore_libraries
            )
            if (spec.dim, spec.dtype) != (stored.dim, stored.dtype):
                raise FingerprintMismatch(
                    f"stream {name} is {spec.dtype} [{spec.dim}] here but {stored.dtype} [{stored.dim}] in "
                    f"{self.path}. Use the same settings, or another cache."
                )

    def _adopt_label_names(self, label_names: tuple[str, str] | None) -> None:
        stored = self.label_names
        if label_names and not stored:
            with contextlib.closing(self._reader()) as store:
                stored = class_names(store)
        require_same_names(label_names, stored, where=self.path)
        self._given_label_names = label_names

    def _reader(self) -> StoreReader:
        return ZarrReader(self._appender.path) if self._appender else open_store(self.path)

    def _label_changes(self, labels: Mapping[int, VideoLabel]) -> dict[str, dict[int, Any]]:
        """By column: row -> new value, for the rows where it differs from what is stored."""
        changes: dict[str, dict[int, Any]] = {}
        with contextlib.closing(self._reader()) as store:
            for name in RELABEL_COLUMNS:
                column = store.read(f"videos/{name}", 0, store.n_rows("videos/id")).tolist()
                optional = name in ("split", "source")
                wanted = {row: getattr(label, name) for row, label in labels.items()}
                changes[name] = {
                    row: value
                    for row, value in wanted.items()
                    if value != column[row] and (value or not optional)
                }
        return changes
