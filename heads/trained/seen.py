"""Which videos made a head: what it was fitted on, what chose, what it was scored on once; and who is among them.

A video is known by the digest of its file (by its id where no digest is on record), by its source group, and by the source
groups of copies of its file, each kept as the first 8 bytes of its BLAKE2b hash. 2,000 videos take about 40 KB of head.json:

    trained_on.videos.<part>.files, .sources    base64 of sorted little-endian uint64, part: train, val, test, threshold
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from cache.errors import HeadError, InputError

if TYPE_CHECKING:
    from heads.trained.head import HeadInfo

UInt = npt.NDArray[np.uint64]
Int = npt.NDArray[np.int64]
CHOSEN = "threshold"
"""The part of videos of another cache that chose a threshold later (`onepass threshold --part all --write`)."""

FILE_ORDER, SOURCE_ORDER = ("train", "val", "test", CHOSEN), ("train", "test", "val", CHOSEN)
"""Which part is named for what is in two: val videos may choose a threshold, but for copies of what is in train; other clips of
a train recording may not."""

NOT_RECORDED = (
    "this head was written before heads recorded their videos: whether it has seen these cannot be told; train it "
    "again to know"
)


class Identified(Protocol):
    """V videos by row, groups being sources joined by copies: `heads.data.dataset.HeadDataset`, `heads.data.rows.VideoRows`."""

    @property
    def ids(self) -> tuple[str, ...]: ...
    @property
    def digests(self) -> tuple[str, ...]: ...
    @property
    def sources(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, eq=False)
class SeenVideos:
    """Hashes of a head's videos and of their source groups, by part: sorted uint64, without repeats."""

    files: Mapping[str, UInt]
    sources: Mapping[str, UInt]

    @classmethod
    def of(cls, videos: Identified, parts: Mapping[str, Int]) -> SeenVideos:
        """The videos at the rows (int64 [M]) of each part."""
        files, sources = {}, {}
        joined: dict[str, set[str]] = {}
        for source, group in zip(videos.sources, videos.groups, strict=True):
            joined.setdefault(group, set()).add(source)
        for part, rows in parts.items():
            files[part] = _hashes(_file(videos, row) for row in rows.tolist())
            own = {videos.groups[row] for row in rows.tolist()}
            sources[part] = _hashes(source for group in own for source in joined[group])
        return cls(files, sources)

    @classmethod
    def of_head(cls, info: HeadInfo) -> SeenVideos | None:
        """None for a head that was written before this was recorded. Raises HeadError for a damaged record."""
        values = info.trained_on.get("videos")
        if values is None:
            return None
        try:
            if (
                not values["train"]["files"]
                or not values["train"]["sources"]
                or set(values) - set(FILE_ORDER)
            ):
                raise ValueError(f"parts {', '.join(values)}")
            return cls(
                {part: _decoded(of["files"]) for part, of in values.items()},
                {part: _decoded(of["sources"]) for part, of in values.items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
            raise HeadError(f"head.json: trained_on.videos is not readable: {error!r}") from error

    def as_dict(self) -> dict[str, dict[str, str]]:
        """Plain JSON values."""
        return {
            part: {"files": _encoded(self.files[part]), "sources": _encoded(self.sources[part])}
            for part in self.files
        }

    def with_part(self, part: str, other: SeenVideos) -> SeenVideos:
        """The same and, under `part`, all that `other` holds."""
        files = np.concatenate([self.files.get(part, _hashes(())), *other.files.values()])
        sources = np.concatenate([self.sources.get(part, _hashes(())), *other.sources.values()])
        return SeenVideos({**self.files, part: np.unique(files)}, {**self.sources, part: np.unique(sources)})

    def overlap(self, videos: Identified, rows: Int) -> Overlap:
        """Which of the rows (int64 [M]) the head knows."""
        places = range(len(videos.ids))
        files = [_part_of(_hash(_file(videos, row)), self.files, FILE_ORDER) for row in places]
        sources = {name: _part_of(_hash(name), self.sources, SOURCE_ORDER) for name in set(videos.sources)}
        # a group is known by any video in it, whether that one is asked for (has a label) or not
        of_group: dict[str, set[str]] = {}
        for file, source, group in zip(files, videos.sources, videos.groups, strict=True):
            of_group.setdefault(group, set()).update((file, sources[source]))
        of_rows = rows.tolist()
        return Overlap(
            rows=rows,
            same_file=tuple(files[row] for row in of_rows),
            same_source=tuple(_first(of_group[videos.groups[row]], SOURCE_ORDER) for row in of_rows),
            groups=tuple(videos.groups[row] for row in rows.tolist()),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """Rows against a head's own videos.

    same_file, same_source: for each of the M rows the part of the head that holds the very file, or a video of
    the same source group; "" where none does.
    """

    rows: Int
    same_file: tuple[str, ...]
    same_source: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """For each row the part that it is known from, by file before source group; "" for an unseen video."""
        return tuple(file or source for file, source in zip(self.same_file, self.same_source, strict=True))

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """bool [M]: known by file or by source group."""
        return np.array([bool(part) for part in self.parts], dtype=bool)

    @property
    def not_for_choosing(self) -> npt.NDArray[np.bool_]:
        """bool [M]: of train or test, by file, or by source group where the file itself is not of val."""
        return np.array([part in ("train", "test") for part in self.parts], dtype=bool)

    def words(self) -> str:
        """Such as "36 of 60 videos are its own (24 train, 12 val), 4 more share a source group with them (such as x)"."""
        files = Counter(part for part in self.same_file if part)
        told = f"{files.total()} of {len(self.rows)} videos are its own"
        if files:
            told += f" ({', '.join(f'{n} {part}' for part, n in files.items())})"
        by_source = [
            group
            for file, source, group in zip(self.same_file, self.same_source, self.groups, strict=True)
            if source and not file
        ]
        if by_source:
            told += f", {len(by_source)} more share a source group with them (such as {by_source[0]})"
        return told


def require_unseen(overlap: Overlap, *, where: str, instead: str) -> None:
    """Raise InputError where any of the rows is a video of the head, or shares a source group with one."""
    if overlap.seen.any():
        raise InputError(f"{where}: the head has seen these videos: {overlap.words()}; {instead}")


def _file(videos: Identified, row: int) -> str:
    """The digest, or the id of a video whose digest is unknown: unknown is not equal."""
    return videos.digests[row] or f"id:{videos.ids[row]}"


def _hash(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def _hashes(texts: Iterable[str]) -> UInt:
    return np.unique(np.array([_hash(text) for text in texts], dtype=np.uint64))


def _first(parts: Collection[str], order: Sequence[str]) -> str:
    """The first part in this order that is among them; "" where none is."""
    return next((part for part in order if part in parts), "")


def _part_of(value: int, by_part: Mapping[str, UInt], order: Sequence[str]) -> str:
    """The first part in this order that holds a hash; "" where none does."""
    for part in order:
        known = by_part.get(part, np.zeros(0, dtype=np.uint64))
        place = int(np.searchsorted(known, np.uint64(value)))
        if place < len(known) and int(known[place]) == value:
            return part
    return ""


def _encoded(values: UInt) -> str:
    return base64.b64encode(values.astype("<u8").tobytes()).decode()


def _decoded(text: str) -> UInt:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<u8").astype(np.uint64)
