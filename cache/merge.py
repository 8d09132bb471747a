"""Joining the parts that several machines wrote into one cache.

What is merged grows beside the target, commit by commit, so that a killed merge goes on where it stood; the target appears
complete or not at all. Nothing is averaged, dropped or taken twice: every id of every part is accounted for, or the merge ends
with an error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.check import values_digest
from cache.convert import require_replaceable, write_copy
from cache.errors import CacheError
from cache.fingerprint import is_imported
from cache.kept_text import words_along
from cache.lock import CacheLock
from cache.objects.address import require_local
from cache.reader import Cache, open_cache
from cache.schema import REJECT_COLUMNS, VIDEO_COLUMNS, Reject, VideoFeatures, is_passing
from cache.stores import files
from cache.stores.compatible import require_compatible
from cache.stores.open import cache_format
from cache.writer import CacheWriter

SHARD = "shard"
"""Key of a part's provenance: {"index": 2, "of": 7, "plan": "", "found": 31, "finished": true}."""
MERGED = "merged"
"""Key of a merged cache's provenance: {"parts": 7, "of": a digest of their states}."""
MERGING_SUFFIX = ".merging.zarr"
BATCH_VIDEOS = 1024
BATCH_BYTES = 64 << 20
"""Of one commit, which may take from many parts: a commit waits for the disk 25 times, whatever it holds."""
FEW = 3


@dataclass(frozen=True, slots=True)
class Merged:
    """Counts: of parts, stored videos, rejects, ids that two parts held alike, and rejects of passing trouble."""

    n_parts: int
    n_videos: int
    n_rejects: int
    n_twice: int
    n_passing: int


def merge(
    parts: Sequence[str | Path],
    target: str | Path,
    *,
    listed: Collection[str] | None = None,
    overwrite: bool = False,
    ignore_libraries: bool = False,
) -> Merged:
    """Write all that `parts` hold to a new cache `target`; the suffixes choose the formats.

    listed: ids of all inputs of the source; each must be stored or rejected in a part, and no other may be. Raises CacheError
    where a shard is missing or unfinished, where a part is given twice, where an id stands in two parts with other contents,
    where parts do not belong together (FingerprintMismatch names the fields), where the target exists, and StorageFull, after
    which the same command goes on.
    """
    paths = [Path(part) for part in parts]
    require_local(target)
    target = Path(target).resolve()
    staging = target.with_name(f"{target.name}{MERGING_SUFFIX}")
    places = {path.resolve() for path in paths}
    if len(places) != len(paths) or target in places or staging in places:
        raise CacheError(
            "a part is given twice, or is the cache to write: give each part once and another --out"
        )
    if inside := [place for place in places if place in target.parents]:
        raise CacheError(f"{target} lies inside the part {inside[0]}: give another --out")
    opened = [open_cache(path) for path in paths]
    try:
        for other in opened[1:]:
            require_compatible(opened[0].stores[0], other.stores[0], ignore_libraries=ignore_libraries)
        _require_all_shards(opened)
        twice = _require_distinct(opened)
        if listed is not None:
            _require_listed(opened, set(listed))
        with files.storage_errors(target):
            files.make_directory(target.parent)
        lock = CacheLock(target)
        try:
            require_replaceable(target, overwrite)
            _fill(staging, opened, twice)
            adopt_digests(staging)
            with words_along(paths, target, contents=staging):
                publish(staging, target, fence=lock.fence)
        finally:
            lock.release()
        n_videos = len({str(i) for cache in opened for i in cache.videos.id})
        n_rejects = len({str(i) for cache in opened for i in cache.rejects.id})
        n_passing = sum(map(_count_passing, opened))
    finally:
        for cache in opened:
            cache.close()
    return Merged(len(paths), n_videos, n_rejects, sum(len(ids) for ids in twice), n_passing)


def _count_passing(cache: Cache) -> int:
    rejects = map(cache.rejects.row, range(len(cache.rejects)))
    return sum(is_passing(reject.reason, reject.digest) for reject in rejects)


