"""Finds the videos: a folder in one of the usual layouts, a manifest file, or one video file.

    split-class   train|val|test / <class> / ... / x.mp4    (RWF-2000), also <class> / train|val|test / ...
    class         <class> / ... / x.mp4
    flat          x.mp4
    manifest      a .csv, .tsv, .json or .jsonl file with the columns path[, label][, split][, source]
    file          one video

A folder that merely wraps one of these (`RWF-2000/train/...` seen from its parent) is looked through.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cache.errors import SourceError
from cache.label_files import SPLIT_NAMES, read_entries
from cache.label_names import is_known_word
from cache.labels import MEDIA_SUFFIXES

Layout = Literal["split-class", "class", "flat", "manifest", "file"]
MANIFEST_SUFFIXES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ndjson"})


@dataclass(frozen=True, slots=True)
class Source:
    """One input. `label_name`, `split` and `source` are "" where folder and manifest do not say.

    `id` is the path below the source root with "/". Bytes that are not UTF-8 and control characters, which
    neither a cache nor a terminal can hold, stand in it as %XX (`path` keeps them).
    """

    id: str
    path: Path
    label_name: str
    split: str
    source: str


@dataclass(frozen=True, slots=True)
class SourceTree:
    """All inputs sorted by id, and every other file that was seen, as (relative path, why it is no input)."""

    root: Path
    sources: tuple[Source, ...]
    layout: Layout
    skipped: tuple[tuple[str, str], ...]

    def describe(self) -> tuple[str, ...]:
        """Lines for the user: how many inputs in which layout, and what was skipped for which reason."""
        splits = [name for name in ("train", "val", "test") if any(s.split == name for s in self.sources)]
        classes = sorted({source.label_name for source in self.sources} - {""})
        levels = [", ".join(names[:6]) + (", ..." if len(names) > 6 else "") for names in (splits, classes)]
        inside = " / ".join(level for level in levels if level)
        lines = [f"{len(self.sources)} videos in {self.root} ({self.layout}{': ' if inside else ''}{inside})"]
        for reason, count in sorted(Counter(reason for _, reason in self.skipped).items()):
            names = [name for name, why in self.skipped if why == reason]
            more = ", ..." if count > 3 else ""
            lines.append(f"skipped {count}, {reason}: {', '.join(names[:3])}{more}")
        return tuple(lines)


def discover(src: str | Path) -> SourceTree:
    """Every video and image at or below `src`; nothing is opened. See the module text for layouts.

    Files of other types, hidden files and folders, feature caches and links that lead back to a folder above
    are listed in `skipped`. A broken link with the suffix of a media file, and every row of a manifest, is an
    input: it is for the decoder to say what is wrong with it.

    Raises SourceError when `src` does not exist, holds no video, cannot be listed, or when two inputs get one
    id.
    """
    root = Path(src)
    if root.is_dir():
        tree = _from_folder(root)
    elif not root.exists():
        raise SourceError(f"{root}: no such file or folder; give a folder of videos, a manifest or a video")
    elif root.suffix.lower() in MEDIA_SUFFIXES:
        tree = SourceTree(root.parent, (Source(_portable(root.name), root, "", "", ""),), "file", ())
    elif root.suffix.lower() in MANIFEST_SUFFIXES:
        tree = _from_manifest(root)
    else:
        raise SourceError(
            f"{root}: neither a folder, a manifest ({_listed(MANIFEST_SUFFIXES)}) "
            f"nor a video or image ({_listed(MEDIA_SUFFIXES)})"
        )
    _check_unique(tree)
    return tree


def _from_folder(root: Path) -> SourceTree:
    found: list[tuple[str, Path]] = []
    skipped: list[tuple[str, str]] = []
    for name, path, why in _walk(root):
        if why:
            skipped.append((_portable(name), why))
        else:
            found.append((_portable(name), path))
    if not found:
        seen = f"{len(skipped)} other files, such as {skipped[0][0]}" if skipped else "it is empty"
        raise SourceError(
            f"{root}: no videos or images in this folder ({seen}); give the folder that holds files of "
            f"the types {_listed(MEDIA_SUFFIXES)}"
        )
    found.sort()
    layout = _Levels.of([name for name, _ in found])
    sources = tuple(Source(name, path, *layout.label_and_split(name), "") for name, path in found)
    return SourceTree(root, sources, layout.layout, tuple(sorted(skipped)))


def _walk(root: Path) -> Iterator[tuple[str, Path, str]]:
    """(path below the root, path, "" or why it is no input) of everything below `root`."""
    waiting: list[tuple[Path, str, tuple[tuple[int, int], ...]]] = [(root, "", ())]
    while waiting:
        folder, prefix, above = waiting.pop()
        try:
            status = folder.stat()
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as problem:
            raise SourceError(
                f"{folder}: cannot be listed: {problem.strerror}; fix it or move it away"
            ) from None
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            yield prefix.rstrip("/"), folder, "link back to a folder above"
            continue
        for entry in entries:
            name, path = prefix + entry.name, folder / entry.name
            suffix = path.suffix.lower()
            is_folder, is_file = _kind(entry)
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                yield name, path, "hidden folder" if is_folder else "hidden file"
            elif is_folder and suffix in (".zarr", ".staging"):
                yield name, path, "feature cache"
            elif is_folder:
                waiting.append((path, f"{name}/", (*above, identity)))
            elif suffix not in MEDIA_SUFFIXES:
                yield name, path, "not a video or image"
            elif not is_file and not entry.is_symlink():
                yield name, path, "not a regular file"
            else:
                yield name, path, ""


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself, say
        return False, False


@dataclass(frozen=True, slots=True)
class _Levels:
    """Which folder level of an id names the split and which the class; None where none does."""

    layout: Layout
    split: int | None
    label: int | None

    @classmethod
    def of(cls, ids: Sequence[str]) -> _Levels:
        folders = [tuple(name.split("/")[:-1]) for name in ids]
        first = _wrappers(folders)
        inner = [levels[first:] for levels in folders]
        if any(levels and _split(levels[0]) for levels in inner):
            return cls("split-class", first, first + 1)
        if all(len(levels) > 1 and _split(levels[1]) for levels in inner):
            return cls("split-class", first + 1, first)
        return cls("class", None, first) if any(inner) else cls("flat", None, None)

    def label_and_split(self, video_id: str) -> tuple[str, str]:
        levels = video_id.split("/")[:-1]
        split = _split(levels[self.split]) if self.split is not None and len(levels) > self.split else ""
        placed = self.split is None or bool(split)  # beside train/ and val/, another folder is not a class
        has_class = placed and self.label is not None and len(levels) > self.label
        return (levels[self.label] if has_class and self.label is not None else "", split)


def _wrappers(folders: Sequence[tuple[str, ...]]) -> int:
    """How many outer levels are one folder for all that only wraps a layout."""
    shortest = min(map(len, folders))
    for level in range(shortest):
        name = folders[0][level]
        inside = {levels[level + 1] for levels in folders if len(levels) > level + 1}
        if not inside or _split(name) or any(levels[level] != name for levels in folders):
            return level
        classes_below_splits = any(len(f) > level + 2 and _split(f[level + 1]) for f in folders)
        known_inside = sum(map(is_known_word, inside))
        if is_known_word(name) and known_inside < 2 and not classes_below_splits:
            return level  # a class, not a data set that happens to be called `fights`
    return shortest


def _split(folder_name: str) -> str:
    return SPLIT_NAMES.get(folder_name.strip().lower(), "")


def _from_manifest(manifest: Path) -> SourceTree:
    entries = read_entries(manifest, label_required=False, error=SourceError)
    rows: dict[str, Source] = {}
    first_seen: dict[str, str] = {}
    for entry in entries:
        written = entry.key
        if "\\" in written and not (manifest.parent / written).exists():
            written = written.replace("\\", "/")
        video_id = _portable(posixpath.normpath(written))
        source = Source(video_id, manifest.parent / written, entry.label_name, entry.split, entry.source)
        if rows.setdefault(video_id, source) != source:
            raise SourceError(
                f"{entry.where}: {video_id} stands there with another label, split or source than in "
                f"{first_seen[video_id]}; keep one of them"
            )
        first_seen.setdefault(video_id, entry.where)
    levels = _Levels.of(list(rows))
    from_folders = {name: levels.label_and_split(name) for name in rows}
    any_label = any(row.label_name for row in rows.values())
    any_split = any(row.split for row in rows.values())
    sources = []
    for name in sorted(rows):
        row, (label, split) = rows[name], from_folders[name]
        sources.append(
            Source(
                name,
                row.path,
                row.label_name if any_label else label,
                row.split if any_split else split,
                row.source,
            )
        )
    return SourceTree(manifest.parent, tuple(sources), "manifest", ())


def _portable(name: str) -> str:
    """The name with bytes that are not UTF-8 and control characters as %XX, alike in every locale."""
    with contextlib.suppress(UnicodeEncodeError):  # a name from a manifest is text already
        name = os.fsencode(name).decode("utf-8", "surrogateescape")
    escaped = "".join(f"%{ord(c):02X}" if ord(c) < 32 or ord(c) == 127 else c for c in name)
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in escaped)


def _check_unique(tree: SourceTree) -> None:
    for before, after in zip(tree.sources, tree.sources[1:], strict=False):
        if before.id == after.id:
            raise SourceError(
                f"{tree.root}: two files have the id {before.id!r} ({os.fsencode(before.path)!r} and "
                f"{os.fsencode(after.path)!r}); rename one of them"
            )


def _listed(suffixes: frozenset[str]) -> str:
    return " ".join(sorted(suffixes))
