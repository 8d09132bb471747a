"""`onepass sweep`: the objects of an address that its commit record does not name are removed.

Every publish replaces the ends of the arrays, and writers that lost or were killed leave what they sent. Safe while nobody
writes or fetches there: the record and what is removed must have been left alone for some hours by the store's own clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from cache.errors import CacheCorrupt, CacheLocked, CacheNotFound
from cache.objects.bucket import Bucket
from cache.objects.record import RECORD_NAME, CommitRecord, object_name

OLDER_THAN_HOURS = 24.0
REMOVED_AT_A_TIME = 1000


@dataclass(frozen=True, slots=True)
class Swept:
    """Objects by what became of them. removed: those that would be, where nothing was to be changed."""

    sequence: int
    kept: int
    removed: int
    removed_bytes: int
    young: int


def sweep(url: str, *, older_than_hours: float = OLDER_THAN_HOURS, dry_run: bool = False) -> Swept:
    """Remove what the record at `url` does not name and nobody has written for `older_than_hours`.

    dry_run: only count, by this machine's clock. Raises CacheNotFound where there is no record, CacheLocked where it is
    younger, CacheCorrupt where an object that it names is missing (nothing is removed then) or another writer came meanwhile,
    and ObjectTrouble.
    """
    bucket = Bucket(url, make=False)
    before = bucket.read_record()
    if before is None:
        raise CacheNotFound(f"{bucket.url}: no {RECORD_NAME} is there, so no cache")
    where = f"{bucket.url}/{RECORD_NAME}"
    record = CommitRecord.from_bytes(before[0], where=where)
    named = {object_name(piece) for file in record.files for piece in file.pieces}
    now_ns = time.time_ns() if dry_run else bucket.clock_ns()
    youngest_ns = now_ns - int(older_than_hours * 3600e9)
    written_ns = bucket.written_ns(RECORD_NAME)
    if written_ns > youngest_ns:
        hours = (now_ns - written_ns) / 3600e9
        raise CacheLocked(
            f"{where}: was written {hours:.1f} h ago by {record.host}, and a run may be at work there; sweep when it has been "
            f"left alone for {older_than_hours:g} h, or say --older-than where you know that nobody writes or reads there"
        )
    found = {one.key: one for one in bucket.list_objects()}
    if missing := sorted(named - found.keys()):
        raise CacheCorrupt(
            f"{bucket.url}: {len(missing)} objects that its record names are missing ({missing[0]}): nothing was removed"
        )
    loose = [one for name, one in found.items() if name not in named]
    old = [one for one in loose if one.mtime_ns <= youngest_ns]
    if not dry_run:
        for start in range(0, len(old), REMOVED_AT_A_TIME):
            batch = {one.key for one in old[start : start + REMOVED_AT_A_TIME]}
            still = [
                one.key for one in bucket.list_objects() if one.key in batch and one.mtime_ns <= youngest_ns
            ]  # another writer may have put one again
            _require_same(bucket, before[1])
            bucket.remove(still)
        _require_same(bucket, before[1])
    return Swept(
        record.sequence, len(named), len(old), sum(one.size_bytes for one in old), len(loose) - len(old)
    )


def _require_same(bucket: Bucket, etag: str) -> None:
    found = bucket.read_record()
    if found is None or found[1] != etag:
        raise CacheCorrupt(
            f"{bucket.url}: another writer published while it was swept, and may lack an object that was removed: run what "
            "published again, on the machine that has its working copy"
        )