def _require_all_shards(opened: Sequence[Cache]) -> None:
    """Raise CacheError unless the parts are no shards at all, or all shards of one split, each at its end."""
    said = [cache.provenance.get(SHARD) for cache in opened]
    if not any(said):
        return
    if bare := [cache.names[0] for cache, shard in zip(opened, said, strict=True) if not shard]:
        raise CacheError(f"{bare[0]} is no shard, the other parts are: merge shards of one source only")
    splits = {(int(shard["of"]), str(shard["plan"])) for shard in said if shard}
    if len(splits) > 1:
        found = ", ".join(f"{Path(cache.names[0]).name} is {_name(cache)}" for cache in opened[:FEW])
        raise CacheError(
            f"the parts are shards of different splits ({found}): merge those of one --shard I/N and one --plan"
        )
    there = {int(shard["index"]) for shard in said if shard}
    of = splits.pop()[0]
    if missing := [f"{place}/{of}" for place in range(1, of + 1) if place not in there]:
        raise CacheError(
            f"{len(missing)} of {of} shards are missing: {_few(missing)}; extract them, or name their parts"
        )
    for cache in opened:
        shard = cache.provenance[SHARD]
        if not shard["finished"]:
            ended = len(cache) + len(cache.rejects)
            raise CacheError(
                f"{cache.names[0]} (shard {_name(cache)}) is not finished: {ended} of {shard['found']} inputs have ended; "
                "run its extract again"
            )


def _name(cache: Cache) -> str:
    shard = cache.provenance[SHARD]
    return f"{shard['index']}/{shard['of']}"


def _require_distinct(opened: Sequence[Cache]) -> list[set[str]]:
    """For each part, ids that an earlier one holds with the same contents. Raises CacheError where the contents differ."""
    holder: dict[str, tuple[int, int]] = {}
    twice: list[set[str]] = []
    for number, cache in enumerate(opened):
        again = {}
        n_videos = len(cache)
        ids = (*cache.videos.id, *cache.rejects.id)
        for row, video_id in enumerate(map(str, ids)):
            first = holder.setdefault(video_id, (number, row))
            if first[0] != number:
                again[video_id] = (*first, row)
        for video_id, (first_part, first_row, row) in sorted(again.items()):
            other = opened[first_part]
            both_stored = first_row < len(other) and row < n_videos
            both_refused = first_row >= len(other) and row >= n_videos
            if not (
                (both_stored and _same_video(other, first_row, cache, row))
                or (
                    both_refused
                    and other.rejects.row(first_row - len(other)) == cache.rejects.row(row - n_videos)
                )
            ):
                raise CacheError(
                    f"{video_id} stands in {other.names[0]} and, with other contents, in {cache.names[0]}: leave one of them "
                    "out, or extract both from the same files"
                )
        twice.append(set(again))
    return twice


def _same_video(one: Cache, a: int, other: Cache, b: int) -> bool:
    if one.videos.row(a) != other.videos.row(b):
        return False
    if any(one.absent(name)[a] != other.absent(name)[b] for name in one.streams):
        return False
    pairs = [(one.tokens(name, a), other.tokens(name, b)) for name in one.streams]
    return all(np.array_equal(x.values, y.values) and np.array_equal(x.spans, y.spans) for x, y in pairs)


