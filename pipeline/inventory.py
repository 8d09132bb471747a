"""What is there to do: every source against what the cache already knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cache.schema import UNKNOWN_LABEL, KnownInput, VideoLabel
from pipeline.assembly import Input
from pipeline.source_tree import Source

NO_FILE = (0, 0)


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every source is in exactly one of work, stored and rejected.

    `gone` are ids of the cache whose file the source no longer holds: it is not listed, or stands in a manifest and cannot be
    found. What is stored of them stays.
    """

    work: tuple[Input, ...]
    stored: tuple[str, ...]
    rejected: tuple[str, ...]
    gone: tuple[str, ...]

    @property
    def n_found(self) -> int:
        """Number of inputs found."""
        return len(self.work) + len(self.stored) + len(self.rejected)


def take_inventory(
    sources: Sequence[Source],
    labels: Mapping[str, VideoLabel],
    known: Mapping[str, KnownInput],
    *,
    retry_rejects: bool,
    redo: Collection[str] = (),
) -> Inventory:
    """Sort sources into work and known. A file whose size or time of change differs is work, with the digest it had:

    if the digest is still the same, the worker says so and nothing is extracted. `redo`: ids to extract again in any case.
    """
    work: list[Input] = []
    stored: list[str] = []
    rejected: list[str] = []
    lost: list[str] = []
    for source in sources:
        size_bytes, mtime_ns = _stamp(source)
        before = known.get(source.id)
        if before is not None and before.state == "stored" and (size_bytes, mtime_ns) == NO_FILE:
            stored.append(source.id)  # an unmounted disk must not cost features that are there
            lost.append(source.id)
            continue
        same = before is not None and (before.size_bytes, before.mtime_ns) == (size_bytes, mtime_ns)
        if before is not None and source.id in redo:
            label = labels.get(source.id, VideoLabel(UNKNOWN_LABEL, ""))
            work.append(Input(source, label, size_bytes, mtime_ns))
        elif before is not None and same and before.state == "stored":
            stored.append(source.id)
        elif before is not None and same and not retry_rejects:
            rejected.append(source.id)
        else:
            keep = before is not None and before.state == "stored"
            digest = before.digest if before is not None and keep else ""
            label = labels.get(source.id, VideoLabel(UNKNOWN_LABEL, ""))
            work.append(Input(source, label, size_bytes, mtime_ns, known_digest=digest))
    ids = {source.id for source in sources}
    gone = sorted({*(known.keys() - ids), *lost})
    return Inventory(tuple(work), tuple(stored), tuple(rejected), tuple(gone))


def _stamp(source: Source) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds; zeros where the file cannot be looked at (the worker says why)."""
    try:
        status = source.path.stat()
    except OSError:
        return NO_FILE
    return status.st_size, status.st_mtime_ns
