"""Appending to a Zarr v3 cache: data first, then one atomic replacement of the root record.

Rows beyond the committed length are written where no reader looks, then synced; renaming the new root
`zarr.json` over the old one commits them all. The `zarr.json` of the single arrays follow afterwards, so that
a tool which ignores consolidated metadata sees an older state but never an uncommitted one. Opening repairs
what a killed writer left: rows beyond the record, arrays that the record does not name, metadata that lags.

What was another machine's, which may only have slept, is renewed first: its last chunks become new files, so that what it still
writes goes to the old ones (`files.Fence`), and the record says that it has a new writer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import CacheCorrupt, CacheError, CacheLocked
from cache.schema import StreamSpec
from cache.stores import files
from cache.stores.compatible import require_equal_rows
from cache.stores.layout import ArraySpec, CacheAttributes, all_specs
from cache.stores.zarr_meta import encode_strings, root_document, string_chunk, to_bytes, tree_documents
from cache.stores.zarr_read import ZarrReader


class _Tail:
    """The growing end of one array. `body` is the encoded part of a string array's last, partly filled
    chunk.
    """

    def __init__(self, folder: Path, spec: ArraySpec, committed: int, fence: files.Fence) -> None:
        self.folder, self.spec, self.fence = folder, spec, fence
        self.committed = self.pending = committed
        self.committed_body = self.pending_body = b""
        self.touched: set[Path] = set()

    def chunk_path(self, index: int) -> Path:
        return self.folder / ".".join(["c", str(index), *("0" for _ in self.spec.row_shape)])

    def append(self, rows: Any) -> None:
        position = 0
        while position < len(rows):
            index, within = divmod(self.pending, self.spec.chunk_rows)
            piece = rows[position : position + self.spec.chunk_rows - within]
            if self.spec.kind == "string":
                self.pending_body = (self.pending_body if within else b"") + encode_strings(piece)
                body = string_chunk(self.pending_body, within + len(piece), self.spec.chunk_rows)
                files.replace(self.chunk_path(index), body, durable=False, fence=self.fence)
            else:
                data = np.ascontiguousarray(piece, self.spec.dtype)
                files.write_at(
                    self.chunk_path(index),
                    within * self.spec.row_bytes,
                    data.reshape(-1).view(np.uint8).data,
                    file_size=self.spec.chunk_rows * self.spec.row_bytes,
                    fence=self.fence,
                )
            self.touched.add(self.chunk_path(index))
            self.pending += len(piece)
            position += len(piece)

    def settle(self) -> None:
        self.committed, self.committed_body = self.pending, self.pending_body
        self.touched.clear()

    def reset(self) -> None:
        self.pending, self.pending_body = self.committed, self.committed_body
        self.touched.clear()

    def trim(self, *, renew: bool = False) -> None:
        """Remove what lies beyond the committed rows: chunks, and bytes in the last chunk, which `renew` makes a new file."""
        last, within = divmod(self.committed, self.spec.chunk_rows)
        keep = {self.chunk_path(index).name for index in range(last + (within > 0))} | {"zarr.json"}
        for entry in self.folder.iterdir():
            if entry.name not in keep and entry.name.startswith(("c.", "zarr.json")):
                if entry.name.endswith(files.PART_SUFFIX):
                    files.remove_file(entry)
                else:
                    files.take_away(entry, self.fence.beside(entry, files.PART_SUFFIX), self.fence)
        if not within:
            return
        path = self.chunk_path(last)
        found = path.read_bytes()
        if self.spec.kind == "string":
            whole = string_chunk(self.committed_body, within, self.spec.chunk_rows)
            if found != whole or renew:
                files.replace(path, whole, fence=self.fence)
        else:
            end = within * self.spec.row_bytes
            size = self.spec.chunk_rows * self.spec.row_bytes
            if renew:
                files.replace(path, found[:end] + bytes(max(0, len(found) - end)), fence=self.fence)
            elif any(found[end:]):
                files.write_at(path, end, bytes(size - end), file_size=size, fence=self.fence)


class ZarrAppender:
    """The one writer of a Zarr tree. Its caller holds the lock, and turns `OSError` into the project's
    errors.
    """

    def __init__(
        self, path: Path, streams: Sequence[StreamSpec], attributes: CacheAttributes, fence: files.Fence
    ) -> None:
        self.path, self.attributes, self.fence = path, attributes, fence
        self.streams = {stream.name: stream for stream in streams}
        self._tails: dict[str, _Tail] = {}
        self._mirrored: dict[str, bytes] = {}
        self.root_record = b""

    @classmethod
    def create(
        cls,
        path: Path,
        streams: Sequence[StreamSpec],
        attributes: CacheAttributes,
        fence: files.Fence = files.NO_FENCE,
    ) -> ZarrAppender:
        """Start a new tree in the folder `path`, which must not exist. Nothing is visible before `commit`."""
        appender = cls(path, streams, attributes, fence)
        for spec in all_specs(streams).values():
            appender._add_tail(spec, 0)
        for stream in streams:
            appender.append(f"streams/{stream.name}/offsets", np.zeros(1, np.int64))
        return appender

    @classmethod
    def open(cls, path: Path, fence: files.Fence = files.NO_FENCE, *, renew: bool = False) -> ZarrAppender:
        """Continue a tree, after undoing what a killed writer left uncommitted. renew: it may not be dead."""
        for leftover in path.glob("*" + files.PART_SUFFIX):  # one may be a record, about to get its name
            files.remove_file(leftover)
        reader = ZarrReader(path)
        require_equal_rows(reader)
        appender = cls(path, list(reader.streams.values()), reader.attributes, fence)
        appender.root_record = (path / "zarr.json").read_bytes()
        for name, spec in all_specs(list(reader.streams.values())).items():
            stored = reader.arrays[name]
            if not stored.plain or stored.separator != ".":
                raise CacheError(
                    f"{path}: {name} was rewritten with other codecs or file names, which can be read but not "
                    "appended to. Make a cache that can with: onepass convert"
                )
            spec = dataclasses.replace(spec, chunk_rows=stored.chunk_rows)
            tail = appender._add_tail(spec, stored.rows)
            within = stored.rows % spec.chunk_rows
            if spec.kind == "string" and within:
                strings = reader.read(name, stored.rows - within, stored.rows)
                tail.committed_body = tail.pending_body = encode_strings(strings.tolist())
        appender._recover(renew)
        if renew:
            appender.commit(appender.attributes)
        return appender

    def _add_tail(self, spec: ArraySpec, rows: int) -> _Tail:
        tail = self._tails[spec.path] = _Tail(self.path / spec.path, spec, rows, self.fence)
        files.make_directory(tail.folder)
        return tail

    def _recover(self, renew: bool) -> None:
        for leftover in self.path.glob("*/*" + files.PART_SUFFIX):
            files.remove(leftover)
        for folder in (self.path / "streams").iterdir():
            # a stream that was never committed has no zarr.json yet
            if folder.is_dir() and folder.name not in self.streams and not (folder / "zarr.json").exists():
                self._take_away(folder)
        for tail in self._tails.values():
            try:
                tail.trim(renew=renew)
            except FileNotFoundError as error:
                raise CacheCorrupt(f"{self.path}: the chunk {error.filename} is missing") from error
        self._write_mirrors(check=True)

    def _take_away(self, path: Path) -> None:
        files.take_away(path, self.fence.beside(path, files.PART_SUFFIX), self.fence)

    def n_rows(self, array: str) -> int:
        """Rows of an array, those not yet committed included."""
        return self._tails[array].pending

    def append(self, array: str, rows: Any) -> None:
        """Write rows after the present end of an array; `commit` makes them visible."""
        self._tails[array].append(rows)

    def add_stream(self, stream: StreamSpec) -> None:
        """Start a further stream; `commit` makes it visible, `discard` forgets it."""
        for spec in all_specs([stream]).values():
            if spec.path.startswith("streams/"):
                self._take_away(self.path / spec.path)
                self._add_tail(spec, 0)
        self.streams[stream.name] = stream

    def commit(self, attributes: CacheAttributes) -> None:
        """Make everything appended so far, and `attributes`, the cache's state in one atomic step.

        Raises `CacheLocked` where another writer has committed since, or has taken over.
        """
        touched = [path for tail in self._tails.values() for path in tail.touched]
        files.sync(touched)
        files.sync(
            {folder for path in touched for folder in path.parents if folder.is_relative_to(self.path)}
        )
        streams = list(self.streams.values())
        attributes = dataclasses.replace(
            attributes, commit_number=self.attributes.commit_number + 1, writer=self.fence.token
        )
        root = to_bytes(root_document(attributes, streams, tree_documents(streams, self._arrays())))
        fence = files.Fence(self.fence.token, self._require_own)
        files.replace(self.path / "zarr.json", root, fence=fence)
        self.root_record, self.attributes = root, attributes
        for tail in self._tails.values():
            tail.settle()
        files.sync([self.path])
        # the commit stands: lagging mirrors are only for tools that ignore the root record, and the next
        # commit or opening brings them up
        with contextlib.suppress(OSError):
            self._write_mirrors()

    def _require_own(self) -> None:
        self.fence.check()
        if self.root_record and not self.is_current():
            raise CacheLocked(
                f"{self.path} was changed by another writer since this one's last commit. What was committed is whole; once "
                "nothing else writes, the same command goes on."
            )

    def is_current(self) -> bool:
        """Whether the root record on the disk is the one known here; not if a commit was cut off after it."""
        return (self.path / "zarr.json").read_bytes() == self.root_record

    def discard(self) -> None:
        """Forget what was appended since the last commit and free its space as far as possible."""
        committed = ZarrReader(self.path).streams
        for name in [name for name in self.streams if name not in committed]:
            del self.streams[name]
            for path in [path for path in self._tails if path.startswith(f"streams/{name}/")]:
                del self._tails[path]
            with contextlib.suppress(OSError):
                self._take_away(self.path / "streams" / name)
        for tail in self._tails.values():
            touched = bool(tail.touched)
            tail.reset()
            if touched:
                with contextlib.suppress(OSError):
                    tail.trim()

    def replace_rows(self, array: str, rows: Mapping[int, Any]) -> None:
        """Overwrite committed rows of a column, chunk by chunk. Not atomic across chunks: see
        cache/stores/relabel.py.
        """
        tail = self._tails[array]
        reader = ZarrReader(self.path)
        size = tail.spec.chunk_rows
        for index in sorted({row // size for row in rows}):
            first, stop = index * size, min((index + 1) * size, tail.committed)
            values = reader.read(array, first, stop)
            for row in range(first, stop):
                if row in rows:
                    values[row - first] = rows[row]
            if tail.spec.kind == "string":
                body = encode_strings(values.tolist())
                files.replace(
                    tail.chunk_path(index), string_chunk(body, stop - first, size), fence=self.fence
                )
                if stop == tail.committed and stop % size:
                    tail.committed_body = tail.pending_body = body
            else:
                padding = bytes((size - (stop - first)) * tail.spec.row_bytes)
                files.replace(tail.chunk_path(index), values.tobytes() + padding, fence=self.fence)
        files.sync([tail.folder])

    def _arrays(self) -> dict[str, tuple[ArraySpec, int]]:
        return {name: (tail.spec, tail.pending) for name, tail in self._tails.items()}

    def _write_mirrors(self, *, check: bool = False) -> None:
        documents = tree_documents(list(self.streams.values()), self._arrays())
        for name, document in documents.items():
            path = self.path / name / "zarr.json"
            data = to_bytes(document)
            if self._mirrored.get(name) == data:
                continue
            if not (check and _same_json(path, document)):
                files.replace(path, data, durable=False, fence=self.fence)
            self._mirrored[name] = data


def _same_json(path: Path, document: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_bytes()) == document)
    except (OSError, ValueError):
        return False
