"""Which transcripts a cache's words were read from, beside it: so that one that changes is read again.

`<cache>.transcripts.jsonl`, a line a video: {"id", "stamp", "digest"}: size and time of change of the file (empty for rows of a
manifest), and a digest of its bytes, or of the rows' cues. Lines are written before their videos are read, the last one counts,
and one that was cut off is dropped. Without the file nothing is known, and nothing is read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from cache.kept_text import transcripts_path
from cache.stores import files
from pipeline.decoding.words import Transcript
from pipeline.sources.tree import Source


def note_transcripts(cache: Path, sources: Iterable[Source]) -> None:
    """Keep what the words of these videos are about to be read from. Raises StorageFull, CacheError."""
    lines = []
    for source in sources:
        if source.transcript is not None and (digest := _digest(source.transcript)):
            lines.append(
                json.dumps({"id": source.id, "stamp": _stamp(source.transcript), "digest": digest}) + "\n"
            )
    if lines:
        with files.storage_errors(cache), transcripts_path(cache).open("a", encoding="utf-8") as file:
            file.write("".join(("\n", *lines)))  # what was cut off before ends here


def changed_since(cache: Path, sources: Iterable[Source]) -> set[str]:
    """Ids of videos whose transcript is another by now. A file of the same size and time is taken for the same."""
    known: dict[str, tuple[str, str]] = {}
    if transcripts_path(cache).exists():
        with files.storage_errors(cache):
            for line in transcripts_path(cache).read_text("utf-8", "replace").split("\n"):
                try:
                    held = json.loads(line)
                    known[str(held["id"])] = (str(held["stamp"]), str(held["digest"]))
                except (ValueError, KeyError, TypeError):
                    continue
    found = set()
    for source in sources:
        if source.transcript is not None and source.id in known:
            stamp, digest = known[source.id]
            now = _stamp(source.transcript)
            if not (stamp and now == stamp) and _digest(source.transcript) not in ("", digest):
                found.add(source.id)
    return found


def _stamp(transcript: Transcript) -> str:
    try:
        found = transcript.path.stat() if transcript.path is not None else None
        return f"{found.st_size} {found.st_mtime_ns}" if found else ""
    except OSError:
        return ""


def _digest(transcript: Transcript) -> str:
    """Of the bytes, or of the cues of a manifest; empty where they cannot be read: that is said when they are."""
    try:
        data = transcript.path.read_bytes() if transcript.path is not None else _cues(transcript)
    except OSError:
        return ""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _cues(transcript: Transcript) -> bytes:
    cues = [(cue.start_seconds, cue.end_seconds, cue.text) for cue in transcript.cues]
    return json.dumps(cues).encode()
