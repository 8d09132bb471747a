"""Which video a name in a label file means: rules from the exact path to the bare stem, and which column they read.

    0. the id itself                                       train/Fight/V_1.mp4   = train/Fight/V_1.mp4
    1. the same but for case, slashes and accents          TRAIN\\Fight\\V_1.MP4   = train/Fight/V_1.mp4
    2. one is the tail of the other, with the suffix       V_1.mp4               = train/Fight/V_1.mp4
    3. the same without the suffix of a media file         Fight/V_1             = train/Fight/V_1.mp4
    4. the same stem below other folders                   RWF-2000/V_1_0.0_4.0  = train/Fight/V_1_0.0_4.0.mp4

Rule 4 needs more than a number (`a/7` is not `b/7.mp4`), and folders that do not name another split or class.
A row with several columns that could name its video is placed by each of them; `place_entries` says which counts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cache.errors import LabelError
from cache.labels.columns import KEY_COLUMNS
from cache.labels.files import SPLIT_NAMES, LabelEntry
from cache.labels.media import has_media_suffix, without_suffix
from cache.labels.names import folded, is_number, word_kind

EXACT, NORMALISED, TAIL, STEM, APART = range(5)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one key leads: the videos that fit best (one, or several equally well) and the rule."""

    key: str
    ids: tuple[str, ...]
    rank: int

    @property
    def rule(self) -> str:
        """The rule in words."""
        if self.rank == TAIL:
            return "end of the path" if "/" in self.key.replace("\\", "/") else "file name"
        if self.rank == STEM:
            return "number as stem" if is_number(self.key) else "stem"
        return {EXACT: "exact path", NORMALISED: "path but for case, slashes or accents"}.get(
            self.rank, "normalised stem below other folders"
        )


@dataclass(frozen=True, slots=True)
class JoinedBy:
    """By which column and rules rows found their videos; `tried`: all columns that could name one."""

    column: str
    tried: tuple[str, ...] = ()
    rules: Counter[str] = field(default_factory=Counter)
    example: tuple[str, str] | None = None

    def line(self) -> str:
        """One line for the user, with the example that the weakest rule joined."""
        by = f"joined by column {self.column!r}" if self.column else "joined"
        told = ", ".join(f"{count} by {rule}" for rule, count in self.rules.items()) or "nothing"
        shown = f"; e.g. {self.example[0]!r} -> {self.example[1]}" if self.example else ""
        unused = [name for name in self.tried if name != self.column]
        return f"{by}: {told}{shown}" + (f"; not read: {', '.join(unused)}" if unused else "")

    def columns(self) -> str:
        """The columns that were tried, for an error."""
        return "column " + " and ".join(map(repr, self.tried)) if self.tried else ""


