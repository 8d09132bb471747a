"""Reads when tokens are from a file or folder: `--spans`."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import InputError
from cache.labels.columns import KEY_COLUMNS, column_name
from cache.labels.media import utf8_path
from cache.token_arrays import UnusableFeatures
from pipeline.imports.arrays import END_COLUMNS, START_COLUMNS, ArrayPlace, read_array
from pipeline.imports.items import Item

SpansOf = Callable[[Item], NDArray[np.float32] | None]
"""Spans of a video's tokens, float32 [T, 2] seconds; None where nothing is said. Raises UnusableFeatures."""


def is_place(text: str) -> bool:
    """Whether `--spans` names a file or folder, not a column of the manifest."""
    return bool(text) and Path(text).exists()


def spans_reader(given: str) -> SpansOf:
    """A .csv with the columns id, start, end and a row a token, or a folder of `<id>.npy`; else what the items themselves say.

    Raises InputError for a file that cannot be used.
    """
    path = Path(given)
    if not is_place(given):
        return lambda item: None if item.spans is None else _array(item.spans)
    if path.is_dir():
        return lambda item: _array(utf8_path(path, f"{item.id}.npy"))
    if path.suffix.lower() not in (".csv", ".tsv"):
        raise InputError(
            f"--spans {path}: a .csv (id,start,end), a folder of .npy, or a column of the manifest"
        )
    told = _read_csv(path)

    def look_up(item: Item) -> NDArray[np.float32]:
        if item.id not in told:
            raise UnusableFeatures("unusable-array", f"has no spans in {path}")
        return np.array(told[item.id], dtype=np.float32)

    return look_up


def _array(path: Path) -> NDArray[np.float32]:
    try:
        return read_array(ArrayPlace(path)).astype(np.float32)
    except UnusableFeatures as problem:
        raise UnusableFeatures(problem.reason, f"its spans, {path}: {problem}") from None


def _read_csv(path: Path) -> dict[str, list[tuple[float, float]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"--spans {path}: cannot be read as UTF-8 text ({type(problem).__name__})") from None
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in text[:1000] else ",")
    header = [column_name(cell) for cell in next(rows, [])]
    places = [
        next((header.index(name) for name in names if name in header), None)
        for names in (("id", *KEY_COLUMNS), START_COLUMNS, END_COLUMNS)
    ]
    key, start, end = places
    if key is None or start is None or end is None:
        raise InputError(
            f"--spans {path}: needs the columns id, start, end; it has {', '.join(header) or 'none'}"
        )
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        if row:
            try:
                found[row[key]].append((float(row[start]), float(row[end])))
            except (ValueError, IndexError):
                raise InputError(
                    f"--spans {path}, line {rows.line_num}: start and end are not numbers"
                ) from None
    return dict(found)
