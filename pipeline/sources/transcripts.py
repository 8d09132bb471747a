"""Which words belong to which video: what `--transcripts` names, else a file that lies beside the video.

    --transcripts DIR     every .srt, .vtt, .json, .txt below it, by its path without that: V_1.srt, train/Fight/V_1.mp4.vtt
    --transcripts FILE    .csv, .tsv, .json, .jsonl: a row a video with its text or the path of a file, or a row a segment
    beside the video      V_1.srt or V_1.mp4.srt, also with a language: V_1.ko.srt

Names find their videos by the rules of labels (`cache.labels.keys`). Nothing of a text is in a message.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cache.errors import InputError
from cache.labels.columns import column_name
from cache.labels.files import LabelEntry, read_entries
from cache.labels.join import near_misses, shortened
from cache.labels.keys import Finder, Placement, place_entries
from cache.labels.media import has_media_suffix, utf8_path, without_suffix
from cache.labels.names import folded
from pipeline.decoding.subtitles import checked_cues
from pipeline.decoding.words import TRANSCRIPT_SUFFIXES, Cue, Transcript, untimed
from pipeline.sources.names import portable_path
from pipeline.sources.tree import SUBTITLE_SUFFIXES, Source

TEXT_COLUMNS = ("text", "transcript", "transcription", "utterance", "caption", "sentence", "words")
PATH_COLUMNS = (
    "transcript_path",
    "transcript_file",
    "text_path",
    "text_file",
    "subtitle",
    "subtitles",
    "srt",
)
START_COLUMNS = ("start", "start_seconds")
END_COLUMNS = ("end", "end_seconds")
MANIFEST_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
_LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}(?:[-_][A-Za-z]{2,4})?$")
NAMED_MISSES = 3


@dataclass(frozen=True, slots=True)
class FoundWords:
    """Transcripts by id, and lines for the user."""

    by_id: Mapping[str, Transcript]
    lines: tuple[str, ...]


def with_transcripts(
    sources: Sequence[Source], all_ids: Sequence[str], given: Path | None
) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """The sources with their words, as far as files hold them, and lines for the user.

    all_ids: those of the whole source tree, of which `sources` may be a share. Raises InputError where `given` cannot be used:
    nothing in it joins, or not one of the files that it names is there.
    """
    named = FoundWords({}, ()) if given is None else named_transcripts(given, all_ids)
    videos = [source for source in sources if not source.unlisted]
    beside = sidecars([source for source in videos if source.id not in named.by_id and not source.remote])
    found = {**beside.by_id, **named.by_id}
    n_found = sum(source.id in found for source in videos)
    n_remote = sum(source.remote is not None for source in videos)
    lines = (
        *named.lines,
        *beside.lines,
        *(
            [f"words: {n_remote} videos lie in object storage, where no transcripts are looked for"]
            if n_remote
            else ()
        ),
        f"words: {n_found} of {len(videos)} videos have a transcript in a file"
        + ("" if n_found == len(videos) else "; of the others a subtitle track is read where there is one"),
    )
    return tuple(replace(source, transcript=found.get(source.id)) for source in sources), lines


def sidecars(sources: Iterable[Source]) -> FoundWords:
    """Files beside the videos; one listing a folder."""
    by_folder: dict[Path, list[Source]] = defaultdict(list)
    for source in sources:
        by_folder[source.path.parent].append(source)
    found: dict[str, Transcript] = {}
    several: list[str] = []
    stray: list[str] = []
    for folder, held in by_folder.items():
        listed, neighbours = _transcript_files(folder)
        used: set[str] = set()
        for source in held:
            name = source.path.name
            keys = {folded(name), folded(without_suffix(name))}
            fit = sorted(
                (key not in keys, TRANSCRIPT_SUFFIXES.index(suffix), file)
                for key, tagless, suffix, file in listed
                if key in keys or tagless in keys
            )
            used |= {file for _, _, file in fit}
            if fit:
                file = fit[0][2]
                found[source.id] = Transcript(portable_path(file), folder / file)
                if len(fit) > 1:
                    several.append(f"{source.id}: {file}, not {', '.join(other for _, _, other in fit[1:])}")
        stray += [
            file
            for key, tagless, suffix, file in listed
            if suffix in SUBTITLE_SUFFIXES and file not in used and not {key, tagless} & neighbours
        ]
    lines = []
    if found:
        kinds = Counter(each.path.suffix.lower() for each in found.values() if each.path is not None)
        lines.append(
            f"words: {len(found)} videos have a transcript beside them ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})"
        )
    if several:
        lines.append(
            f"words: {len(several)} videos have several, of which one is read: {shortened(several, limit=2)}"
        )
    if stray:
        lines.append(
            f"warning: {len(stray)} transcripts lie beside no video of their name: {shortened(sorted(stray))}"
        )
        ids = [source.id for held in by_folder.values() for source in held if source.id not in found]
        lines += _near([file.rpartition(".")[0] for file in sorted(stray)], ids)
    return FoundWords(found, tuple(lines))


def _transcript_files(folder: Path) -> tuple[list[tuple[str, str, str, str]], set[str]]:
    """(name without suffix, the same without a language, suffix, file name) of every file that may hold words.

    Then what files beside all media of the folder may be called, also beside those of another shard or of no interest here.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:
        return [], set()  # videos of a folder that cannot be listed are rejected for it
    found = []
    media = [name for name in names if has_media_suffix(name)]
    for name in names:
        base, dot, suffix = name.rpartition(".")
        if dot and base and (kind := f".{suffix.lower()}") in TRANSCRIPT_SUFFIXES:
            found.append((folded(base), folded(_without_language(base)), kind, name))
    return found, {folded(form) for name in media for form in (name, without_suffix(name))}