def _require_listed(opened: Sequence[Cache], listed: set[str]) -> None:
    held = {str(i) for cache in opened for table in (cache.videos, cache.rejects) for i in table.id}
    if lacking := sorted(listed - held):
        raise CacheError(
            f"{len(lacking)} of {len(listed)} inputs of the source are in no part: {_few(lacking)}; extract them, "
            "then merge again"
        )
    if extra := sorted(held - listed):
        raise CacheError(
            f"{len(extra)} inputs of the parts are not in the source: {_few(extra)}; give the source of all parts"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")


def _fill(staging: Path, opened: Sequence[Cache], twice: Sequence[set[str]]) -> None:
    """Bring the growing cache up to all of the parts."""
    identity = _identity(opened)
    if staging.exists():
        try:
            with open_cache(staging) as begun:
                said = begun.provenance.get(MERGED, {}).get("of")
        except CacheError as error:
            raise CacheError(f"{error}; it is in the way of this merge: remove it") from error
        if said is None:
            raise CacheError(
                f"{staging} is a cache of its own, and in the way of this merge: move it elsewhere"
            )
        if said != identity:  # of other parts, or of these in an earlier state
            with files.storage_errors(staging):
                files.remove_tree(staging)
    first = opened[0]
    names = next((cache.label_names for cache in opened if cache.label_names), None)
    provenance: dict[str, Any] = {
        key: value for key, value in first.provenance.items() if key not in (SHARD, MERGED)
    }
    with CacheWriter.open(
        staging,
        streams=first.specs,
        dataset=" + ".join(dict.fromkeys(cache.dataset for cache in opened)),
        label_names=names,
        provenance=provenance | {MERGED: {"parts": len(opened), "of": identity}},
    ) as writer:
        for videos, rejects in _batches(opened, twice, writer.known()):
            writer.commit(videos, rejects)


def _identity(opened: Sequence[Cache]) -> str:
    """Names what is merged: the committed states of the parts, and all that they say of their videos and rejects."""
    found = hashlib.blake2b(digest_size=16)
    for cache in opened:
        attributes = cache.stores[0].attributes
        states = [
            str(cache.paths[0].resolve()),
            attributes.to_json(cache.specs),
            len(cache),
            len(cache.rejects),
        ]
        found.update(json.dumps(states, sort_keys=True).encode())
        for name in VIDEO_COLUMNS:
            found.update(json.dumps(cache.videos.column(name).tolist()).encode())
        for name in REJECT_COLUMNS:
            found.update(json.dumps(cache.rejects.column(name).tolist()).encode())
    return found.hexdigest()


def _batches(
    opened: Sequence[Cache], twice: Sequence[set[str]], known: Collection[str]
) -> Iterator[tuple[list[VideoFeatures], list[Reject]]]:
    """What `known` lacks, part by part in store order; what follows a commit must not be asked for before it."""
    videos: list[VideoFeatures] = []
    rejects: list[Reject] = []
    held = 0
    for cache, again in zip(opened, twice, strict=True):
        sizes = np.zeros(len(cache), dtype=np.int64)
        for name, info in cache.streams.items():
            sizes += np.diff(cache.offsets(name)) * (info.dim * np.dtype(info.dtype).itemsize)
        wanted: list[int] = []
        for index, video_id in enumerate(map(str, cache.videos.id)):
            if video_id in known or video_id in again:
                continue
            full = len(videos) + len(wanted) == BATCH_VIDEOS or held + int(sizes[index]) > BATCH_BYTES
            if full and (videos or wanted):
                yield videos + _read(cache, wanted), rejects
                videos, rejects, wanted, held = [], [], [], 0
            wanted.append(index)
            held += int(sizes[index])
        videos += _read(cache, wanted)
        rows = (cache.rejects.row(index) for index in range(len(cache.rejects)))
        rejects += [row for row in rows if row.id not in known and row.id not in again]
        if len(rejects) >= BATCH_VIDEOS:
            yield videos, rejects
            videos, rejects, held = [], [], 0
    yield videos, rejects


def _read(cache: Cache, indices: Sequence[int]) -> list[VideoFeatures]:
    tokens = {name: cache.read(name, indices) for name in cache.streams}
    absent = {name: cache.absent(name) for name in cache.streams}
    return [
        VideoFeatures(
            cache.videos.row(index),
            {name: found[place] for name, found in tokens.items() if not absent[name][index]},
            {name: str(why[index]) for name, why in absent.items() if why[index]},
        )
        for place, index in enumerate(indices)
    ]


def adopt_digests(path: Path) -> None:
    """Write the digests of the values that are there into the fingerprints of imported streams."""
    with open_cache(path) as cache:
        found = {
            spec.name: {
                **spec.fingerprint,
                "weights": {**spec.fingerprint["weights"], "digest": values_digest(cache, spec.name)},
            }
            if is_imported(spec.fingerprint)
            else spec.fingerprint
            for spec in cache.specs
        }
        if all(found[spec.name] == spec.fingerprint for spec in cache.specs):
            return
    with CacheWriter.reopen(path) as writer:
        writer.adopt_fingerprints(found)


def publish(staging: Path, target: Path, *, fence: files.Fence) -> None:
    """Put the finished cache `staging` (.zarr) at `target`, in the place of what is there, for whoever holds its lock."""
    with files.storage_errors(target):
        if cache_format(target) == "zarr" and not target.exists():
            files.put(staging, target, fence)
            files.sync([target.parent])
        else:
            write_copy(staging, target, fence=fence)
            files.remove_tree(staging)
        for suffix in (".lock", ".lock.json"):
            files.remove_file(staging.with_name(staging.name + suffix))


def shard_provenance(index: int, of: int, *, plan: str, found: int, finished: bool) -> Mapping[str, Any]:
    """What a part says of itself. plan: digest of the plan file, or empty. found: inputs of this shard. finished: all ended."""
    return {SHARD: {"index": index, "of": of, "plan": plan, "found": found, "finished": finished}}
