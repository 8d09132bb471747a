"""From a cache to what training needs: rows sorted by id, and tokens in memory (or streamed when they do not
fit).

Rows are sorted by video id, so the order in which a cache was filled never changes a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache.arguments import require_open_cache
from cache.errors import CacheCorrupt, HeadError, InputError
from cache.fingerprint import is_random, weights_name
from cache.schema import UNKNOWN_LABEL
from cache.tables import TokenArray
from heads.data.fold_file import GivenFolds, read_folds
from heads.data.grid import join_streams, reference_stream
from heads.data.rows import copy_notes, read_rows
from heads.data.tokens import Channel, MemoryTokens, TokenBatch, TokenSource, absent_videos, as_tensor

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache

MOST_VALUE = 1e15
"""Of a token that a head reads: the squares of 100,000 such sum up below the largest float32."""

MEMORY_SHARE = 0.5
"""Tokens may take this share of free memory; above it they are read from disk batch by batch."""


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which streams, on which grid, and how much is held out where the cache has no splits.

    streams: names, or None for all that the cache holds; kept sorted. grid: the stream whose tokens the
    joined models use, or "auto" (slowfast where present, else the stream of fewest tokens). val_share: of the
    videos, held out as val where there is none, (0, 0.5]. ignore_splits: as if the cache stored no splits. Raises
    InputError for values out of range.
    """

    streams: tuple[str, ...] | None = None
    grid: str = "auto"
    val_share: float = 0.2
    ignore_splits: bool = False

    def __post_init__(self) -> None:
        if self.streams is not None:
            if not self.streams or any(not name for name in self.streams):
                raise InputError("streams must name at least one stream, or be left out for all of them")
            object.__setattr__(self, "streams", tuple(sorted(set(self.streams))))
        if not 0.0 < self.val_share <= 0.5:
            raise InputError(f"val_share must be above 0 and at most 0.5, got {self.val_share}")


@dataclass(frozen=True, slots=True)
class StreamInput:
    """One stream that a head reads. fingerprint: how its features were made (see cache/fingerprint.py). optional: a video may

    lack it.
    """

    name: str
    dim: int
    fingerprint: Mapping[str, Any]
    optional: bool = False

    @property
    def weights(self) -> str:
        """What every table prints, such as "openai" or "random (seed 0)"."""
        return weights_name(self.fingerprint)


def weights_line(streams: Sequence[StreamInput]) -> str:
    """One line for every table: "clip: openai, slowfast: random (seed 0)"."""
    return ", ".join(f"{stream.name}: {stream.weights}" for stream in streams)


def any_random(streams: Sequence[StreamInput]) -> bool:
    """True when any stream's weights are random: `random_note` says what that means for scores."""
    return any(is_random(stream.fingerprint) for stream in streams)


def random_note(streams: Sequence[StreamInput]) -> str:
    """Which streams have random weights and which have not, and what scores say then; empty where none has."""
    random = [stream.name for stream in streams if is_random(stream.fingerprint)]
    others = [f"{s.name} ({s.weights})" for s in streams if s.name not in random]
    if not random:
        return ""
    if not others:
        meaning = "these scores test the pipeline, they say nothing about violence"
        return f"RANDOM backbone weights ({weights_line(streams)}): {meaning}"
    return (
        f"RANDOM backbone weights of {', '.join(random)}: what they add to these scores says nothing about violence; "
        f"not random: {', '.join(others)}"
    )


