"""Scores that something else gave the same videos, as a floor beside a head: `--floor-scores NAME=FILE`."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.errors import InputError
from heads.data.dataset import HeadDataset
from heads.data.splits import labelled_rows
from heads.scoring.floors import FLOORS

Float = npt.NDArray[np.float64]
COLUMNS = ("probability_mean", "probability")
"""Which column counts, the first that is there: that of `onepass zero-shot`, and that of `onepass predict`."""


def parse_floor_files(given: Sequence[str]) -> dict[str, Path]:
    """`NAME=FILE` as typed. Raises InputError for anything else, for a name that is taken and for one twice."""
    found: dict[str, Path] = {}
    for item in given:
        name, _, path = item.partition("=")
        if not name or not path or name in found or name in FLOORS:
            raise InputError(
                f"--floor-scores {item}: write NAME=FILE, such as zero-shot=scores.csv, each name once and none of "
                f"{', '.join(FLOORS)}"
            )
        found[name] = Path(path)
    return found


def with_floor_scores(dataset: HeadDataset, files: Mapping[str, str | Path]) -> HeadDataset:
    """The dataset with these files' scores among its floors, one for every labelled video (`read_floor_scores`)."""
    if not files:
        return dataset
    wanted, _ = labelled_rows(dataset.labels)
    return replace(dataset, given_floors=read_floor_scores(files, dataset.ids, wanted))


def read_floor_scores(
    files: Mapping[str, str | Path], ids: Sequence[str], wanted: npt.NDArray[np.int64]
) -> dict[str, Float]:
    """Probabilities of videos by id, float64 [V], by the floor's name; NaN where a file has none.

    wanted: rows that must have one. Raises InputError for a file that cannot be read, lacks a column, holds what is no
    probability or two of one video, or lacks a wanted one.
    """
    return {name: _read(Path(path), ids, wanted) for name, path in files.items()}


def _read(path: Path, ids: Sequence[str], wanted: npt.NDArray[np.int64]) -> Float:
    said = f"--floor-scores {path}"
    by_id: dict[str, float] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            column = next((name for name in COLUMNS if name in (rows.fieldnames or ())), "")
            if "id" not in (rows.fieldnames or ()) or not column:
                raise InputError(f"{said}: needs the column id and one of {', '.join(COLUMNS)}")
            for row in rows:
                if row[column]:  # a reject has none
                    probability = _probability(row[column], f"{said}: {row['id']}")
                    if by_id.setdefault(row["id"], probability) != probability:
                        raise InputError(
                            f"{said}: {row['id']} has two scores, {by_id[row['id']]} and {probability}"
                        )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{said}: cannot be read ({reason})") from error
    found = np.array([by_id.get(video_id, math.nan) for video_id in ids])
    lacking = [ids[row] for row in wanted if math.isnan(found[row])]
    if lacking:
        raise InputError(
            f"{said}: has no score for {len(lacking)} of {len(wanted)} videos, such as {lacking[0]}"
        )
    return found


def _probability(text: str, said: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1:
        raise InputError(f"{said} has {text!r}, which is no probability")
    return found
