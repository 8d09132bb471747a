"""Which arrays belong to which video: a folder of files, a list of paths, a manifest, or one file of many arrays.

    folder            every .npy, .npz, .h5, .parquet below it; the id is the path without that suffix
    .list, .txt       a path a line, as the features of UCF-Crime and XD-Violence are listed
    manifest          .csv, .tsv, .json, .jsonl with a column of paths; a column `id`, where there is one, names the videos
    .npz, .h5         one file, an array a video, named by id; .parquet: a row a token, with a column of ids

Paths of another machine are looked for by their longest end below `root`. Files that all end in `__0` to `__9` are the crops of
one video.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from cache.errors import SourceError
from cache.labels.files import LabelEntry
from cache.labels.media import utf8_path
from cache.labels.names import same_name
from pipeline.imports.arrays import ARRAY_SUFFIXES, CONTAINER_SUFFIXES, ArrayPlace, array_names
from pipeline.sources.manifest import read_manifest
from pipeline.sources.names import portable, portable_path
from pipeline.sources.system_files import why_not_users
from pipeline.sources.tree import MANIFEST_SUFFIXES, Layout, Levels, Source, SourceTree

LIST_SUFFIXES = frozenset({".list", ".txt", ".lst"})
CROP = re.compile(r"(.+)__([0-9])")
POSITIVE_OF_MANY = "anomaly"
"""What classes other than `--negative` become together."""


@dataclass(frozen=True, slots=True)
class Item:
    """One video: its id, its arrays (several: crops, in order), and what else is said of it. problem: why it cannot be used."""

    id: str
    places: tuple[ArrayPlace, ...]
    label_name: str = ""
    split: str = ""
    source: str = ""
    spans: Path | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Items:
    """All videos sorted by id, how they were found, and lines for the user."""

    root: Path
    items: tuple[Item, ...]
    layout: Layout
    skipped: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]

    def tree(self) -> SourceTree:
        """The same as sources, to be labelled as those of `extract`."""
        sources = tuple(
            Source(item.id, item.places[0].path, item.label_name, item.split, item.source)
            for item in self.items
        )
        return SourceTree(self.root, sources, self.layout, self.skipped, self.lines)


def find_items(
    src: Path,
    *,
    root: Path | None = None,
    ending: str = "",
    key: str = "",
    spans_column: str = "",
    negative: str = "",
) -> Items:
    """Every video whose features lie at `src`; no array is read.

    root: where the files of a list or manifest lie; left out, its own folder. ending: what file names carry behind the video's
    name (`_i3d`). key: the array of every .npz or .h5 file. spans_column: of a manifest, paths of spans. negative: one class
    name; all others become `anomaly`. Raises SourceError where nothing is found or two files get one id.
    """
    if src.is_dir():
        found = _from_folder(src, key)
    elif not src.exists():
        raise SourceError(f"{src}: no such file or folder; give a folder of arrays, a list or a manifest")
    elif src.suffix.lower() in LIST_SUFFIXES:
        found = _from_list(src, root or src.parent, key)
    elif src.suffix.lower() in MANIFEST_SUFFIXES:
        found = _from_manifest(src, root or src.parent, key, spans_column)
    elif src.suffix.lower() in CONTAINER_SUFFIXES:
        names = array_names(src) or ("",)
        one = len(names) == 1 and not names[0]
        items = [Item(src.stem if one else portable(name), (ArrayPlace(src, name),)) for name in names]
        found = Items(src.parent, tuple(items), "file", (), ())
    elif src.suffix.lower() in ARRAY_SUFFIXES:
        found = Items(src.parent, (Item(portable_path(src.stem), (ArrayPlace(src, key),)),), "file", (), ())
    else:
        raise SourceError(
            f"{src}: not a folder, list, manifest or file of arrays ({_listed(ARRAY_SUFFIXES)})"
        )
    items, lines = _joined_crops([_without_ending(item, ending) for item in found.items])
    if ending and not any(a.id != b.id for a, b in zip(found.items, items, strict=False)):
        raise SourceError(f"--ending {ending}: no file name ends so, e.g. {found.items[0].id}")
    items = sorted((_as_two_classes(item, negative) for item in items), key=lambda item: item.id)
    if items and not items[0].id:
        raise SourceError(f"{items[0].places[0]}: names no video; give the array a name")
    for before, after in pairwise(items):
        if before.id == after.id:
            raise SourceError(
                f"{before.places[0]} and {after.places[0]} are both the features of {before.id!r}; keep one of them"
            )
    return replace(found, items=tuple(items), lines=(*found.lines, *lines))


def _from_folder(root: Path, key: str) -> Items:
    found: list[tuple[str, Path]] = []
    skipped: list[tuple[str, str]] = []

    def refuse(problem: OSError) -> None:
        raise SourceError(f"{problem.filename}: cannot be listed: {problem.strerror}; fix it or move it away")

    for folder, folders, names in os.walk(root, onerror=refuse):
        for name in list(folders):
            if why := why_not_users(name, is_folder=True) or (
                "feature cache" if name.endswith(".zarr") else ""
            ):
                folders.remove(name)
                skipped.append((portable_path(Path(folder, name).relative_to(root)), why))
        for name in names:
            path = Path(folder, name)
            inside = path.relative_to(root)
            why = why_not_users(name, is_folder=False)
            if not why and path.suffix.lower() not in ARRAY_SUFFIXES:
                why = "not a file of arrays"
            if why:
                skipped.append((portable_path(inside), why))
            else:
                found.append((portable_path(inside.with_suffix("")), path))
    if not found:
        raise SourceError(f"{root}: no {_listed(ARRAY_SUFFIXES)} files in this folder")
    found.sort()
    levels = Levels.of([name for name, _ in found])
    items = []
    for name, path in found:
        label, split = levels.label_and_split(name)
        items.append(
            Item(name, (ArrayPlace(path, key if path.suffix.lower() != ".npy" else ""),), label, split)
        )
    return Items(root, tuple(items), levels.layout, tuple(sorted(skipped)), ())


def _from_list(listing: Path, root: Path, key: str) -> Items:
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise SourceError(
            f"{listing}: cannot be read as a list of paths, UTF-8 text ({type(problem).__name__})"
        ) from None
    written = []
    for number, line in enumerate(lines, start=1):
        text = line.strip().replace("\\", "/")
        if not text:
            continue
        if not text.lower().endswith(tuple(ARRAY_SUFFIXES)):
            raise SourceError(
                f"{listing}, line {number}: {text[:120]!r} is no path of a file of arrays ({_listed(ARRAY_SUFFIXES)}); "
                "a list holds a path a line, anything more goes into a .csv with a header such as path,label"
            )
        written.append(text)
    if not written:
        raise SourceError(f"{listing}: holds no paths")
    entries = [(text, None) for text in written]
    items = _placed(entries, root, key, "")
    return Items(root, items, "manifest", (), (f"{len(written)} paths in {listing}",))


def _from_manifest(manifest: Path, root: Path, key: str, spans_column: str) -> Items:
    rows, note = read_manifest(manifest)
    if spans_column and not any(spans_column.lower() in row.entry.cells for row in rows):
        raise SourceError(f"--spans {spans_column}: neither a file, a folder nor a column of {manifest}")
    entries = [(row.written.replace("\\", "/"), row.entry) for row in rows]
    items = list(_placed(entries, root, key, spans_column))
    levels = Levels.of([item.id for item in items])
    for place, item in enumerate(items):
        label, split = levels.label_and_split(item.id)
        items[place] = replace(
            item,
            label_name=item.label_name if any(i.label_name for i in items) else label,
            split=item.split if any(i.split for i in items) else split,
        )
    return Items(root, tuple(items), "manifest", (), (note,))


def _placed(
    entries: Sequence[tuple[str, LabelEntry | None]], root: Path, key: str, spans_column: str
) -> tuple[Item, ...]:
    """Items of paths as they are written; absolute ones are named by what follows the folder that all share."""
    distinct = list(dict.fromkeys(text for text, _ in entries))
    absolute = all(text.startswith("/") or re.match(r"[A-Za-z]:/", text) for text in distinct)
    shared = posixpath.commonpath([posixpath.dirname(text) for text in distinct]) if absolute else ""
    find = _finder(root)
    items: dict[str, Item] = {}
    for text, entry in entries:
        inside = text[len(shared) :].lstrip("/") if absolute else posixpath.normpath(text)
        said = entry.cells.get("id", "") if entry else ""
        name = said if said and said != text else inside[: -len(posixpath.splitext(inside)[1])]
        spans = entry.cells.get(spans_column.lower(), "") if entry and spans_column else ""
        path = find(text)
        item = Item(
            portable(name),
            (ArrayPlace(path, key if path.suffix.lower() != ".npy" else ""),),
            entry.label_name if entry else "",
            entry.split if entry else "",
            entry.source if entry else "",
            find(spans.replace("\\", "/")) if spans else None,
        )
        if items.setdefault(text, item) != item:
            raise SourceError(
                f"{entry.where if entry else text}: {text} stands there twice, with other words; keep one of them"
            )
    return tuple(items.values())


def _finder(root: Path) -> Callable[[str], Path]:
    """Where a path as written lies: as it is, below `root`, or, of another machine, by its longest end that is there."""

    def find(text: str) -> Path:
        straight = utf8_path(root, text)
        if straight.exists():
            return straight
        parts = [part for part in text.split("/") if part and part != ".."]
        for first in range(1, len(parts)):
            path = utf8_path(root, "/".join(parts[first:]))
            if path.exists():
                return path
        return straight

    return find


def _without_ending(item: Item, ending: str) -> Item:
    if not ending:
        return item
    crop = CROP.fullmatch(item.id)
    name, tail = (crop[1], f"__{crop[2]}") if crop else (item.id, "")
    return replace(item, id=name.removesuffix(ending) + tail) if name.removesuffix(ending) else item


def _as_two_classes(item: Item, negative: str) -> Item:
    if not negative or not item.label_name:
        return item
    return replace(item, label_name=negative if same_name(item.label_name, negative) else POSITIVE_OF_MANY)


def _joined_crops(items: Sequence[Item]) -> tuple[list[Item], tuple[str, ...]]:
    """Crop files as one item a video. Raises SourceError where only some of the files are named so."""
    named = [(item, CROP.fullmatch(item.id)) for item in items]
    crops = [item for item, crop in named if crop]
    if not crops or not any(crop and crop[2] == "0" for _, crop in named):
        return list(items), ()
    if len(crops) < len(items):
        plain = next(item for item, crop in named if not crop)
        raise SourceError(
            f"{len(crops)} of {len(items)} files end in __0 to __9, as crops of one video do ({crops[0].id}), the others do not "
            f"({plain.id}): import the two kinds apart"
        )
    groups: dict[str, dict[int, Item]] = defaultdict(dict)
    for item, crop in named:
        if crop:
            if int(crop[2]) in groups[crop[1]]:
                raise SourceError(f"two files are crop {crop[2]} of {crop[1]!r}; keep one of them")
            groups[crop[1]][int(crop[2])] = item
    most = max(max(group) for group in groups.values()) + 1
    return list(_videos(groups, most)), (
        f"{len(groups)} videos of up to {most} crop files each (__0 to __{most - 1}), {len(items)} files",
    )


def _videos(groups: dict[str, dict[int, Item]], most: int) -> Iterator[Item]:
    for name, group in groups.items():
        first = group[min(group)]
        missing = [number for number in range(most) if number not in group]
        others = {(item.label_name, item.split, item.source) for item in group.values()}
        if len(others) > 1:
            raise SourceError(f"the crops of {name!r} have other labels, splits or sources than each other")
        yield replace(
            first,
            id=name,
            places=tuple(group[number].places[0] for number in sorted(group)),
            problem=f"lacks the crop files {', '.join(f'__{n}' for n in missing)}" if missing else "",
        )


def _listed(suffixes: frozenset[str]) -> str:
    return " ".join(sorted(suffixes))
