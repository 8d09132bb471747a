"""Manifests: a file that lists the inputs, one row a video. Which column holds the paths is told by the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import SourceError
from cache.labels.files import LabelEntry, read_entries
from cache.labels.keys import key_columns
from cache.labels.media import has_media_suffix, utf8_path
from cache.labels.names import is_number


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One row: the path as written (with `/`), the same to open, and what else the row says."""

    written: str
    path: Path
    entry: LabelEntry


def read_manifest(manifest: Path) -> tuple[list[ManifestRow], str]:
    """Every row in file order, and a line that says which column named the videos.

    Raises SourceError for what cannot be read, and where two columns name different files that are there.
    """
    entries = read_entries(manifest, label_required=False, error=SourceError)
    columns = key_columns(entries)
    column = columns[0] if len(columns) == 1 else _choose(manifest.parent, columns, entries)
    rows = []
    for entry in entries:
        written, path = _opened(manifest.parent, entry.cells.get(column) or entry.key)
        rows.append(ManifestRow(written, path, entry))
    others = [name for name in columns if name != column]
    unread = f"; not read: {', '.join(others)}" if others else ""
    return rows, f"paths from column {column!r}, e.g. {rows[0].written}{unread}"


def _choose(folder: Path, columns: Sequence[str], entries: Sequence[LabelEntry]) -> str:
    """The column that names most files that are there, names before bare numbers; else the first that looks like paths."""
    there = {
        name: [
            _opened(folder, cell)[1]
            if (cell := entry.cells.get(name, "")) and _exists(folder, cell)
            else None
            for entry in entries
        ]
        for name in columns
    }
    cells = {name: [entry.cells[name] for entry in entries if name in entry.cells] for name in columns}
    numbers = {name for name in columns if all(map(is_number, cells[name]))}
    found = [name for name in columns if any(there[name])]
    found = [name for name in found if name not in numbers] or found
    for n, first in enumerate(found):
        for second in found[n + 1 :]:
            for entry, a, b in zip(entries, there[first], there[second], strict=True):
                if a and b and not a.samefile(b):
                    raise SourceError(
                        f"{entry.where}: column {first!r} names {a} and column {second!r} names {b}, and both are "
                        "there; keep the column that names the videos, rename the other"
                    )
    if found:
        return max(found, key=lambda name: sum(path is not None for path in there[name]))
    return min(columns, key=lambda name: (not any(map(has_media_suffix, cells[name])), name in numbers))


def _exists(folder: Path, written: str) -> bool:
    try:
        return _opened(folder, written)[1].is_file()
    except OSError:  # a name too long to be one
        return False


def _opened(folder: Path, written: str) -> tuple[str, Path]:
    """The path with `/`, and the one to open."""
    path = utf8_path(folder, written)
    if "\\" in written and not path.exists():
        written = written.replace("\\", "/")
        path = utf8_path(folder, written)
    return written, path
