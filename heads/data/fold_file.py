"""Folds that a user gives: a file with a row a video, which names it as a label file does, and a column `fold`.

`cross_validation.csv` of an earlier training is such a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.errors import InputError
from cache.labels.files import read_entries
from cache.labels.join import match_entries, shortened

COLUMN = "fold"


def read_folds(path: str | Path, ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """The fold of each video, int64 [V] from 1, 0 where the file names none.

    Folds are numbered in the order of their names, numbers by size. Raises InputError for a file without the column,
    with a single fold, or whose rows match no video.
    """
    entries = read_entries(path, label_required=False, error=InputError)
    folds = {}
    for entry in entries:
        fold = entry.cells.get(COLUMN, "")
        if not fold:
            raise InputError(
                f"{entry.where}: no fold for {entry.key!r}; give each row one in a column '{COLUMN}'"
            )
        folds[entry.where] = fold
    plain = [
        replace(entry, cells={name: text for name, text in entry.cells.items() if name != COLUMN})
        for entry in entries
    ]
    matched = match_entries(ids, plain)
    if not matched.entries:
        raise InputError(
            f"--folds {path}: no row matches a video, such as {shortened(matched.unmatched)}; name them by their ids"
        )
    names = sorted({folds[entry.where] for entry in matched.entries.values()}, key=_by_size)
    if len(names) < 2:
        raise InputError(f"--folds {path}: holds a single fold, {names[0]!r}; at least 2 are needed")
    number = {name: place for place, name in enumerate(names, start=1)}
    found = np.zeros(len(ids), dtype=np.int64)
    for row, video_id in enumerate(ids):
        if video_id in matched.entries:
            found[row] = number[folds[matched.entries[video_id].where]]
    return found


def _by_size(name: str) -> tuple[float, str]:
    try:
        return float(name), ""
    except ValueError:
        return float("inf"), name
