"""Reading caches: `open_cache` gives the live rows of one cache, or of several as if they were one.

    with open_cache("cache/v1.zarr") as cache:
        tokens = cache.load("clip")        # TokenArray: values [N, 512], spans [N, 2], offsets [n_videos + 1]
        labels = cache.videos.label        # int8 [n_videos]

A cache opened here shows the state of that moment; commits made later are not seen. Reading takes no lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheCorrupt, CacheError
from cache.fingerprint import is_random
from cache.objects.address import shown
from cache.objects.reading import local_copies
from cache.schema import StreamSpec, StreamTokens
from cache.stores.compatible import (
    class_names,
    read_offsets,
    require_compatible,
    require_distinct_ids,
    require_equal_rows,
)
from cache.stores.layout import StoreReader, empty_rows
from cache.stores.open import open_store
from cache.tables import RejectTable, StreamInfo, TokenArray, VideoTable

BLOCK_BYTES = 64 * 1024 * 1024
"""Streamed reads hold about this much at a time."""

_GAP_BYTES = 64 * 1024
_Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows [start, stop) of one store's values that lie in the cache in this order."""

    part: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Where the tokens of one stream lie. part, first, offsets: by live video; runs: all rows in order."""

    offsets: _Rows
    part: NDArray[np.int32]
    first: _Rows
    runs: tuple[_Run, ...]


class _Part:
    """One store, and which of its rows are live."""

    def __init__(self, store: StoreReader) -> None:
        self.store = store
        self.videos = _live_rows(store, "videos", store.attributes.superseded_videos)
        self.rejects = _live_rows(store, "rejects", store.attributes.superseded_rejects)

    def column(self, group: str, name: str, live: _Rows | None) -> NDArray[Any]:
        rows = self.store.read(f"{group}/{name}", 0, self.store.n_rows(f"{group}/id"))
        return rows if live is None else rows[live]

    def absent(self, stream: str) -> NDArray[Any]:
        rows = self.store.read(f"streams/{stream}/absent", 0, self.store.n_rows("videos/id"))
        return rows if self.videos is None else rows[self.videos]


def _live_rows(store: StoreReader, group: str, superseded: tuple[int, ...]) -> _Rows | None:
    if not superseded:
        return None
    live = np.ones(store.n_rows(f"{group}/id"), dtype=bool)
    rows = np.array(superseded, dtype=np.int64)
    if rows.min() < 0 or rows.max() >= len(live):
        raise CacheCorrupt(f"{store.path}: superseded_{group} names rows beyond the {len(live)} that exist")
    live[rows] = False
    return np.flatnonzero(live)


def _count(store: StoreReader, group: str, live: _Rows | None) -> int:
    return store.n_rows(f"{group}/id") if live is None else len(live)


class Cache:
    """Read-only view of the live videos, tokens and rejects of one or more caches, in store order.

    A context manager; made by `open_cache`. videos, rejects: one array a column (`videos.id`, `videos.label`, ...). streams: by
    name, width, dtype, fingerprint. label_names: (negative, positive), None where unknown. names: the caches as they were asked
    for. dataset, provenance: as their creator wrote them.
    """

    def __init__(
        self, stores: Sequence[StoreReader], paths: Sequence[Path], names: Sequence[str] = ()
    ) -> None:
        self.paths: tuple[Path, ...] = tuple(paths)
        self.names: tuple[str, ...] = tuple(names) or tuple(map(str, paths))
        self._stores = list(stores)
        self._parts = [_Part(store) for store in stores]
        self._plans: dict[str, _Plan] = {}
        attributes = [store.attributes for store in stores]
        self.dataset: str = " + ".join(dict.fromkeys(found.dataset for found in attributes))
        self.label_names: tuple[str, str] | None = next(filter(None, map(class_names, stores)), None)
        self.provenance: Mapping[str, Any] = (
            attributes[0].provenance
            if len(attributes) == 1
            else {name: found.provenance for name, found in zip(self.names, attributes, strict=True)}
        )
        self.n_videos: int = sum(_count(part.store, "videos", part.videos) for part in self._parts)
        self.videos = VideoTable(self.n_videos, lambda name: self._column("videos", name))
        self.rejects = RejectTable(
            sum(_count(part.store, "rejects", part.rejects) for part in self._parts),
            lambda name: self._column("rejects", name),
        )

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close open files. Columns and arrays already loaded stay usable."""
        for store in self._stores:
            store.close()

    def __len__(self) -> int:
        return self.n_videos

    def __repr__(self) -> str:
        streams = ", ".join(f"{info.name} [{info.n_tokens}, {info.dim}]" for info in self.streams.values())
        return f"Cache({self._where()}: {self.n_videos} videos, {len(self.rejects)} rejects; {streams})"

    @property
    def stores(self) -> tuple[StoreReader, ...]:
        """The stores behind `paths`, superseded rows included."""
        return tuple(self._stores)

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """The streams as a writer takes them."""
        return tuple(self._stores[0].streams.values())

    @cached_property
    def streams(self) -> Mapping[str, StreamInfo]:
        """The streams by name."""
        return {
            spec.name: StreamInfo(
                spec.name,
                spec.dim,
                spec.dtype,
                int(self._plan(spec.name).offsets[-1]),
                spec.fingerprint,
                spec.optional,
            )
            for spec in self.specs
        }

    @property
    def random_weights(self) -> bool:
        """Whether any stream was made with untrained, random weights."""
        return any(is_random(spec.fingerprint) for spec in self.specs)

    def offsets(self, stream: str) -> NDArray[np.int64]:
        """int64 [n_videos + 1]: video i owns tokens offsets[i] to offsets[i + 1] of `load(stream)`."""
        return self._plan(stream).offsets

    def absent(self, stream: str) -> NDArray[np.object_]:
        """str [n_videos]: why a video lacks an optional stream, "" where it has tokens. All "" for a required stream."""
        if not self._spec(stream).optional:
            return np.full(self.n_videos, "", dtype=object)
        return np.concatenate([part.absent(stream) for part in self._parts])

    def load(self, stream: str) -> TokenArray:
        """All tokens of a stream in memory, in the stored dtype. Raises `CacheCorrupt` if a part is
        unreadable.
        """
        plan, spec = self._plan(stream), self._spec(stream)
        values = empty_rows(int(plan.offsets[-1]), (spec.dim,), np.dtype(spec.dtype))
        spans = np.empty((len(values), 2), np.float32)
        position = 0
        for run in plan.runs:
            count = run.stop - run.start
            store = self._stores[run.part]
            store.read_into(f"streams/{stream}/values", run.start, values[position : position + count])
            store.read_into(f"streams/{stream}/spans", run.start, spans[position : position + count])
            position += count
        return TokenArray(values, spans, plan.offsets)

    def tokens(self, stream: str, index: int) -> StreamTokens:
        """The tokens of one video, [0, D] where the stream is absent from it. Raises as `read`."""
        return self.read(stream, [index])[0]

    def read(self, stream: str, indices: Sequence[int] | NDArray[np.integer[Any]]) -> list[StreamTokens]:
        """The tokens of some videos, in the order asked for; neighbours are read together. [0, D] where the stream is

        absent from a video.

        Raises `IndexError` for a video that does not exist, `CacheCorrupt` for tokens that are not finite.
        """
        plan, spec = self._plan(stream), self._spec(stream)
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(wanted) and (wanted.min() < -self.n_videos or wanted.max() >= self.n_videos):
            raise IndexError(f"a video index is outside the {self.n_videos} videos of {self._where()}")
        wanted = np.where(wanted < 0, wanted + self.n_videos, wanted)
        counts = np.diff(plan.offsets)[wanted]
        order = np.lexsort((plan.first[wanted], plan.part[wanted]))
        row_bytes = spec.dim * np.dtype(spec.dtype).itemsize
        found: list[StreamTokens | None] = [None] * len(wanted)
        position = 0
        while position < len(order):
            head = wanted[order[position]]
            part, start = int(plan.part[head]), int(plan.first[head])
            stop, end = start, position
            while end < len(order):
                video = wanted[order[end]]
                first = int(plan.first[video])
                last = first + int(counts[order[end]])
                gap_bytes, block_bytes = (first - stop) * row_bytes, (last - start) * row_bytes
                if end > position and (
                    plan.part[video] != part or gap_bytes > _GAP_BYTES or block_bytes > BLOCK_BYTES
                ):
                    break
                stop, end = max(stop, last), end + 1
            values, spans = self._rows(part, stream, start, stop)
            for slot in order[position:end]:
                first = int(plan.first[wanted[slot]]) - start
                rows = slice(first, first + int(counts[slot]))
                found[slot] = self._tokens(stream, int(wanted[slot]), values[rows], spans[rows])
            position = end
        return cast("list[StreamTokens]", found)

    def iter_rows(
        self, stream: str, *, block_bytes: int = BLOCK_BYTES
    ) -> Iterator[tuple[int, NDArray[Any], NDArray[np.float32]]]:
        """Stream all tokens in order: (number of the first token, values [n, D], spans [n, 2]) a block.

        Blocks of about `block_bytes` do not respect the bounds of videos.
        """
        spec = self._spec(stream)
        step = max(1, block_bytes // (spec.dim * np.dtype(spec.dtype).itemsize))
        done = 0
        for run in self._plan(stream).runs:
            for start in range(run.start, run.stop, step):
                stop = min(start + step, run.stop)
                values, spans = self._rows(run.part, stream, start, stop)
                yield done, values, spans
                done += stop - start

    def _rows(
        self, part: int, stream: str, start: int, stop: int
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        store = self._stores[part]
        return (
            store.read(f"streams/{stream}/values", start, stop),
            store.read(f"streams/{stream}/spans", start, stop),
        )

    def _tokens(
        self, stream: str, index: int, values: NDArray[Any], spans: NDArray[np.float32]
    ) -> StreamTokens:
        try:
            return StreamTokens(values, spans)
        except ValueError as error:
            raise CacheCorrupt(
                f"{self._where()}: stream {stream} of video {self.videos.id[index]!r}: {error}"
            ) from error

    def _spec(self, stream: str) -> StreamSpec:
        try:
            return self._stores[0].streams[stream]
        except KeyError:
            held = ", ".join(self._stores[0].streams)
            raise CacheError(f"{self._where()} has no stream {stream!r}; it holds {held}") from None

    def _where(self) -> str:
        return " + ".join(self.names)

    def _column(self, group: str, name: str) -> NDArray[Any]:
        pieces = [
            part.column(group, name, part.videos if group == "videos" else part.rejects)
            for part in self._parts
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _plan(self, stream: str) -> _Plan:
        if stream not in self._plans:
            self._spec(stream)
            self._plans[stream] = self._make_plan(stream)
        return self._plans[stream]

    def _make_plan(self, stream: str) -> _Plan:
        runs: list[_Run] = []
        firsts: list[_Rows] = []
        counts: list[_Rows] = []
        for number, part in enumerate(self._parts):
            stored = read_offsets(part.store, stream)
            first, count = stored[:-1], np.diff(stored)
            if part.videos is None:
                runs.append(_Run(number, 0, int(stored[-1])))
            else:
                first, count = first[part.videos], count[part.videos]
                breaks = np.flatnonzero(first[1:] != (first + count)[:-1]) + 1
                edges = [0, *breaks.tolist(), len(first)]
                for begin, end in pairwise(edges):
                    if begin < end:
                        runs.append(_Run(number, int(first[begin]), int(first[end - 1] + count[end - 1])))
            firsts.append(first)
            counts.append(count)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])
        offsets.setflags(write=False)
        parts = np.repeat(np.arange(len(firsts), dtype=np.int32), [len(first) for first in firsts])
        return _Plan(offsets, parts, np.concatenate(firsts), tuple(runs))


def open_cache(*paths: str | Path, ignore_libraries: bool = False) -> Cache:
    """Open one cache, or several as one after checking that they belong together.

    An address (`s3://`, `gs://`, `az://`) is read through a local copy that is kept: `paths` of the cache are where it lies,
    `names` what was asked for.

    Raises `CacheNotFound`, `CacheError` (no cache, different streams or label names, an id held twice),
    `FingerprintMismatch` (naming the fields; `ignore_libraries` accepts other library versions) or
    `CacheCorrupt`.
    """
    if not paths:
        raise CacheError("no cache given")
    found = local_copies([Path(path) for path in paths])
    stores: list[StoreReader] = []
    try:
        for path in found:
            stores.append(open_store(path))
            require_equal_rows(stores[-1])
            if len(stores) > 1:
                require_compatible(stores[0], stores[-1], ignore_libraries=ignore_libraries)
        cache = Cache(stores, found, [shown(path) for path in paths])
        if len(stores) > 1:
            require_distinct_ids(cache.videos.id.tolist(), found)
    except BaseException:
        for store in stores:
            store.close()
        raise
    return cache
