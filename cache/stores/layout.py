"""Which arrays a cache consists of, and the attributes at its root: the part that both formats share."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheCorrupt, CacheError
from cache.schema import FORMAT_NAME, FORMAT_VERSIONS, REJECT_COLUMNS, VIDEO_COLUMNS, StreamSpec

ArrayKind = Literal["string", "int8", "int32", "int64", "float16", "float32", "float64"]

PAGE_BYTES = 4096
VALUES_CHUNK_BYTES = 2 * 1024 * 1024
TEXT_CHUNK_ROWS = 4096
NUMBER_CHUNK_ROWS = 32768
TRANSCRIPTS_SUFFIX = ".transcripts.jsonl"
"""Of the file beside a cache that says which transcripts its words were read from."""


def empty_rows(n_rows: int, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An uninitialised array to read rows into, C-contiguous, that begins 1 KiB into a page of memory.

    Chunks begin at a page of the file. Copying between addresses that are equal within their pages makes the
    processor take each load for one of the stores just before it: 39 ms in place of 27 for 184 MB on an EPYC.
    """
    size = n_rows * math.prod(row_shape) * dtype.itemsize
    buffer = np.empty(size + PAGE_BYTES, np.uint8)
    start = (PAGE_BYTES // 4 - buffer.ctypes.data) % PAGE_BYTES
    return buffer[start : start + size].view(dtype).reshape(n_rows, *row_shape)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array: its path in the tree, element kind, shape of a row (`()` for a column), rows in a chunk."""

    path: str
    kind: ArrayKind
    row_shape: tuple[int, ...]
    chunk_rows: int
    dimensions: tuple[str, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian numpy dtype; `object` for strings."""
        return np.dtype(object) if self.kind == "string" else np.dtype(self.kind).newbyteorder("<")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a numeric array."""
        return int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize


@functools.cache
def column_specs() -> tuple[ArraySpec, ...]:
    """The arrays `videos/<column>` and `rejects/<column>`."""
    specs = []
    for group, dimension, columns in (
        ("videos", "video", VIDEO_COLUMNS),
        ("rejects", "reject", REJECT_COLUMNS),
    ):
        for name, kind in columns.items():
            rows = TEXT_CHUNK_ROWS if kind == "string" else NUMBER_CHUNK_ROWS
            specs.append(ArraySpec(f"{group}/{name}", kind, (), rows, (dimension,)))
    return tuple(specs)


def stream_specs(stream: StreamSpec) -> list[ArraySpec]:
    """The arrays `streams/<name>/values`, `spans` and `offsets`, and `absent` of an optional stream."""
    base = f"streams/{stream.name}"
    row_bytes = stream.dim * np.dtype(stream.dtype).itemsize
    rows = max(1, VALUES_CHUNK_BYTES // row_bytes)
    page_rows = PAGE_BYTES // math.gcd(PAGE_BYTES, row_bytes)
    if rows > page_rows:
        rows -= rows % page_rows  # chunks of whole pages, see `empty_rows`
    specs = [
        ArraySpec(f"{base}/values", stream.dtype, (stream.dim,), rows, ("token", "feature")),
        ArraySpec(f"{base}/spans", "float32", (2,), NUMBER_CHUNK_ROWS, ("token", "bound")),
        ArraySpec(f"{base}/offsets", "int64", (), NUMBER_CHUNK_ROWS, ("video_bound",)),
    ]
    if stream.optional:
        specs.append(ArraySpec(f"{base}/absent", "string", (), TEXT_CHUNK_ROWS, ("video",)))
    return specs


def all_specs(streams: Sequence[StreamSpec]) -> dict[str, ArraySpec]:
    """Every array of a cache with these streams, by path."""
    specs = list(column_specs())
    for stream in streams:
        specs += stream_specs(stream)
    return {spec.path: spec for spec in specs}


def group_paths(streams: Sequence[StreamSpec]) -> list[str]:
    """Every group below the root, parents first."""
    return ["videos", "streams", "rejects", *(f"streams/{stream.name}" for stream in streams)]


def require_format(found: Mapping[str, Any], *, where: Path) -> None:
    """Raise `CacheError` unless the root attributes `found` are those of a cache of a known version."""
    if found.get("format") != FORMAT_NAME:
        raise CacheError(f"{where} is not a onepass cache (no format {FORMAT_NAME!r} in its attributes)")
    version = found.get("format_version")
    if version not in FORMAT_VERSIONS:
        raise CacheError(
            f"{where} has format version {version}; this onepass reads {' and '.join(map(str, FORMAT_VERSIONS))}. "
            "Use the onepass that wrote it, or extract again."
        )


@dataclass(frozen=True, slots=True)
class CacheAttributes:
    """Attributes of the root group.

    label_names: (negative, positive). superseded_videos, superseded_rejects: rows that are no longer current.
    store_id: which writing this file is (random). base_id: for a staging folder, the `store_id` of the .h5 it
    was made from, "" if there was none. commit_number, writer: of a Zarr tree, how many commits made it and the token of
    the writer that made the last one; 0 and "" where it is older than these.
    """

    dataset: str
    label_names: tuple[str, str] | None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    superseded_videos: tuple[int, ...] = ()
    superseded_rejects: tuple[int, ...] = ()
    store_id: str = ""
    base_id: str = ""
    commit_number: int = 0
    writer: str = ""

    def to_json(self, streams: Iterable[StreamSpec]) -> dict[str, Any]:
        """The attributes as JSON values, with the version that these streams need."""
        return {
            "format": FORMAT_NAME,
            "format_version": 2 if any(stream.optional for stream in streams) else 1,
            "dataset": self.dataset,
            "label_names": list(self.label_names) if self.label_names else None,
            "provenance": dict(self.provenance),
            "superseded_videos": list(self.superseded_videos),
            "superseded_rejects": list(self.superseded_rejects),
            "store_id": self.store_id,
            "base_id": self.base_id,
        } | ({"commit_number": self.commit_number, "writer": self.writer} if self.commit_number else {})

    @classmethod
    def from_json(cls, found: Mapping[str, Any], *, where: Path) -> CacheAttributes:
        """Read attributes. Raises `CacheError` if this is no cache of a known version, `CacheCorrupt` if
        torn.
        """
        require_format(found, where=where)
        try:
            names = found["label_names"]
            return cls(
                dataset=str(found["dataset"]),
                label_names=(str(names[0]), str(names[1])) if names else None,
                provenance=dict(found["provenance"]),
                superseded_videos=tuple(int(row) for row in found["superseded_videos"]),
                superseded_rejects=tuple(int(row) for row in found["superseded_rejects"]),
                store_id=str(found["store_id"]),
                base_id=str(found["base_id"]),
                commit_number=int(found.get("commit_number", 0)),
                writer=str(found.get("writer", "")),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CacheCorrupt(f"{where}: root attributes are incomplete or malformed: {error!r}") from error


class StoreReader(Protocol):
    """Read access to one committed state of one store, whichever its format."""

    @property
    def path(self) -> Path: ...

    @property
    def attributes(self) -> CacheAttributes: ...

    @property
    def streams(self) -> Mapping[str, StreamSpec]:
        """The streams by name, in alphabetical order."""

    def n_rows(self, array: str) -> int:
        """Rows of the array at this path."""

    def read(self, array: str, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) as a fresh array; strings as an object array of `str`."""

    def read_into(self, array: str, start: int, out: NDArray[Any]) -> None:
        """Fill the C-contiguous `out` with rows from `start` on. Numeric arrays only."""

    def close(self) -> None:
        """Let go of open files."""


def stream_attributes(stream: StreamSpec) -> dict[str, Any]:
    """Attributes of a stream's group."""
    return {"fingerprint": stream.fingerprint} | ({"optional": True} if stream.optional else {})


def stream_from_attributes(
    name: str, dim: int, dtype: str, found: Mapping[str, Any], *, where: Path
) -> StreamSpec:
    """Build the spec of a stored stream. Raises `CacheCorrupt` if it lacks a fingerprint or is malformed."""
    fingerprint = found.get("fingerprint")
    if not isinstance(fingerprint, Mapping):
        raise CacheCorrupt(f"{where}: stream {name} has no fingerprint")
    try:
        return StreamSpec(name, dim, dtype, fingerprint, bool(found.get("optional")))  # type: ignore[arg-type]
    except ValueError as error:
        raise CacheCorrupt(f"{where}: {error}") from error
