"""What reading a cache returns: columns of videos and rejects, and the tokens of many videos at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.schema import REJECT_COLUMNS, VIDEO_COLUMNS, Reject, StreamTokens, TokenDtype, VideoRow

LoadColumn = Callable[[str], NDArray[Any]]


class _Table:
    """Columns that are loaded when first asked for; `len()` is the number of rows."""

    _columns: Mapping[str, str]

    def __init__(self, n_rows: int, load_column: LoadColumn) -> None:
        self._n_rows = n_rows
        self._load_column = load_column

    def __len__(self) -> int:
        return self._n_rows

    def __getattr__(self, name: str) -> Any:
        if name not in type(self)._columns:
            raise AttributeError(f"{type(self).__name__} has no column {name!r}")
        column = self._load_column(name)
        column.setflags(write=False)
        self.__dict__[name] = column
        return column

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._n_rows} rows: {', '.join(self._columns)})"

    def column(self, name: str) -> NDArray[Any]:
        """A column by name, read afresh and not kept."""
        if name not in self._columns:
            raise AttributeError(f"{type(self).__name__} has no column {name!r}")
        return self._load_column(name)


class VideoTable(_Table):
    """The stored videos, one read-only array [n_videos] a column, loaded when first asked for.

    Strings are object arrays of `str`; the other dtypes are those of `schema.VIDEO_COLUMNS`.
    """

    _columns = VIDEO_COLUMNS
    id: NDArray[np.object_]
    digest: NDArray[np.object_]
    size_bytes: NDArray[np.int64]
    mtime_ns: NDArray[np.int64]
    label: NDArray[np.int8]
    label_name: NDArray[np.object_]
    split: NDArray[np.object_]
    source: NDArray[np.object_]
    duration_seconds: NDArray[np.float64]
    fps: NDArray[np.float64]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    n_frames: NDArray[np.int64]
    decoder: NDArray[np.object_]

    def row(self, index: int) -> VideoRow:
        """One video's row."""
        return VideoRow(
            **{field.name: _plain(getattr(self, field.name)[index]) for field in fields(VideoRow)}
        )


class RejectTable(_Table):
    """The rejected inputs, one read-only array a column, loaded when first asked for."""

    _columns = REJECT_COLUMNS
    id: NDArray[np.object_]
    reason: NDArray[np.object_]
    detail: NDArray[np.object_]
    digest: NDArray[np.object_]
    size_bytes: NDArray[np.int64]
    mtime_ns: NDArray[np.int64]

    def row(self, index: int) -> Reject:
        """One rejected input."""
        return Reject(**{field.name: _plain(getattr(self, field.name)[index]) for field in fields(Reject)})

    def counts(self) -> dict[str, int]:
        """How many inputs were rejected for each reason, most frequent first."""
        return dict(Counter(self.reason.tolist()).most_common())


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream of a cache: tokens are `dim` wide, stored as `dtype`; n_tokens counts those of live videos.

    optional: a video may lack it, see `Cache.absent`.
    """

    name: str
    dim: int
    dtype: TokenDtype
    n_tokens: int
    fingerprint: Mapping[str, Any]
    optional: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class TokenArray:
    """All tokens of one stream, video after video.

    values: stored dtype [N, D]. spans: float32 [N, 2] seconds. offsets: int64 [n_videos + 1]; video i owns
    rows offsets[i] to offsets[i + 1].
    """

    values: NDArray[Any]
    spans: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.spans.shape != (len(self.values), 2):
            raise ValueError(f"values {self.values.shape} and spans {self.spans.shape} do not match")
        if not len(self.offsets) or self.offsets[0] != 0 or self.offsets[-1] != len(self.values):
            raise ValueError(f"offsets must run from 0 to {len(self.values)}")

    @classmethod
    def join(cls, videos: Sequence[StreamTokens]) -> TokenArray:
        """The tokens of one or more videos, copied together in the order given."""
        lengths = [len(tokens.values) for tokens in videos]
        return cls(
            np.concatenate([tokens.values for tokens in videos]),
            np.concatenate([tokens.spans for tokens in videos]),
            np.cumsum([0, *lengths], dtype=np.int64),
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each video, int64 [n_videos]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> StreamTokens:
        """The tokens of one video, as views. Raises `ValueError` if they are not finite."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"video {index} of {len(self)}")
        first, stop = self.offsets[index % len(self)], self.offsets[index % len(self) + 1]
        return StreamTokens(self.values[first:stop], self.spans[first:stop])

    def __repr__(self) -> str:
        return f"TokenArray({len(self)} videos, values {self.values.dtype} {list(self.values.shape)})"
