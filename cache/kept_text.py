"""Words that were read, beside a cache: only where their user asked for it (`--keep-text`), since they are personal data.

`<cache>.words.jsonl`, readable by its owner alone, a line a video and stream: {"id", "digest", "stream", "from", "cues"}, a cue
being [start_seconds, end_seconds, text]. Lines are written before the commit of their videos; of two lines for one video the last
counts, and a line that was cut off by a crash is dropped by the next writer.

What the words were read from goes with a cache as well, as digests and whether words are kept or not (`transcripts_path`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import CacheError, StorageFull
from cache.reader import open_cache
from cache.stores import files
from cache.stores.layout import TRANSCRIPTS_SUFFIX

SUFFIX = ".words.jsonl"


@dataclass(frozen=True, slots=True)
class KeptWords:
    """What one stream read of one video. cues: (start, end, text), seconds."""

    id: str
    digest: str
    stream: str
    came_from: str
    cues: tuple[tuple[float, float, str], ...] = field(repr=False)


def kept_text_path(cache: Path) -> Path:
    """Where the words of a cache lie, if they were kept."""
    return cache.with_name(f"{cache.name}{SUFFIX}")


def transcripts_path(cache: Path) -> Path:
    """Where it is noted which transcripts a cache's words were read from (`pipeline.sources.read_transcripts`)."""
    return cache.with_name(f"{cache.name}{TRANSCRIPTS_SUFFIX}")


def append_words(cache: Path, kept: Sequence[KeptWords]) -> None:
    """Add lines and wait until they are on the disk. Raises StorageFull, CacheError."""
    path = kept_text_path(cache)
    lines = "".join(
        json.dumps(
            {"id": k.id, "digest": k.digest, "stream": k.stream, "from": k.came_from, "cues": k.cues},
            ensure_ascii=False,
        )
        + "\n"
        for k in kept
    )
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            file.seek(_whole_bytes(path))
            file.truncate()
            file.write(lines.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in files.FULL:
            raise StorageFull(f"{path}: the disk is full; what was committed before is intact") from error
        raise CacheError(f"{path}: cannot be written: {error.strerror or error}") from error


def _whole_bytes(path: Path) -> int:
    """Length up to the last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - (1 << 16))
            file.seek(begin)
            at = file.read(end - begin).rfind(b"\n")
            if at >= 0:
                return begin + at + 1
            end = begin
    return 0


def read_words(cache: Path) -> list[KeptWords]:
    """The last line of each video and stream; empty where none were kept. Raises CacheError for a file of another make."""
    path = kept_text_path(cache)
    if not path.exists():
        return []
    found: dict[tuple[str, str], KeptWords] = {}
    try:
        text = path.read_bytes()[: _whole_bytes(path)].decode("utf-8")
        for line in filter(None, text.split("\n")):
            held = json.loads(line)
            cues = tuple((float(start), float(end), str(words)) for start, end, words in held["cues"])
            one = KeptWords(
                str(held["id"]), str(held["digest"]), str(held["stream"]), str(held["from"]), cues
            )
            found[one.id, one.stream] = one
    except OSError as error:
        raise CacheError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        raise CacheError(f"{path}: is not what --keep-text writes; move it away") from None
    return list(found.values())


@contextlib.contextmanager
def words_along(sources: Sequence[Path], target: Path, *, contents: Path) -> Iterator[None]:
    """Within it a cache is put at `target`: the words beside `sources` go along, as far as they are of videos in `contents`, and
    so does what is noted of the transcripts of their videos.

    A new cache has them before it has its name, since its command cannot be repeated after that. One that is replaced keeps its
    own until then. Where the sources have none, neither has the target. Raises StorageFull, CacheError.
    """
    unfinished = target.with_name(f"{target.name}.taking")
    with files.storage_errors(target):
        for place_of in BESIDE:
            files.remove_file(place_of(unfinished))
        if any(kept_text_path(source).exists() for source in sources):
            with open_cache(contents) as cache:
                held = set(zip(map(str, cache.videos.id), map(str, cache.videos.digest), strict=True))
            for source in sources:
                append_words(unfinished, [one for one in read_words(source) if (one.id, one.digest) in held])
        for source in sources:
            _copy_notes(source, unfinished)
    replaced = target.exists()
    if not replaced:
        _put_words(unfinished, target)
    yield
    if replaced:
        _put_words(unfinished, target)


def _copy_notes(source: Path, unfinished: Path) -> None:
    """The last whole line of each video that `source` holds, behind those that are there already."""
    if not transcripts_path(source).exists():
        return
    with open_cache(source) as cache:
        held = set(map(str, cache.videos.id))
    lines: dict[str, str] = {}
    for line in transcripts_path(source).read_text("utf-8", "replace").split("\n"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            lines[str(json.loads(line)["id"])] = line
    with transcripts_path(unfinished).open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for video_id, line in lines.items() if video_id in held)


def _put_words(unfinished: Path, target: Path) -> None:
    with files.storage_errors(target):
        for place_of in BESIDE:
            if place_of(unfinished).exists():
                files.rename(place_of(unfinished), place_of(target))
            else:
                files.remove_file(place_of(target))


BESIDE = (kept_text_path, transcripts_path)