def _without_language(base: str) -> str:
    return base if has_media_suffix(base) else _LANGUAGE.sub("", base)


def named_transcripts(given: Path, ids: Sequence[str]) -> FoundWords:
    """What a folder or a manifest has for these videos. Raises InputError."""
    if given.is_dir():
        return _from_folder(given, ids)
    if not given.exists():
        raise InputError(f"--transcripts {given}: no such file or folder")
    files, manifests = " ".join(TRANSCRIPT_SUFFIXES), " ".join(MANIFEST_SUFFIXES)
    if given.suffix.lower() not in MANIFEST_SUFFIXES:
        raise InputError(f"--transcripts {given}: give a folder of {files}, or a manifest: {manifests}")
    return _from_manifest(given, ids)


def _from_folder(folder: Path, ids: Sequence[str]) -> FoundWords:
    finder = Finder(ids)
    claims: dict[str, list[tuple[int, int, str, Path]]] = defaultdict(list)
    unmatched: list[str] = []
    rules: Counter[str] = Counter()
    files = _below(folder)
    if not files:
        raise InputError(f"--transcripts {folder}: holds no {' '.join(TRANSCRIPT_SUFFIXES)}")
    for name, path in files:
        base = name[: -len(path.suffix)]
        place = finder.place(base) or finder.place(_without_language(base))
        if place is None:
            unmatched.append(base)
            continue
        rules[place.rule] += 1
        order = TRANSCRIPT_SUFFIXES.index(path.suffix.lower())
        claims[_one(place, f"--transcripts {folder}: {name}")].append((place.rank, order, name, path))
    taken = {video_id: min(fit) for video_id, fit in claims.items()}
    several = [f"{i}: {taken[i][2]} of {len(fit)}" for i, fit in claims.items() if len(fit) > 1]
    lines = _counted(
        folder, ids, len(claims), unmatched, ", ".join(f"{n} by {rule}" for rule, n in rules.items())
    )
    if several:
        lines.append(
            f"  {len(several)} videos have several, of which one is read: {shortened(several, limit=2)}"
        )
    return FoundWords({i: Transcript(name, path) for i, (_, _, name, path) in taken.items()}, tuple(lines))


