"""Folds that a user gives: a file with a row a video, which names it as a label file does, and a column `fold`.

`cross_validation.csv` of an earlier training is such a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.errors import InputError
from cache.labels.files import read_entries
from cache.labels.join import match_entries, shortened

COLUMN = "fold"
MOST_DIGITS = 30
"""Of a fold's name that is read as a number."""


@dataclass(frozen=True, slots=True, eq=False)
class GivenFolds:
    """numbers: the fold of each video, int64 [V] from 1, 0 where the file names none. name: of the file. unmatched: its rows that

    are no video's.
    """

    numbers: npt.NDArray[np.int64]
    name: str
    unmatched: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user: rows without a video."""
        n = len(self.unmatched)
        if not n:
            return ()
        return (
            f"{self.name}: {n} row{'s match' if n > 1 else ' matches'} no video: {shortened(self.unmatched)}",
        )


def read_folds(path: str | Path, ids: Sequence[str]) -> GivenFolds:
    """The folds that a file gives to these videos.

    Folds are numbered in the order of their names, numbers by size. Raises InputError for a file without the column,
    with a single fold, or whose rows match no video, LabelError for rows of one video with different folds.
    """
    entries = read_entries(path, label_required=False, error=InputError)
    plain = []
    for entry in entries:
        fold = _name(entry.cells.get(COLUMN, ""))
        if not fold:
            raise InputError(
                f"{entry.where}: no fold for {entry.key!r}; give each row one in a column '{COLUMN}'"
            )
        cells = {name: text for name, text in entry.cells.items() if name != COLUMN}
        # the fold in the place of a label: rows of one video must agree in it, and in nothing else
        plain.append(replace(entry, cells=cells, label_name=f"{COLUMN} {fold}", split="", source=""))
    matched = match_entries(ids, plain)
    if not matched.entries:
        raise InputError(
            f"--folds {path}: no row matches a video, such as {shortened(matched.unmatched)}; name them by their ids"
        )
    fold_of = {
        video_id: entry.label_name.removeprefix(f"{COLUMN} ") for video_id, entry in matched.entries.items()
    }
    names = sorted(set(fold_of.values()), key=_by_size)
    if len(names) < 2:
        raise InputError(f"--folds {path}: holds a single fold, {names[0]!r}; at least 2 are needed")
    number = {name: place for place, name in enumerate(names, start=1)}
    numbers = np.array([number.get(fold_of.get(video_id, ""), 0) for video_id in ids], dtype=np.int64)
    return GivenFolds(numbers, Path(path).name, matched.unmatched)


def _name(cell: str) -> str:
    """A fold as one name: 1, 1.0 and 01 are one fold; "" for none, which a table program may write as nan."""
    try:
        number = Decimal(cell)
    except InvalidOperation:
        return cell
    if number.is_nan():
        return ""
    if "_" in cell or not number.is_finite() or abs(number.adjusted()) > MOST_DIGITS:
        return cell
    whole, _, rest = f"{number:f}".partition(".")
    return f"{whole}.{rest}".rstrip("0").rstrip(".") if rest.strip("0") else whole


def _by_size(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name
