"""Finds the videos: a folder in one of the usual layouts, a manifest file, or one video file.

    split-class   train|val|test / <class> / ... / x.mp4    (RWF-2000), also <class> / train|val|test / ...
    class         <class> / ... / x.mp4
    flat          x.mp4
    manifest      a .csv, .tsv, .json or .jsonl file with the columns path[, label][, split][, source]
    file          one video

The first three may lie in object storage (`s3://bucket/prefix`), a manifest too, and its rows may be URLs. A folder that merely
wraps one of these (`RWF-2000/train/...` seen from its parent) is looked through.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cache.errors import SourceError
from cache.labels.files import SPLIT_NAMES
from cache.labels.join import shortened
from cache.labels.media import MEDIA_SUFFIXES, SOUND_SUFFIXES
from cache.labels.names import is_known_word, nfc
from cache.objects.store import as_location, is_remote, split
from pipeline.decoding.remote_file import RemoteFile
from pipeline.decoding.words import Transcript
from pipeline.sources.manifest import read_manifest
from pipeline.sources.names import portable, portable_path
from pipeline.sources.remote import local_copy, look, walk_objects
from pipeline.sources.system_files import why_not_users

Layout = Literal["split-class", "class", "flat", "manifest", "file"]
MANIFEST_SUFFIXES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ndjson"})
SOUND_FILE = "sound alone, where no stream hears or one of pictures is required"
"""Why a sound file is no input of most runs."""
SUBTITLE_SUFFIXES = (".srt", ".vtt")
"""Files that are transcripts by their suffix alone; .json and .txt beside a video may be anything else."""
SUBTITLES = "subtitles that no stream reads"


@dataclass(frozen=True, slots=True)
class Source:
    """One input. `label_name`, `split` and `source` are "" where folder and manifest do not say.

    `id` is the path below the source root with "/", read from the bytes of the file name as UTF-8 in any locale.
    Bytes that are not UTF-8 and control characters, which neither a cache nor a terminal can hold, stand in it as
    %XX (`path` keeps them). `unlisted` says why, where the input is a folder that cannot be listed: it has no
    label, and the worker that cannot open it rejects it. `transcript`: its words, where a file holds them and they were
    looked for. `remote`: the object that it is; `path` leads nowhere then.
    """

    id: str
    path: Path
    label_name: str
    split: str
    source: str
    unlisted: str = ""
    transcript: Transcript | None = None
    remote: RemoteFile | None = None


@dataclass(frozen=True, slots=True)
class SourceTree:
    """All inputs sorted by id, and every other file that was seen, as (relative path, why it is no input).

    `notes` are more lines for the user. `root`: a folder, or a URL as text.
    """

    root: Path | str
    sources: tuple[Source, ...]
    layout: Layout
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    @property
    def videos(self) -> tuple[Source, ...]:
        """The inputs that may have a label: all but the folders that cannot be listed."""
        return tuple(source for source in self.sources if not source.unlisted)

    def without(self, *made: Path) -> SourceTree:
        """The same where files that the run itself made, given as resolved paths, do not stand among what was skipped."""
        names = {path.name for path in made}
        skipped = tuple(
            (name, why)
            for name, why in self.skipped
            if name.rpartition("/")[2] not in names or Path(self.root, name).resolve() not in made
        )
        return replace(self, skipped=skipped)

    def describe(self) -> tuple[str, ...]:
        """Lines for the user: how many inputs in which layout, and what was skipped for which reason."""
        splits = [name for name in ("train", "val", "test") if any(s.split == name for s in self.sources)]
        classes = sorted({source.label_name for source in self.sources} - {""})
        levels = [", ".join(names[:6]) + (", ..." if len(names) > 6 else "") for names in (splits, classes)]
        inside = " / ".join(level for level in levels if level)
        lines = [f"{len(self.videos)} videos in {self.root} ({self.layout}{': ' if inside else ''}{inside})"]
        lines += self.notes
        unlisted = [f"{source.id} ({source.unlisted})" for source in self.sources if source.unlisted]
        if unlisted:
            lines.append(
                f"warning: {len(unlisted)} folders cannot be listed, each counts as one rejected input: "
                f"{shortened(unlisted)}"
            )
        for reason, count in sorted(Counter(reason for _, reason in self.skipped).items()):
            names = [name for name, why in self.skipped if why == reason]
            more = f" and {count - 3} more (--report FILE names all)" if count > 3 else ""
            what = f"{count} files hold subtitles, for streams that read words"
            lines.append(
                f"{what if reason == SUBTITLES else f'skipped {count}, {reason}'}: {', '.join(names[:3])}{more}"
            )
        return tuple(lines)


def discover(src: str | Path, *, sound: bool = False) -> SourceTree:
    """Every video and image at or below `src`, and with `sound` every sound file; nothing is opened. See above for layouts.

    Files of other types, hidden files and folders, feature caches, links that lead back to a folder above and the
    folders of systems and storage boxes (thumbnails, bins, snapshots) are listed in `skipped`. A folder that
    cannot be listed is an input, which will be rejected. A broken link with the suffix of a media file, and every
    row of a manifest, is an input: it is for the decoder to say what is wrong with it. `src` may be a URL as text (a path that
    reads like one is not: whoever gives it opens local files only).

    Raises SourceError when `src` does not exist, holds no video, cannot itself be listed, or when two inputs get one
    id.
    """
    if is_remote(src):
        if isinstance(src, Path):
            raise SourceError(f"{as_location(src)}: this command reads local files only, not object storage")
        tree = _from_url(src, sound)
        _check_unique(tree)
        return tree
    root = Path(src)
    if root.is_dir():
        tree = _from_folder(root, sound)
    elif not root.exists():
        raise SourceError(f"{root}: no such file or folder; give a folder of videos, a manifest or a video")
    elif root.suffix.lower() in _suffixes(sound):
        tree = SourceTree(root.parent, (Source(portable_path(root.name), root, "", "", ""),), "file", ())
    elif root.suffix.lower() in MANIFEST_SUFFIXES:
        tree = _from_manifest(root)
    elif root.suffix.lower() in SOUND_SUFFIXES:
        raise SourceError(f"{root}: {SOUND_FILE}")
    else:
        raise SourceError(
            f"{root}: neither a folder, a manifest ({_listed(MANIFEST_SUFFIXES)}) "
            f"nor a video or image ({_listed(_suffixes(sound))})"
        )
    _check_unique(tree)
    return tree


def _suffixes(sound: bool) -> frozenset[str]:
    return MEDIA_SUFFIXES | SOUND_SUFFIXES if sound else MEDIA_SUFFIXES


def _from_folder(root: Path, sound: bool) -> SourceTree:
    found: list[Source] = []
    unlisted: list[Source] = []
    skipped: list[tuple[str, str]] = []
    for name, path, verdict, why in _walk(root, _suffixes(sound)):
        if verdict == "skipped":
            skipped.append((portable_path(name), why))
        elif verdict == "unlisted":
            unlisted.append(Source(portable_path(name), path, "", "", "", why))
        else:
            found.append(Source(portable_path(name), path, "", "", ""))
    return _laid_out(root, found, unlisted, skipped, sound)


def _from_url(url: str, sound: bool) -> SourceTree:
    """What lies below a prefix, or the one object of this name. Raises SourceError."""
    suffix = posixpath.splitext(url)[1].lower()
    if split(url)[1] and suffix in _suffixes(sound) | MANIFEST_SUFFIXES and (remote := look(url)) is not None:
        folder, _, name = url.rpartition("/")
        if suffix not in MANIFEST_SUFFIXES:
            source = Source(portable(name), Path(url), "", "", "", remote=remote)
            return SourceTree(folder, (source,), "file", ())
        with local_copy(url) as manifest:
            return replace(_from_manifest(manifest, url), root=folder)
    if url.startswith("http"):
        raise SourceError(f"{url}: a web server cannot be listed; name its objects in a manifest")

    def why_not(name: str, is_folder: bool) -> str:
        return why_not_users(name, is_folder=is_folder) or _why_not_by_name(name, is_folder, _suffixes(sound))

    found: list[Source] = []
    skipped: list[tuple[str, str]] = []
    for name, remote, why in walk_objects(url, why_not):
        if why or remote is None:
            skipped.append((portable(name), why))
        else:
            found.append(Source(portable(name), Path(remote.url), "", "", "", remote=remote))
    return _laid_out(url, found, [], skipped, sound)


def _laid_out(
    root: Path | str,
    found: list[Source],
    unlisted: list[Source],
    skipped: list[tuple[str, str]],
    sound: bool,
) -> SourceTree:
    if not found:
        seen = f"{len(skipped)} other files, such as {skipped[0][0]}" if skipped else "it is empty"
        seen = "; ".join(f"{s.id}: cannot be listed: {s.unlisted}" for s in unlisted[:3]) or seen
        raise SourceError(
            f"{root}: no videos or images in this folder ({seen}); give the folder that holds files of "
            f"the types {_listed(_suffixes(sound))}"
        )
    found.sort(key=lambda source: (source.id, source.path))
    names = [source.id for source in found]
    layout = Levels.of(names)
    sources = []
    for source in found:
        label, split_name = layout.label_and_split(source.id)
        sources.append(replace(source, label_name=label, split=split_name))
    sources = sorted([*sources, *unlisted], key=lambda source: source.id)
    return SourceTree(root, tuple(sources), layout.layout, tuple(sorted(skipped)), _near_ids(names))


def _near_ids(names: Sequence[str]) -> tuple[str, ...]:
    """A line about ids that are one but for the Unicode form of their accents: often one file, copied twice."""
    forms: dict[str, int] = Counter(map(nfc, names))
    near = sorted(name for name, count in forms.items() if count > 1)
    if not near:
        return ()
    return (f"warning: {len(near)} names stand there in two Unicode forms, as two videos: {shortened(near)}",)


Verdict = Literal["input", "unlisted", "skipped"]


def _walk(root: Path, suffixes: frozenset[str]) -> Iterator[tuple[str, Path, Verdict, str]]:
    """(path below the root, path, what it is, why it is no input or cannot be listed) of everything below `root`."""
    waiting: list[tuple[Path, str, tuple[tuple[int, int], ...]]] = [(root, "", ())]
    while waiting:
        folder, prefix, above = waiting.pop()
        try:
            status = folder.stat()
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as problem:
            if folder is not root:
                yield prefix.rstrip("/"), folder, "unlisted", problem.strerror or str(problem)
                continue
            raise SourceError(
                f"{folder}: cannot be listed: {problem.strerror}; fix it or move it away"
            ) from None
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            yield prefix.rstrip("/"), folder, "skipped", "link back to a folder above"
            continue
        for entry in entries:
            name, path = prefix + entry.name, folder / entry.name
            is_folder, is_file = _kind(entry)
            why = why_not_users(entry.name, is_folder=is_folder) or _why_no_media(
                entry, is_folder, is_file, suffixes
            )
            if why:
                yield name, path, "skipped", why
            elif is_folder:
                waiting.append((path, f"{name}/", (*above, identity)))
            else:
                yield name, path, "input", ""


def _why_no_media(entry: os.DirEntry[str], is_folder: bool, is_file: bool, suffixes: frozenset[str]) -> str:
    why = _why_not_by_name(entry.name, is_folder, suffixes)
    if is_folder:
        return why
    link = entry.is_symlink()
    if why:
        return "link that leads nowhere" if link and not is_file else why
    return "" if is_file or link else "not a regular file"


def _why_not_by_name(name: str, is_folder: bool, suffixes: frozenset[str]) -> str:
    suffix = Path(name).suffix.lower()
    if is_folder:
        return "feature cache" if suffix in (".zarr", ".staging") else ""
    if suffix in suffixes:
        return ""
    if suffix in SOUND_SUFFIXES:
        return SOUND_FILE
    return SUBTITLES if suffix in SUBTITLE_SUFFIXES else "not a video or image"


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself, say
        return False, False


@dataclass(frozen=True, slots=True)
class Levels:
    """Which folder level of an id names the split and which the class; None where none does."""

    layout: Layout
    split: int | None
    label: int | None

    @classmethod
    def of(cls, ids: Sequence[str]) -> Levels:
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
        return (nfc(levels[self.label]) if has_class and self.label is not None else "", split)


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


def _from_manifest(manifest: Path, url: str = "") -> SourceTree:
    listed, note = read_manifest(manifest, url)
    rows: dict[str, Source] = {}
    first_seen: dict[str, str] = {}
    for row in listed:
        entry = row.entry
        video_id = portable(row.written if is_remote(row.written) else posixpath.normpath(row.written))
        source = Source(video_id, row.path, entry.label_name, entry.split, entry.source, remote=row.remote)
        if rows.setdefault(video_id, source) != source:
            raise SourceError(
                f"{entry.where}: {video_id} stands there with another label, split or source than in "
                f"{first_seen[video_id]}; keep one of them"
            )
        first_seen.setdefault(video_id, entry.where)
    levels = Levels.of(list(rows))
    any_label = any(row.label_name for row in rows.values())
    any_split = any(row.split for row in rows.values())
    sources = []
    for name in sorted(rows):
        given, (label, split) = rows[name], levels.label_and_split(name)
        label, split = given.label_name if any_label else label, given.split if any_split else split
        sources.append(replace(given, label_name=label, split=split))
    near = _near_ids([source.id for source in sources])
    return SourceTree(manifest.parent, tuple(sources), "manifest", (), (note, *near))


def _check_unique(tree: SourceTree) -> None:
    for before, after in zip(tree.sources, tree.sources[1:], strict=False):
        if before.id == after.id:
            raise SourceError(
                f"{tree.root}: two files have the id {before.id!r} ({os.fsencode(before.path)!r} and "
                f"{os.fsencode(after.path)!r}); rename one of them"
            )


def _listed(suffixes: frozenset[str]) -> str:
    return " ".join(sorted(suffixes))