@dataclass(frozen=True, slots=True, eq=False)
class HeadDataset:
    """V videos sorted by id, with their tokens.

    labels: int8 [V], 1 positive, 0 negative, -1 unknown. splits, sources, groups: [V] strings, split "" when none; sources and
    groups as in `heads.data.rows.VideoRows`.
    durations: float64 [V], seconds. metadata: float64 [V, 4], columns `heads.data.rows.METADATA_COLUMNS`.
    tokens: one channel a stream, or one channel of streams joined on the tokens of stream `grid`.
    label_names: (negative, positive). cache_digest: which files, whatever their order. digests: of each file, ""
    where it is unknown. folds: those that a user gave. given_floors: scores of something else, float64 [V] in [0, 1], NaN
    where there is none, by the name of the floor that they are. absent: how many videos lack an
    optional stream, by its name. n_without: videos that have none of the streams; they count as without a label.
    """

    ids: tuple[str, ...]
    digests: tuple[str, ...]
    labels: npt.NDArray[np.int8]
    splits: tuple[str, ...]
    sources: tuple[str, ...]
    groups: tuple[str, ...]
    durations: npt.NDArray[np.float64]
    metadata: npt.NDArray[np.float64]
    streams: tuple[StreamInput, ...]
    tokens: TokenSource
    grid: str
    label_names: tuple[str, str]
    cache_name: str
    cache_digest: str
    folds: GivenFolds | None = None
    given_floors: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    absent: Mapping[str, int] = field(default_factory=dict)
    n_without: int = 0

    def __post_init__(self) -> None:
        counts = {len(self.ids), len(self.digests), self.tokens.n_videos, len(self.splits), len(self.groups)}
        counts |= {len(self.labels), len(self.durations), len(self.metadata)}
        if len(counts) != 1:
            raise ValueError(f"columns of a dataset differ in length: {sorted(counts)}")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"HeadDataset({len(self)} videos, {weights_line(self.streams)})"

    @property
    def stream_dims(self) -> tuple[int, ...]:
        """Width of each stream, in the order of `streams`."""
        return tuple(stream.dim for stream in self.streams)

    @property
    def given_folds(self) -> npt.NDArray[np.int64] | None:
        """The fold of each video where a user gave folds: int64 [V] from 1, 0 for none."""
        return None if self.folds is None else self.folds.numbers

    @property
    def copy_notes(self) -> tuple[str, ...]:
        """For the user: copies of one file in several source groups, which count as one group, and copies with both labels."""
        return copy_notes(self.ids, self.digests, self.labels, self.sources)

    @property
    def outside_test(self) -> npt.NDArray[np.int64]:
        """Rows outside the stored split test, which folds leave alone: int64 [M]."""
        return np.flatnonzero(np.array(self.splits) != "test")

    def negative_hours(self, rows: npt.NDArray[np.int64]) -> float | None:
        """Hours of negative video among `rows` (int64 [M]); None when durations are unknown."""
        hours = float(self.durations[rows][self.labels[rows] == 0].sum()) / 3600
        return hours if hours > 0 else None


def load_dataset(
    cache: Cache,
    *,
    separate_streams: bool,
    config: DataConfig | None = None,
    labels: LabelJoin | None = None,
    folds: Path | None = None,
    memory_bytes: int | None = None,
) -> HeadDataset:
    """Read rows and tokens. `labels` replaces the stored labels; a video it does not match has none.

    folds: a file of folds for cross-validation (`heads.data.fold_file`).
    memory_bytes: most memory for tokens; None is half of what is free.
    Raises InputError for a stream that the cache does not hold, LabelError for a cache without videos.
    """
    require_open_cache(cache, "load_dataset")
    config = config or DataConfig()
    names = choose_streams(tuple(cache.streams), config.streams, where=cache.names[0])
    grid = _reference(cache, names, config.grid, separate_streams=separate_streams)
    rows = read_rows(cache, labels)
    without = without_any(cache, names)[rows.order]
    counts = {name: int((cache.absent(name) != "").sum()) for name in names}
    absent = {name: count for name, count in counts.items() if count}
    return HeadDataset(
        ids=rows.ids,
        digests=rows.digests,
        labels=np.where(without, np.int8(UNKNOWN_LABEL), rows.labels),
        splits=("",) * len(rows) if config.ignore_splits else rows.splits,
        sources=rows.sources,
        groups=rows.groups,
        durations=rows.durations,
        metadata=rows.metadata,
        streams=tuple(
            StreamInput(n, cache.streams[n].dim, cache.streams[n].fingerprint, cache.streams[n].optional)
            for n in names
        ),
        tokens=load_tokens(
            cache,
            names,
            rows.order,
            separate_streams=separate_streams,
            grid=grid,
            memory_bytes=memory_bytes,
        ),
        grid=grid,
        label_names=rows.label_names,
        cache_name=cache.dataset,
        cache_digest=rows.digest,
        folds=None if folds is None else read_folds(folds, rows.ids),
        absent=absent,
        n_without=int(without.sum()),
    )


