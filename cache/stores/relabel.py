"""The relabel journal: changing labels in place so that a kill at any moment leaves the old or the new ones.

`relabel.json` in a Zarr cache states the new values of some rows. Once it is there the relabel has happened:
readers apply it in memory, and the writer rewrites the columns and then removes it. Applying it twice does no
harm, so the next writer finishes what a killed one began.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from cache.errors import CacheCorrupt
from cache.schema import CHANGEABLE_COLUMNS
from cache.stores import files

if TYPE_CHECKING:
    from cache.stores.zarr_append import ZarrAppender

JOURNAL_NAME = "relabel.json"


@dataclass(frozen=True, slots=True)
class Journal:
    """New values by column name (of `CHANGEABLE_COLUMNS`) and row. label_names: new names, None to keep them."""

    columns: Mapping[str, Mapping[int, Any]]
    label_names: tuple[str, str] | None

    def overlay(self, array: str, start: int, rows: NDArray[Any]) -> None:
        """Put the new values into `rows`, which were read from row `start` of `array` on."""
        for row, value in self.columns.get(array.removeprefix("videos/"), {}).items():
            if start <= row < start + len(rows):
                rows[row - start] = value

    def to_bytes(self) -> bytes:
        """The journal as JSON: per column the rows and the values."""
        columns = {
            name: {"rows": list(changes), "values": list(changes.values())}
            for name, changes in self.columns.items()
        }
        return json.dumps({"columns": columns, "label_names": self.label_names}, ensure_ascii=False).encode()


def read_journal(cache: Path) -> Journal | None:
    """The pending relabel of a Zarr cache, None if there is none."""
    path = cache / JOURNAL_NAME
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = json.loads(raw)
        columns = {
            name: dict(zip(found["columns"][name]["rows"], found["columns"][name]["values"], strict=True))
            for name in CHANGEABLE_COLUMNS
            if name in found["columns"]
        }
        names = found["label_names"]
        return Journal(columns, (str(names[0]), str(names[1])) if names else None)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CacheCorrupt(
            f"{path} is malformed: {error!r}. Remove it to keep the labels as before."
        ) from error


def start(appender: ZarrAppender, journal: Journal) -> None:
    """Make the relabel permanent. From here on every reader sees it."""
    files.replace(appender.path / JOURNAL_NAME, journal.to_bytes(), fence=appender.fence)
    files.sync([appender.path])


def finish(appender: ZarrAppender) -> None:
    """Write a pending relabel into the columns and remove the journal. Does nothing if none is pending."""
    journal = read_journal(appender.path)
    if journal is None:
        return
    for name, changes in journal.columns.items():
        if changes:
            appender.replace_rows(f"videos/{name}", changes)
    if journal.label_names:
        appender.commit(dataclasses.replace(appender.attributes, label_names=journal.label_names))
    path = appender.path / JOURNAL_NAME
    files.take_away(path, appender.fence.beside(path, files.PART_SUFFIX), appender.fence)
    files.sync([appender.path])