class Finder:
    """Finds videos by their names. Ids are in the order given."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._by_stem: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for video_id in ids:
            normal = normalised_path(video_id)
            self._by_stem[without_suffix(_name(normal))].append((video_id, normal))

    def place(self, text: str) -> Placement | None:
        """The best videos for a key; None where none fits."""
        key = normalised_path(text)
        ranked = [
            (rank, video_id)
            for video_id, normal in self._candidates(_name(key))
            if (rank := _rank(text, key, video_id, normal)) is not None
        ]
        if not ranked:
            return None
        best = min(rank for rank, _ in ranked)
        return Placement(text, tuple(video_id for rank, video_id in ranked if rank == best), best)

    def _candidates(self, name: str) -> list[tuple[str, str]]:
        stem = without_suffix(name)
        found = self._by_stem.get(stem, [])
        if (
            stem != name and name.removeprefix(stem)[1:].isdigit()
        ):  # `V_1_4.264`: a clip id or a file of that type
            return self._by_stem.get(name, []) + [item for item in found if _name(item[1]) == name]
        return found


def normalised_path(text: str) -> str:
    """The path with `/`, in one case and one Unicode form, without empty parts."""
    path = folded(text).replace("\\", "/")
    if "//" in path or "/./" in path:
        path = re.sub(r"/(\./|/)*", "/", path)
    return path.removeprefix("./").strip("/")


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _rank(raw_key: str, key: str, raw_id: str, video_id: str) -> int | None:
    if raw_key == raw_id:
        return EXACT
    if key == video_id:
        return NORMALISED
    if _tail(key, video_id):
        return TAIL
    stem = without_suffix(_name(key))
    if _tail(_stemmed(key), _stemmed(video_id)):
        return STEM
    return None if is_number(stem) or _elsewhere(key, video_id) else APART


def _stemmed(path: str) -> str:
    return path[: len(path) - len(_name(path))] + without_suffix(_name(path))


def _tail(a: str, b: str) -> bool:
    return f"/{a}".endswith(f"/{b}") or f"/{b}".endswith(f"/{a}")


def _elsewhere(key: str, video_id: str) -> bool:
    """Whether the folders of the two name different splits or different classes."""
    ours, theirs = key.split("/")[:-1], video_id.split("/")[:-1]
    splits = [
        {SPLIT_NAMES[folder] for folder in folders if folder in SPLIT_NAMES} for folders in (ours, theirs)
    ]
    kinds = [{word_kind(folder) for folder in folders} - {0} for folders in (ours, theirs)]
    return any(a and b and not a & b for a, b in (splits, kinds))


@dataclass(frozen=True, slots=True)
class _Column:
    """One column read as the key: a placement a row, None where the cell is empty or fits nothing."""

    name: str
    cells: tuple[str, ...]
    places: tuple[Placement | None, ...]

    @property
    def numbers_only(self) -> bool:
        return all(is_number(cell) for cell in self.cells if cell)

    @property
    def holds_files(self) -> bool:
        return any(map(has_media_suffix, self.cells))

    @property
    def matches(self) -> bool:
        return any(self.places)

    def quality(self) -> tuple[int, int, int]:
        """Smaller is better: rows with one video, rows that fit several, rules."""
        placed = [place for place in self.places if place]
        unsure = sum(len(place.ids) > 1 for place in placed)
        return unsure - len(placed), unsure, sum(place.rank for place in placed)


def place_entries(finder: Finder, entries: Sequence[LabelEntry]) -> tuple[list[Placement | None], JoinedBy]:
    """Where each entry leads, by the one column that names videos best.

    Of several columns that could name the video, names win over bare numbers (a running `id` must not pass for
    the file name `1.mp4`), then the column that finds more videos. Raises LabelError where two columns mean
    different videos, and where bare numbers fit though the file names beside them fit nothing.
    """
    columns = [_column(finder, entries, name) for name in key_columns(entries)]
    if not columns:
        places = [finder.place(entry.key) for entry in entries]
        return places, _joined("", (), places)
    tried = tuple(column.name for column in columns)
    matching = [column for column in columns if column.matches]
    named = [column for column in matching if not column.numbers_only]
    usable = named or matching
    if not usable:
        return [None] * len(entries), JoinedBy("", tried)
    if not named:
        _require_no_better(finder, entries, columns, usable[0])
    for n, first in enumerate(usable):
        for second in usable[n + 1 :]:
            _require_same_videos(entries, first, second)
    best = min(usable, key=_Column.quality)
    places = list(best.places)
    for other in usable:  # a row whose cell is empty may be named in another column
        for row, cell in enumerate(best.cells):
            if not cell and places[row] is None:
                places[row] = other.places[row]
    return places, _joined(best.name, tried, places)


def key_columns(entries: Sequence[LabelEntry]) -> list[str]:
    """The columns of these entries that may name a video, best name first."""
    used = {name for entry in entries for name in entry.cells}
    return [name for name in KEY_COLUMNS if name in used]


def _column(finder: Finder, entries: Sequence[LabelEntry], name: str) -> _Column:
    cells = tuple(entry.cells.get(name, "") for entry in entries)
    return _Column(name, cells, tuple(finder.place(cell) if cell else None for cell in cells))


def _joined(column: str, tried: tuple[str, ...], places: Sequence[Placement | None]) -> JoinedBy:
    placed = sorted((place for place in places if place), key=lambda place: place.rank)
    rules = Counter(place.rule for place in placed)
    return JoinedBy(column, tried, rules, (placed[-1].key, placed[-1].ids[0]) if placed else None)


def _require_same_videos(entries: Sequence[LabelEntry], first: _Column, second: _Column) -> None:
    for entry, a, b in zip(entries, first.places, second.places, strict=True):
        if a and b and not set(a.ids) & set(b.ids):
            raise LabelError(
                f"{entry.where or entry.key}: column {first.name!r} ({a.key!r}) means {a.ids[0]} but column "
                f"{second.name!r} ({b.key!r}) means {b.ids[0]}; keep the column that names the videos, rename "
                "the other"
            )


def _require_no_better(
    finder: Finder, entries: Sequence[LabelEntry], columns: Sequence[_Column], numbers: _Column
) -> None:
    """Bare numbers are weak evidence: no other column may name other videos, or files that are not here."""
    for column in columns:
        if not column.matches and column.holds_files:
            row = next(n for n, cell in enumerate(column.cells) if has_media_suffix(cell))
            raise LabelError(
                f"{entries[row].where or entries[row].key}: column {column.name!r} names files of which none is "
                f"here ({column.cells[row]!r}), only the bare numbers of column {numbers.name!r} fit; remove "
                f"column {column.name!r} if the numbers are the names of the videos"
            )
    known = {column.name for column in columns}
    for name in dict.fromkeys(name for entry in entries for name in entry.cells if name not in known):
        cells = [entry.cells.get(name, "") for entry in entries]
        if any(map(has_media_suffix, cells)):
            _require_same_videos(entries, numbers, _column(finder, entries, name))