def too_rare_streams(dataset: HeadDataset, parts: Sequence[npt.NDArray[np.int64]]) -> dict[str, str]:
    """Of a dataset with separate streams: those that cannot be trained on alone in some part (rows, int64 [M]), with why."""
    found = {}
    for place, stream in enumerate(dataset.streams):
        if not dataset.absent.get(stream.name):
            continue
        here = ~absent_videos(dataset.tokens, place)
        for rows in parts:
            if len(np.unique(dataset.labels[rows[here[rows]]])) < 2:
                there = int(here[rows].sum())
                found[stream.name] = (
                    f"stream {stream.name} is there in {there} of {len(rows)} videos to train on, which are not of both classes"
                )
                break
    return found


def without_any(cache: Cache, streams: Sequence[str]) -> npt.NDArray[np.bool_]:
    """bool [V], in store order: videos that have none of these streams."""
    found: npt.NDArray[np.bool_] = np.all([cache.absent(name) != "" for name in streams], axis=0)
    return found


def choose_streams(held: Sequence[str], wanted: Sequence[str] | None, *, where: str) -> tuple[str, ...]:
    """The wanted streams, sorted; all that are held when None. Raises InputError naming what is missing."""
    wanted = (wanted,) if isinstance(wanted, str) else wanted
    missing = sorted(set(wanted or ()) - set(held))
    if missing:
        raise InputError(f"{where} holds no stream {', '.join(missing)}; it holds {', '.join(sorted(held))}")
    return tuple(sorted(held if wanted is None else wanted))


def load_tokens(
    cache: Cache,
    streams: Sequence[str],
    videos: npt.NDArray[np.int64],
    *,
    separate_streams: bool,
    grid: str = "auto",
    memory_bytes: int | None = None,
) -> TokenSource:
    """Tokens of `videos` (store indices, int64 [V], any order): in memory where they fit, else streamed.

    A video that lacks an optional stream has one token of NaN in it (`with_absent`). Raises InputError when `grid` is not one of
    `streams`, or is one that videos lack; CacheCorrupt for a video without tokens in a required stream.
    """
    reference = _reference(cache, streams, grid, separate_streams=separate_streams)
    counts = {name: cache.streams[name].n_tokens for name in streams}
    if memory_bytes is None:
        import psutil

        memory_bytes = int(psutil.virtual_memory().available * MEMORY_SHARE)
    needed = sum(
        counts[n] * cache.streams[n].dim * np.dtype(cache.streams[n].dtype).itemsize for n in streams
    )
    if not separate_streams and len(streams) > 1:
        needed += counts[reference] * sum(cache.streams[n].dim for n in streams) * 4
    if needed > memory_bytes:
        return StreamedTokens(cache, tuple(streams), videos, separate_streams, reference)
    ragged = {}
    for name in streams:
        array = cache.load(name)
        if (array.lengths == 0).any() and not cache.streams[name].optional:
            raise CacheCorrupt(
                f"{cache.names[0]}: stream {name} has videos without a token; run onepass verify"
            )
        ragged[name] = array
    return in_memory(ragged, separate_streams=separate_streams, grid=reference).take(torch.from_numpy(videos))