def _below(folder: Path) -> list[tuple[str, Path]]:
    """(path below the folder with `/`, path) of every file that may hold words. Raises InputError for a folder that is shut."""

    def shut(problem: OSError) -> None:
        raise InputError(
            f"--transcripts {problem.filename}: cannot be listed: {problem.strerror}"
        ) from problem

    found = []
    for parent, folders, names in os.walk(folder, onerror=shut, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in TRANSCRIPT_SUFFIXES:
                found.append((portable_path(path.relative_to(folder)), path))
    return found


def _one(place: Placement, where: str) -> str:
    if len(place.ids) > 1:
        raise InputError(
            f"{where}: {place.key!r} fits {len(place.ids)} videos: {shortened(place.ids)}; write the path as it is below the "
            "source folder"
        )
    return place.ids[0]


def _from_manifest(manifest: Path, ids: Sequence[str]) -> FoundWords:
    entries = _entries(manifest)
    text_column, path_column = (
        next((name for name in columns if any(name in entry.cells for entry in entries)), "")
        for columns in (TEXT_COLUMNS, PATH_COLUMNS)
    )
    if not text_column and not path_column:
        raise InputError(_no_words(manifest))
    places, how = place_entries(Finder(ids), entries)
    claims: dict[str, list[tuple[int, LabelEntry]]] = defaultdict(list)
    unmatched: list[str] = []
    for entry, place in zip(entries, places, strict=True):
        if place is None:
            unmatched.append(entry.cells.get(how.column) or entry.key)
        else:
            claims[_one(place, entry.where)].append((place.rank, entry))
    found: dict[str, Transcript] = {}
    for video_id, fit in claims.items():
        best = min(rank for rank, _ in fit)
        mine = [entry for rank, entry in fit if rank == best]
        unmatched += [entry.cells.get(how.column) or entry.key for rank, entry in fit if rank != best]
        found[video_id] = _of_rows(manifest, mine, text_column, path_column)
    lines = _counted(manifest, ids, len(found), list(dict.fromkeys(unmatched)), how.line())
    bare = [i for i, each in found.items() if each.path is None and not (each.cues or each.problem)]
    if bare:
        lines.append(f"  warning: for {len(bare)} videos it holds no words, empty or null: {shortened(bare)}")
    return FoundWords(found, (*lines, *_missing_files(manifest, found)))


def _entries(manifest: Path) -> list[LabelEntry]:
    """Rows as label files are read. What an error of that would quote of a row may be a text, so its shape is looked at first."""
    from pipeline.decoding.text_encoding import UnknownEncoding, decoded_text

    try:
        text, _ = decoded_text(manifest.read_bytes())
    except OSError as error:
        raise InputError(f"--transcripts {manifest}: cannot be read: {error.strerror}") from error
    except UnknownEncoding as error:
        raise InputError(f"--transcripts {manifest}: {error}") from None
    suffix = manifest.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            where = f"{manifest}, line {number}"
            if not isinstance(row := _json(line, where), dict):
                raise InputError(f"--transcripts {where}: expected an object with path and text")
            _require_texts(row, where)
    elif suffix == ".json":
        held = _json(text, str(manifest))
        if not isinstance(held, (list, dict)) or not all(
            isinstance(row, dict) for row in (held.values() if isinstance(held, dict) else held)
        ):
            raise InputError(f"--transcripts {manifest}: expected a list of objects with path and text")
        for key, row in held.items() if isinstance(held, dict) else enumerate(held):
            _require_texts(
                row, f"{manifest}, {f'item {key}' if isinstance(key, int) else f'key {key!r:.60}'}"
            )
    else:
        _require_header(manifest, text)
    with _long_cells():
        return read_entries(manifest, label_required=False, error=InputError, text=text)


def _require_texts(row: Mapping[str, Any], where: str) -> None:
    """Raise InputError where what should be a text or a path is a list, say: nobody would read it."""
    for name, value in row.items():
        known = column_name(name) in (*TEXT_COLUMNS, *PATH_COLUMNS)
        if known and (isinstance(value, bool) or not isinstance(value, str | int | float | None)):
            raise InputError(
                f"--transcripts {where}: {name!r} is a {type(value).__name__}, not a text: write one string, or a row a segment "
                "with start and end"
            )


def _require_header(manifest: Path, text: str) -> None:
    """Raise InputError where the first line of a table names no column of words: without a header it is somebody's words."""
    first = next((line for line in text.lstrip("\ufeff").splitlines() if line.strip()), "")
    names = {cell.strip(" \"'").casefold() for cell in re.split(r"[,;\t|]", first)}
    if not names & {*TEXT_COLUMNS, *PATH_COLUMNS}:
        raise InputError(_no_words(manifest))


def _no_words(manifest: Path) -> str:
    return (
        f"--transcripts {manifest}: no column with words; name one {TEXT_COLUMNS[0]!r} ({', '.join(TEXT_COLUMNS[1:])}), or "
        f"one with paths {PATH_COLUMNS[0]!r} ({', '.join(PATH_COLUMNS[1:])})"
    )


def _json(text: str, where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise InputError(f"--transcripts {where}: a key stands twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise InputError(f"--transcripts {where}: not valid JSON") from None


@contextmanager
def _long_cells() -> Any:
    """csv refuses cells of more than 128 KiB, which an hour of speech has."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _of_rows(manifest: Path, rows: Sequence[LabelEntry], text_column: str, path_column: str) -> Transcript:
    """The words of the rows of one video: a file that one of them names, else their cells, a cue each."""
    for row in rows:
        for cell in (row.cells.get(path_column, ""), row.cells.get(text_column, "")):
            if cell and _is_path(cell):
                path = utf8_path(manifest.parent, cell.replace("\\", "/"))
                return Transcript(cell, path, problem="" if path.is_file() else "no such file")
    cues: list[Cue] = []
    for row in rows:
        text = " ".join(row.cells.get(text_column, "").split())
        start, end = (
            next((row.cells[name] for name in names if name in row.cells), None)
            for names in (START_COLUMNS, END_COLUMNS)
        )
        if not text:
            continue
        if start is None:
            cues.append(untimed(text))
        else:
            cues += checked_cues([(start, end, text)]).cues or (Cue(math.nan, math.nan, text),)
    refused = sum(math.isnan(cue.start_seconds) for cue in cues)
    kept = tuple(cue for cue in cues if not math.isnan(cue.start_seconds))
    problem = f"{refused} rows have times that cannot be" if refused and not kept else ""
    return Transcript(manifest.name, cues=kept, problem=problem, n_refused=refused)


def _is_path(cell: str) -> bool:
    return cell.lower().endswith(TRANSCRIPT_SUFFIXES) and "\n" not in cell and len(cell) < 1024


def _missing_files(manifest: Path, found: Mapping[str, Transcript]) -> list[str]:
    """Lines on paths that lead nowhere. Raises InputError where all do: the failure that once went by as empty text."""
    named = {i: each for i, each in found.items() if each.path is not None}
    missing = {i: each for i, each in named.items() if each.problem}
    if not missing:
        return []
    near = _near_files(list(missing.values()))
    names = shortened([each.called for each in missing.values()])
    told = f"{len(missing)} of {len(named)} transcripts that {manifest} names are not there: {names}"
    if len(missing) == len(found):
        raise InputError(
            "\n".join((f"--transcripts {told}; paths are read from the folder of the manifest", *near))
        )
    return [f"warning: {told}", *near]


def _near_files(missing: Sequence[Transcript]) -> list[str]:
    """Lines on files that are there and have nearly such a name, in the folder of the path or the one above."""
    lines: list[str] = []
    for each in missing[: 10 * NAMED_MISSES]:
        assert each.path is not None
        folder = next((parent for parent in each.path.parents if parent.is_dir()), None)
        if folder is None or len(lines) >= NAMED_MISSES:
            break
        names = {path.name: name for name, path in _below(folder)[:2000]}
        if near := difflib.get_close_matches(each.path.name, names, n=1, cutoff=0.6):
            lines.append(f"  near miss: {each.called!r} is not there, {str(folder / names[near[0]])!r} is")
    return lines


def _counted(
    given: Path, ids: Sequence[str], n_matched: int, unmatched: Sequence[str], how: str
) -> list[str]:
    """Lines: counts on both sides, what did not match, near misses. Raises InputError where nothing did."""
    near = _near(unmatched, ids)
    if not n_matched:
        told = f"--transcripts {given}: no transcript joins any video; they are such as {shortened(unmatched, limit=2)}"
        raise InputError("\n".join((f"{told}, videos such as {shortened(ids, limit=2)}", *near)))
    lines = [
        f"transcripts: {n_matched} of {len(ids)} videos matched in {given}, {len(ids) - n_matched} videos without a transcript, "
        f"{len(unmatched)} transcripts without a video",
        f"  {how}",
    ]
    if unmatched:
        lines.append(f"  transcripts without a video: {shortened(unmatched)}")
    return [*lines, *near]


def _near(keys: Sequence[str], ids: Sequence[str]) -> list[str]:
    return [f"  {line.replace('label', 'transcript', 1)}" for line in near_misses(list(keys), list(ids))]
