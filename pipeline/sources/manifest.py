"""Manifests: a file that lists the inputs, one row a video. Which column holds the paths is told by the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import InputError, SourceError
from cache.labels.files import LabelEntry, read_entries
from cache.labels.keys import key_columns
from cache.labels.media import has_media_suffix, utf8_path
from cache.labels.names import is_number
from cache.objects.store import as_location, is_remote, split
from pipeline.decoding.remote_file import RemoteFile
from pipeline.sources.remote import beside


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One row: the path as written (with `/`), the same to open, what else the row says, and the object where it is one."""

    written: str
    path: Path
    entry: LabelEntry
    remote: RemoteFile | None = None


def read_manifest(manifest: Path, url: str = "") -> tuple[list[ManifestRow], str]:
    """Every row in file order, and a line that says which column named the videos.

    url: that of the manifest, where `manifest` is a copy of an object; paths in it are then those of objects.
    Raises SourceError for what cannot be read, and where two columns name different files that are there.
    """
    entries = read_entries(manifest, label_required=False, error=SourceError)
    columns = key_columns(entries)
    column = columns[0] if len(columns) == 1 else _choose(manifest.parent, columns, entries)
    rows = []
    for entry in entries:
        cell = entry.cells.get(column) or entry.key
        if url or is_remote(cell):
            rows.append(_object(cell, url, entry))
            continue
        written, path = _opened(manifest.parent, cell)
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


def _object(cell: str, url: str, entry: LabelEntry) -> ManifestRow:
    """Raises SourceError."""
    location = as_location(cell)
    try:
        if isinstance(location, str):
            split(location)
            return ManifestRow(location, Path(location), entry, RemoteFile(location))
        at = beside(url, cell)
        return ManifestRow(cell, Path(at), entry, RemoteFile(at))
    except InputError as error:
        raise SourceError(f"{entry.where}: {error}") from None


def _same(a: Path, b: Path) -> bool:
    return a == b or (not (is_remote(a) or is_remote(b)) and a.samefile(b))


def _exists(folder: Path, written: str) -> bool:
    if is_remote(written):
        return True
    try:
        return _opened(folder, written)[1].is_file()
    except OSError:  # a name too long to be one
        return False


def _opened(folder: Path, written: str) -> tuple[str, Path]:
    """The path with `/`, and the one to open."""
    if is_remote(written):
        return written, Path(written)
    path = utf8_path(folder, written)
    if "\\" in written and not path.exists():
        written = written.replace("\\", "/")
        path = utf8_path(folder, written)
    return written, path
