"""Inputs with the same bytes, found before anything is decoded: what is kept must not depend on which decode ends first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from cache.objects.store import ObjectTrouble
from cache.schema import KnownInput
from pipeline.decoding.remote_file import object_digest
from pipeline.decoding.worker import file_digest
from pipeline.sources.inventory import Input


def firsts_and_twins(work: Sequence[Input]) -> tuple[list[Input], list[Input]]:
    """The first input of every content in the order given, and the later ones. Only files of one size are read.

    A file that cannot be read is a first: its decode says why.
    """
    sizes = Counter(item.size_bytes for item in work)
    seen: set[str] = set()
    firsts: list[Input] = []
    twins: list[Input] = []
    for item in work:
        digest = _digest(item) if item.size_bytes and sizes[item.size_bytes] > 1 else ""
        (twins if digest and digest in seen else firsts).append(item)
        seen.add(digest)
    return firsts, twins


def stored_contents(known: Mapping[str, KnownInput], work: Sequence[Input]) -> dict[str, str]:
    """Digest to id of what stands in the cache, without stored videos whose file holds other bytes by now or whose digest
    is unknown.

    Only files whose size or time changed are read. One that cannot be read keeps its place, as it keeps its features.
    """
    changed = set()
    for item in work:
        entry = known.get(item.source.id)
        if entry is None or (entry.size_bytes, entry.mtime_ns) == (item.size_bytes, item.mtime_ns):
            continue
        if _digest(item) not in ("", entry.digest):
            changed.add(item.source.id)
    return {e.digest: i for i, e in known.items() if e.state == "stored" and e.digest and i not in changed}


def _digest(item: Input) -> str:
    try:
        if item.source.remote is not None:
            return object_digest(item.source.remote)
        return file_digest(str(item.source.path))
    except (OSError, ObjectTrouble):
        return ""
