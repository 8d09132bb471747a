"""Which sweep a folder's leaderboard is of, in `sweep.json`: a leaderboard never takes the place of another sweep's.

A sweep goes on from another when it has all of its runs: the same cells, seeds and folds on the same videos, and
perhaps more of them. A search goes on from a search of the same settings, however many cells it tries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache.errors import HeadError, InputError
from cache.stores import files
from heads.ablation.grid import Axis, Cell, short_name
from heads.ablation.runs import Run
from heads.trained.checkpoint import writing

RECORD_FILE = "sweep.json"
LEADERBOARD_FILE = "leaderboard.csv"


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """words: the sweep as a person names it. keys: of its runs. searched: the settings of a search, "" for a grid."""

    words: str
    keys: frozenset[str]
    searched: str = ""

    def continues(self, other: SweepRecord) -> bool:
        """Whether this sweep has all that the other one has."""
        if self.searched or other.searched:
            return self.searched == other.searched
        return other.keys <= self.keys

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "keys": sorted(self.keys)}


def swept_words(cells: Sequence[Cell]) -> str:
    """Such as "lr=1e-3,1e-2 model=mlp,linear, 4 cells"."""
    values: dict[str, dict[str, None]] = {}
    for cell in cells:
        for key, value in cell.settings:
            values.setdefault(key, {})[value] = None
    axes = " ".join(f"{short_name(key)}={','.join(found)}" for key, found in values.items())
    return f"{axes or 'the base settings'}, {len(cells)} cells"


def searched_words(axes: Sequence[Axis]) -> str:
    """Such as "lr=0.0001..0.01 model=mlp,linear"."""
    return " ".join(
        f"{axis.name}={f'{axis.low:g}..{axis.high:g}' if axis.is_range else ','.join(axis.values)}"
        for axis in axes
    )


def require_own_folder(folder: Path, record: SweepRecord) -> None:
    """Raise InputError where the folder holds the leaderboard of a sweep that this one does not go on from."""
    if not (folder / LEADERBOARD_FILE).exists():
        return
    other = _read(folder / RECORD_FILE)
    if other is None:
        raise InputError(
            f"{folder} holds the leaderboard of a sweep of an earlier version, which says too little of itself to go on "
            f"from; this one is {record.words}. Choose another --out, or remove {folder / LEADERBOARD_FILE}"
        )
    if not record.continues(other) and record.words == other.words:
        raise InputError(
            f"{folder} holds the leaderboard of another sweep of {record.words}: of other settings in every cell, videos, labels "
            f"or sources, or by an earlier version. Choose another --out, or remove {folder / LEADERBOARD_FILE} to replace it"
        )
    if not record.continues(other):
        raise InputError(
            f"{folder} holds the leaderboard of another sweep: {other.words}; this one is {record.words}, and would "
            "replace it. Choose another --out"
        )


def write_record(folder: Path, record: SweepRecord) -> None:
    """Raises StorageFull or HeadError as `heads.trained.checkpoint.writing`."""
    with writing(folder):
        files.replace(folder / RECORD_FILE, (json.dumps(record.as_dict(), indent=1) + "\n").encode())


def of_runs(words: str, runs: Sequence[Run], *, searched: str = "") -> SweepRecord:
    """The record of a sweep of these runs."""
    return SweepRecord(words, frozenset(run.key for run in runs), searched)


def _read(path: Path) -> SweepRecord | None:
    try:
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return SweepRecord(str(values["words"]), frozenset(values["keys"]), str(values["searched"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HeadError(f"{path} is not readable ({error!r}); choose another --out") from error
