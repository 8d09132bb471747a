"""What is there to do: every source against what the cache already knows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cache.schema import UNKNOWN_LABEL, KnownInput, VideoLabel
from pipeline.decoding.trouble import has_odd_time, stamp_of
from pipeline.sources.remote import looked_at
from pipeline.sources.tree import Source

NO_FILE = (0, 0)
"""What stands for size and time of a file that cannot be looked at."""


@dataclass(frozen=True, slots=True)
class Input:
    """One file to extract: its source, its label, and its size and time of change when it was listed."""

    source: Source
    label: VideoLabel
    size_bytes: int
    mtime_ns: int
    known_digest: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every source is in exactly one of work, stored and rejected.

    `retried`: the reasons of those in work that were rejected for passing trouble, with their numbers. `odd_times`: ids of files
    with an impossible time of change. `gone`: ids of the cache whose file the source no longer holds: it is not listed, or stands
    in a manifest and cannot be found. What is stored of them stays. `listed`: folders that could not be listed and were
    rejected, and that can be by now.
    """

    work: tuple[Input, ...]
    stored: tuple[str, ...]
    rejected: tuple[str, ...]
    gone: tuple[str, ...]
    retried: Mapping[str, int] = field(default_factory=dict)
    odd_times: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()

    @property
    def n_found(self) -> int:
        """Number of inputs found."""
        return len(self.work) + len(self.stored) + len(self.rejected)

    def lines(self) -> list[str]:
        """For the user: what is tried again without being asked, and whose time of change cannot be right."""
        lines = []
        if count := sum(self.retried.values()):
            reasons = ", ".join(f"{reason} {n}" for reason, n in self.retried.items())
            lines.append(f"retrying {count} reject{'s' * (count != 1)} of passing trouble: {reasons}")
        if count := len(self.odd_times):
            lines.append(
                f"note: {count} file{'s are' if count != 1 else ' is'} dated outside 1677 to 2262, such as "
                f"{self.odd_times[0]}: check the clock that set it; the features do not depend on it"
            )
        return lines


def take_inventory(
    sources: Sequence[Source],
    labels: Mapping[str, VideoLabel],
    known: Mapping[str, KnownInput],
    *,
    retry_rejects: bool,
    redo: Collection[str] = (),
) -> Inventory:
    """Sort sources into work and known. A file whose size or time of change differs is work, with the digest it had:

    if the digest is still the same, the worker says so and nothing is extracted. A reject of passing trouble is always work.
    `redo`: stored ids to extract again in any case.
    """
    work: list[Input] = []
    stored: list[str] = []
    rejected: list[str] = []
    lost: list[str] = []
    odd_times: list[str] = []
    retried: Counter[str] = Counter()
    for source in _seen(sources):
        status = None if source.remote else _status(source)
        stamp = source.remote.stamp if source.remote else None if status is None else stamp_of(status)
        if status is not None and has_odd_time(status):
            odd_times.append(source.id)
        before = known.get(source.id)
        held = before is not None and before.state == "stored"
        if held and stamp is None:
            stored.append(source.id)  # an unmounted disk must not cost features that are there
            lost.append(source.id)
            continue
        same = before is not None and (before.size_bytes, before.mtime_ns) == stamp
        if held and source.id in redo:
            label = labels.get(source.id, VideoLabel(UNKNOWN_LABEL, ""))
            work.append(Input(source, label, *(stamp or NO_FILE)))
        elif held and same:
            stored.append(source.id)
        elif before is not None and same and not retry_rejects and not before.passing:
            rejected.append(source.id)
        else:
            if before is not None and before.passing:
                retried[before.reason] += 1
            digest = before.digest if before is not None and held else ""
            label = labels.get(source.id, VideoLabel(UNKNOWN_LABEL, ""))
            work.append(Input(source, label, *(stamp or NO_FILE), known_digest=digest))
    ids = {source.id for source in sources}
    absent = known.keys() - ids
    refused = {video_id for video_id in absent if known[video_id].passing}
    listed = refused & _folders(ids) if refused else set()
    gone = sorted({*(absent - listed), *lost})
    return Inventory(
        tuple(work),
        tuple(stored),
        tuple(rejected),
        tuple(gone),
        retried=dict(retried.most_common()),
        odd_times=tuple(odd_times),
        listed=tuple(sorted(listed)),
    )


def _folders(ids: Iterable[str]) -> set[str]:
    """Every folder above an id."""
    found: set[str] = set()
    for video_id in ids:
        folder = video_id.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _seen(sources: Sequence[Source]) -> Sequence[Source]:
    """The same with what is known of objects that only a manifest names. Raises SourceError."""
    unseen = {s.id: s.remote for s in sources if s.remote is not None and s.remote.seen is None}
    if not unseen:
        return sources
    seen = dict(zip(unseen, looked_at(list(unseen.values())), strict=True))
    return [replace(source, remote=seen[source.id]) if source.id in seen else source for source in sources]


def _status(source: Source) -> os.stat_result | None:
    """None where the file cannot be looked at (the worker says why)."""
    try:
        return source.path.stat()
    except OSError:
        return None
