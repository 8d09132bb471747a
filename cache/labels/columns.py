"""The columns of a label file: which one says what, and whether two that say the same thing agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from itertools import combinations

from cache.errors import InputError
from cache.labels.names import folded, is_number, same_name, word_kind

KEY_COLUMNS = (
    *("path", "file_path", "relative_path", "filename", "file_name", "file", "video_path", "video_file"),
    *("video_filename", "video", "video_name", "video_id", "clip_path", "clip_file", "clip", "clip_name"),
    *("clip_id", "image_path", "image_file", "image", "image_id", "name", "basename", "stem", "id", "key"),
)
LABEL_COLUMNS = ("label_name", "label", "labels", "class", "class_name", "target", "category")
SPLIT_COLUMNS = ("split", "subset", "fold_split")
SOURCE_COLUMNS = ("source", "group", "source_group", "recording")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": KEY_COLUMNS,
    "label": LABEL_COLUMNS,
    "split": SPLIT_COLUMNS,
    "source": SOURCE_COLUMNS,
}
"""What a column can say -> its accepted names, best first."""

MISSING = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "?"})
"""Lower-case cells that say nothing."""

KNOWN_COLUMNS = frozenset(name for names in COLUMNS.values() for name in names)
_CANONICAL = {name.replace("_", ""): name for names in COLUMNS.values() for name in names}

Row = tuple[str, Mapping[str, str]]
"""(where it stands, cell text by column)."""


@lru_cache(maxsize=1024)
def column_name(header: str) -> str:
    """A header in the spelling of this module: `File Name` and `fileName` are `file_name`; others lower case."""
    name = header.strip().lower()
    return name if name in KNOWN_COLUMNS else _CANONICAL.get(re.sub(r"[\W_]+", "", name), name)


def present(row: Mapping[str, str], names: Sequence[str]) -> tuple[str, str]:
    """(column, text) of the first of these columns that says something in this row; else of one that stands there."""
    told = [(name, row[name]) for name in names if name in row]
    said = [(name, text) for name, text in told if text.lower() not in MISSING]
    return next(iter(said or told), ("", ""))


def require_agreement(rows: Sequence[Row], *, splits: Mapping[str, str], error: type[InputError]) -> None:
    """Raise `error` where two columns of one meaning contradict each other. `splits`: spelling -> split.

    Splits must be equal. Labels and sources may be named differently (label 1, class Fight), but the same way
    in every row; a label may also be finer than another (assault and robbery, both 1).
    """
    used = {name for _, row in rows for name in row}
    for a, b in _pairs(SPLIT_COLUMNS, used):
        for where, first, second in _both(rows, a, b):
            if splits.get(first.lower()) != splits.get(second.lower()):
                raise error(_told(where, a, first, b, second, "keep the one that is right"))
    for a, b in _pairs(LABEL_COLUMNS, used):
        kind_a, kind_b = _kind_in(rows, a), _kind_in(rows, b)
        for where, first, second in _both(rows, a, b):
            if kind_a(first) * kind_b(second) < 0:
                raise error(_told(where, a, first, b, second, "remove the column that is wrong"))
        _require_one_to_one(rows, a, b, refine=True, error=error)
    for a, b in _pairs(SOURCE_COLUMNS, used):
        _require_one_to_one(rows, a, b, refine=False, error=error)


def _kind_in(rows: Sequence[Row], column: str) -> Callable[[str], int]:
    """`word_kind` for the cells of a column: 1 and 0 say which class they are, unless there is a 2."""
    numbers = {float(text) for text in {row.get(column, "") for _, row in rows} if is_number(text)}
    coded = numbers <= {-1.0, 0.0, 1.0}
    return lambda text: 0 if is_number(text) and not coded else word_kind(text)


def _pairs(names: Sequence[str], used: Collection[str]) -> list[tuple[str, str]]:
    return list(combinations([name for name in names if name in used], 2))


def _both(rows: Sequence[Row], a: str, b: str) -> list[tuple[str, str, str]]:
    """(where it first stands, text in a, text in b) of every pair that two columns say in one row."""
    first_seen: dict[tuple[str, str], str] = {}
    for where, row in rows:
        if a in row and b in row:
            first_seen.setdefault((row[a], row[b]), where)
    return [
        (where, first, second)
        for (first, second), where in first_seen.items()
        if first.lower() not in MISSING and second.lower() not in MISSING
    ]


def _require_one_to_one(
    rows: Sequence[Row], a: str, b: str, *, refine: bool, error: type[InputError]
) -> None:
    """`refine`: three or more names of one column may share the names of the other."""
    told = _both(rows, a, b)
    if all(same_name(first, second) for _, first, second in told):
        return
    clash_ab = _clash(told, lambda item: (item[1], item[2]))
    clash_ba = _clash(told, lambda item: (item[2], item[1]))
    clash = clash_ab or clash_ba
    if clash is None:
        return
    finer = {folded(item[2]) for item in told} if clash_ab else {folded(item[1]) for item in told}
    if refine and (clash_ab is None or clash_ba is None) and len(finer) > 2:
        return
    (where, first, second), (other, first_there, second_there) = clash
    raise error(
        f"{_told(where, a, first, b, second, '')}, and {other} says {first_there!r} and {second_there!r}: "
        "they contradict each other; remove the column that is wrong"
    )


def _clash(
    told: Sequence[tuple[str, str, str]], pair: Callable[[tuple[str, str, str]], tuple[str, str]]
) -> tuple[tuple[str, str, str], tuple[str, str, str]] | None:
    """Two rows with one value on the left and two on the right."""
    seen: dict[str, tuple[str, str, str]] = {}
    for item in told:
        left, right = pair(item)
        before = seen.setdefault(folded(left), item)
        if not same_name(pair(before)[1], right):
            return before, item
    return None


def _told(where: str, a: str, first: str, b: str, second: str, advice: str) -> str:
    told = f"{where}: column {a!r} says {first!r} and column {b!r} says {second!r}"
    return f"{told}, which contradict each other; {advice}" if advice else told