def _reference(cache: Cache, streams: Sequence[str], grid: str, *, separate_streams: bool) -> str:
    counts = {name: cache.streams[name].n_tokens for name in streams}
    lacking = {n: int((cache.absent(n) != "").sum()) for n in streams if cache.streams[n].optional}
    whole = {name: count for name, count in counts.items() if not lacking.get(name)}
    try:
        found = reference_stream(whole if grid == "auto" and whole else counts, grid=grid)
    except ValueError as error:
        raise InputError(str(error)) from error
    if lacking.get(found) and len(streams) > 1 and not separate_streams:
        raise InputError(
            f"streams cannot be joined on the grid of {found}, which {lacking[found]} videos lack: "
            + (f"give --grid {min(whole)}" if whole else "every stream is absent somewhere; use --join late")
        )
    return found


def in_memory(
    streams: Mapping[str, TokenArray], *, separate_streams: bool, grid: str = "auto"
) -> MemoryTokens:
    """Channels from ragged streams: one a stream, or one of all streams joined on a grid.

    Raises HeadError for a head of no streams, ValueError as `heads.data.grid.join_streams` does.
    """
    if not streams:
        raise HeadError("a head needs at least one stream")
    for name, tokens in streams.items():
        _require_moderate(name, tokens.values)
    streams = {name: with_absent(tokens) for name, tokens in streams.items()}
    parts = list(streams.values()) if separate_streams else [join_streams(streams, grid=grid)]
    return MemoryTokens(
        tuple(
            Channel(
                values=as_tensor(part.values),
                times=as_tensor(part.spans.mean(axis=1, dtype=np.float32)),
                starts=as_tensor(part.offsets[:-1]),
                lengths=as_tensor(part.lengths),
            )
            for part in parts
        )
    )


def _require_moderate(name: str, values: npt.NDArray[np.generic]) -> None:
    """Raise HeadError for float32 tokens whose squares have no float32: their statistics would be no numbers."""
    if values.dtype == np.float16 or not values.size:
        return
    highest = max(float(np.fmax.reduce(values, axis=None)), -float(np.fmin.reduce(values, axis=None)))
    if highest > MOST_VALUE:
        raise HeadError(
            f"stream {name} holds values of up to {highest:.1e}; statistics over tokens are float32, so that heads read up to "
            f"{MOST_VALUE:.0e}: scale what makes them, and import them again"
        )


def with_absent(tokens: TokenArray) -> TokenArray:
    """A video without a token gets one of NaN at 0 s, which a head reads as "this stream is not there" and never as numbers."""
    empty = tokens.lengths == 0
    if not empty.any():
        return tokens
    places = tokens.offsets[:-1][empty]
    return TokenArray(
        np.insert(tokens.values, places, np.nan, axis=0),
        np.insert(tokens.spans, places, 0.0, axis=0),
        np.concatenate([[0], np.cumsum(np.maximum(tokens.lengths, 1))]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class StreamedTokens:
    """Tokens read from the cache for each batch: for caches larger than memory."""

    cache: Cache
    streams: tuple[str, ...]
    videos: npt.NDArray[np.int64]
    separate_streams: bool
    reference: str

    @property
    def n_videos(self) -> int:
        return len(self.videos)

    @property
    def dims(self) -> tuple[int, ...]:
        dims = tuple(self.cache.streams[name].dim for name in self.streams)
        return dims if self.separate_streams else (sum(dims),)

    @property
    def lengths(self) -> Tensor:
        names = self.streams if self.separate_streams else (self.reference,)
        counts = sum(np.maximum(np.diff(self.cache.offsets(name))[self.videos], 1) for name in names)
        return torch.from_numpy(np.asarray(counts, dtype=np.int64))

    def batch(self, videos: Tensor) -> tuple[TokenBatch, ...]:
        rows = self.videos[videos.numpy()]
        by_row, back = np.unique(rows, return_inverse=True)  # reading in store order coalesces
        ragged = {}
        for name in self.streams:
            ragged[name] = TokenArray.join(self.cache.read(name, by_row))
        loaded = in_memory(ragged, separate_streams=self.separate_streams, grid=self.reference)
        return loaded.batch(torch.from_numpy(back.reshape(-1)))
