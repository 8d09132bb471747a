"""Videos as scikit-learn sees them: X is a one-dimensional object array, one element a video.

An element is a `CachedVideo`, a mapping of stream name to tokens, or the tokens of a single stream; tokens
are `StreamTokens` or float [T, D]. Numbers work as well: [n, D] are n videos of one token, [n, T, D] n videos
of T tokens. Slicing X copies no features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cache.arguments import require_open_cache, shown
from cache.errors import InputError
from cache.labels.groups import joined_by_copies, source_groups
from cache.schema import UNKNOWN_LABEL, StreamTokens
from cache.tables import TokenArray

if TYPE_CHECKING:
    from cache.reader import Cache

PLAIN_STREAM = "tokens"
"""Name of the single stream of tokens that have none."""


@dataclass(frozen=True, slots=True, eq=False)
class CachedVideo:
    """One video of a cache: its tokens by stream, and the source group that keeps it out of two folds."""

    id: str
    tokens: Mapping[str, StreamTokens]
    group: str

    def __repr__(self) -> str:
        lengths = ", ".join(f"{name} {len(tokens.values)}" for name, tokens in self.tokens.items())
        return f"CachedVideo({self.id}: {lengths} tokens)"


class SklearnData(NamedTuple):
    """X: object array [V] of `CachedVideo`. y: int8 [V], 1 is positive. groups: object array [V] of str."""

    X: npt.NDArray[Any]
    y: npt.NDArray[np.int8]
    groups: npt.NDArray[Any]


def cached_videos(cache: Cache, *, splits: Sequence[str] | None = None) -> SklearnData:
    """(X, y, groups) of the labelled videos of a cache (of `splits` only, where given), in memory, in store order.

    Raises InputError when there are none, and where one lacks an optional stream.
    """
    require_open_cache(cache, "cached_videos")
    table = cache.videos
    wanted = np.asarray(table.label) != UNKNOWN_LABEL
    if splits is not None:
        splits = [splits] if isinstance(splits, str) else splits
        wanted &= np.isin(np.asarray(table.split, dtype=str), list(splits))
    rows = np.flatnonzero(wanted)
    if len(rows) == 0:
        where = f" in split {', '.join(splits)}" if splits is not None else ""
        raise InputError(f"{cache.names[0]} holds no labelled video{where}")
    ids = [str(table.id[row]) for row in rows]
    sources = source_groups(table.id.tolist(), table.source.tolist())
    joined = joined_by_copies(sources, table.digest.tolist())
    groups = [joined[row] for row in rows]
    for name in cache.streams:
        if count := int((cache.absent(name)[rows] != "").sum()):
            raise InputError(
                f"{count} of {len(rows)} labelled videos in {cache.names[0]} lack stream {name}; an estimator reads whole "
                "videos: use train_head, or a cache without that stream"
            )
    tokens = {name: cache.read(name, rows) for name in cache.streams}
    X = np.empty(len(rows), dtype=object)
    for i, video_id in enumerate(ids):
        own = {name: of_stream[i] for name, of_stream in tokens.items()}
        X[i] = CachedVideo(video_id, own, groups[i])
    return SklearnData(X, np.asarray(table.label)[rows].astype(np.int8), np.array(groups, dtype=object))


def is_videos(X: Any) -> bool:
    """True for object arrays and lists of videos, False for what is a table of numbers."""
    if isinstance(X, np.ndarray):
        return X.dtype == object and X.ndim == 1 and len(X) > 0 and _is_video(X[0])
    return isinstance(X, (list, tuple)) and len(X) > 0 and _is_video(X[0])


def _is_video(element: Any) -> bool:
    array = isinstance(element, np.ndarray) and element.ndim == 2
    return array or isinstance(element, (CachedVideo, StreamTokens, Mapping))


def to_ragged(videos: Sequence[Any]) -> dict[str, TokenArray]:
    """The tokens of all videos by stream, in the order of the names; values are copied together.

    Raises ValueError when videos differ in their streams or widths, or a video has no token or no finite one.
    """
    found = [_streams(video) for video in videos]
    names = sorted(found[0])
    for i, streams in enumerate(found):
        if sorted(streams) != names:
            raise ValueError(
                f"video {i} has streams {', '.join(sorted(streams))}; the first has {', '.join(names)}"
            )
    ragged = {}
    for name in names:
        tokens = [streams[name] for streams in found]
        widths = {t.values.shape[1] for t in tokens}
        if len(widths) != 1:
            raise ValueError(f"stream {name}: videos differ in width: {sorted(widths)}")
        ragged[name] = TokenArray.join(tokens)
    return ragged


def table_to_ragged(X: npt.NDArray[np.float32]) -> dict[str, TokenArray]:
    """float32 [n, D] as videos of one token, [n, T, D] as videos of T tokens, one second each."""
    tokens = X[:, None, :] if X.ndim == 2 else X
    n, length, dim = tokens.shape
    starts = np.tile(np.arange(length, dtype=np.float32), n)
    return {
        PLAIN_STREAM: TokenArray(
            np.ascontiguousarray(tokens.reshape(n * length, dim)),
            np.stack([starts, starts + 1], axis=1),
            np.arange(n + 1, dtype=np.int64) * length,
        )
    }


def groups_of(videos: Sequence[Any]) -> list[str] | None:
    """Source groups where the videos carry them, else None."""
    if all(isinstance(video, CachedVideo) for video in videos):
        return [video.group for video in videos]
    return None


def _streams(video: Any) -> dict[str, StreamTokens]:
    if isinstance(video, CachedVideo):
        return dict(video.tokens)
    if isinstance(video, Mapping):
        plain = [name for name, tokens in video.items() if not isinstance(tokens, StreamTokens)]
        if plain and len(video) > 1:
            raise ValueError("videos of several streams need StreamTokens: their spans align the streams")
        return {str(name): plain_tokens(tokens) for name, tokens in video.items()}
    return {PLAIN_STREAM: plain_tokens(video)}


def plain_tokens(tokens: Any) -> StreamTokens:
    """Numbers [T, D] as tokens of one second each; StreamTokens as they are. Raises ValueError for anything else."""
    if isinstance(tokens, StreamTokens):
        return tokens
    try:
        values = np.asarray(tokens, dtype=np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"tokens must be numbers [T, D], not {shown(tokens)}") from None
    if values.ndim != 2 or len(values) == 0:
        raise ValueError(f"tokens must be [T, D] with T > 0, got {values.shape}")
    starts = np.arange(len(values), dtype=np.float32)
    return StreamTokens(values, np.stack([starts, starts + 1], axis=1))
