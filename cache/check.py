"""Checking a whole cache: structure, finiteness, constant tokens. Reads everything once, in bounded
memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheCorrupt
from cache.fingerprint import is_imported
from cache.reader import BLOCK_BYTES, Cache
from cache.schema import REJECT_REASONS, UNKNOWN_LABEL, all_finite
from cache.stores.compatible import read_offsets
from cache.stores.layout import StoreReader

EXAMPLES = 5
"""A problem that many videos share is reported once, with its count and this many ids."""

SPAN_TOLERANCE_SECONDS = 1e-3
"""Spans may pass the duration by this and by one millionth of it: they are float32, the duration is
float64.
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a cache that contradicts the format. where: the array or stream; what: the finding."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def check_cache(cache: Cache, *, block_bytes: int = BLOCK_BYTES) -> list[Problem]:
    """Everything that is wrong with a cache; an empty list if nothing is.

    Holds about `block_bytes` of tokens at a time. A cache whose metadata or columns contradict each other
    does not even open: `open_cache` raises `CacheCorrupt`.
    """
    problems: list[Problem] = []
    for store in cache.stores:
        problems += _guarded(str(store.path), _check_superseded(store))
        for stream in store.streams:
            problems += _guarded(f"{store.path}: streams/{stream}", _check_offsets(store, stream))
    if problems:
        return problems  # live rows cannot be told before these are mended
    problems += _guarded("videos", _check_rows(cache))
    problems += _guarded("rejects", _check_rejects(cache))
    for stream in cache.streams:
        problems += _guarded(f"streams/{stream}", _check_tokens(cache, stream, block_bytes))
        problems += _guarded(f"streams/{stream}", _check_imported(cache, stream))
    return problems


def values_digest(cache: Cache, stream: str) -> str:
    """`blake2b:<hex>` over id, dtype, shape, values and spans of every video, whatever the store's order or format."""
    found: list[tuple[str, bytes]] = []
    for index, video_id in enumerate(cache.videos.id.tolist()):
        tokens = cache.tokens(stream, index)
        of_video = hashlib.blake2b(f"{tokens.values.dtype} {tokens.values.shape}|".encode())
        of_video.update(np.ascontiguousarray(tokens.values).data)
        of_video.update(np.ascontiguousarray(tokens.spans).data)
        found.append((video_id, of_video.digest()))
    whole = hashlib.blake2b(digest_size=32)
    for video_id, digest in sorted(found):
        whole.update(f"{video_id}\0".encode() + digest)
    return f"blake2b:{whole.hexdigest()}"


def _guarded(where: str, findings: Iterator[Problem]) -> list[Problem]:
    """Collect findings up to the first part that cannot be read at all, which is a finding too."""
    found: list[Problem] = []
    try:
        found.extend(findings)
    except CacheCorrupt as error:
        found.append(Problem(where, str(error)))
    return found


def _check_superseded(store: StoreReader) -> Iterator[Problem]:
    for group, rows in (
        ("videos", store.attributes.superseded_videos),
        ("rejects", store.attributes.superseded_rejects),
    ):
        if len(set(rows)) != len(rows):
            yield Problem(f"{store.path}: superseded_{group}", "names a row twice")


def _check_offsets(store: StoreReader, stream: str) -> Iterator[Problem]:
    offsets = read_offsets(store, stream)
    live = np.ones(len(offsets) - 1, dtype=bool)
    live[list(store.attributes.superseded_videos)] = False
    here = np.diff(offsets) > 0
    absent = np.zeros(len(live), dtype=bool)
    if store.streams[stream].optional:
        absent = store.read(f"streams/{stream}/absent", 0, len(live)) != ""
    for what, wrong in (
        ("videos without a token", ~here & ~absent),
        ("videos with tokens that are said to be absent", here & absent),
    ):
        if (rows := np.flatnonzero(live & wrong)).size:
            ids = store.read("videos/id", 0, len(live))[rows]
            yield Problem(f"{store.path}: streams/{stream}", _listed(what, ids))


def _check_rows(cache: Cache) -> Iterator[Problem]:
    videos = cache.videos
    ids = videos.id
    twice = [video_id for video_id, count in Counter(ids.tolist()).items() if count > 1]
    if twice:
        yield Problem("videos/id", _listed("ids that occur twice", twice))
    both = sorted(set(ids.tolist()) & set(cache.rejects.id.tolist()))
    if both:
        yield Problem("videos/id", _listed("ids both stored and rejected", both))
    labels = videos.label
    wrong = ~np.isin(labels, (UNKNOWN_LABEL, 0, 1))
    if wrong.any():
        yield Problem("videos/label", _listed("labels other than 1, 0, -1", ids[wrong]))
    for name in ("duration_seconds", "fps", "width", "height", "n_frames", "size_bytes"):
        column = videos.column(name)
        wrong = ~np.isfinite(column) | (column < 0)
        if wrong.any():
            yield Problem(f"videos/{name}", _listed("values negative or not finite", ids[wrong]))


def _check_rejects(cache: Cache) -> Iterator[Problem]:
    ids = cache.rejects.id.tolist()
    twice = [video_id for video_id, count in Counter(ids).items() if count > 1]
    if twice:
        yield Problem("rejects/id", _listed("ids that occur twice", twice))
    for reason in cache.rejects.counts():
        if reason not in REJECT_REASONS:
            yield Problem("rejects/reason", f"unknown reason {reason!r}")


def _check_tokens(cache: Cache, stream: str, block_bytes: int) -> Iterator[Problem]:
    offsets = cache.offsets(stream)
    durations = cache.videos.duration_seconds
    decoded = cache.videos.n_frames > 0  # else the duration is no more than what imported spans said
    kinds = {
        "values": ("NaN or infinity", set[int]()),
        "constant": ("constant token vectors", set[int]()),
        "bounds": ("spans not finite or with start after end", set[int]()),
        "order": ("spans out of order", set[int]()),
        "duration": ("spans outside the video's duration", set[int]()),
    }
    previous_video, previous_start = -1, np.float32(0)
    for first, values, spans in cache.iter_rows(stream, block_bytes=block_bytes):
        videos = np.searchsorted(offsets, np.arange(first, first + len(values)), side="right") - 1
        if not all_finite(values):
            kinds["values"][1].update(videos[~np.isfinite(values).all(axis=1)].tolist())
        if values.shape[1] > 1:
            kinds["constant"][1].update(videos[constant_rows(values)].tolist())
        start, end = spans[:, 0], spans[:, 1]
        kinds["bounds"][1].update(videos[~(np.isfinite(spans).all(axis=1) & (start <= end))].tolist())
        before = np.concatenate([[previous_start], start[:-1]])
        same = videos == np.concatenate([[previous_video], videos[:-1]])
        kinds["order"][1].update(videos[same & (start < before)].tolist())
        slack = SPAN_TOLERANCE_SECONDS + durations[videos] * 1e-6
        outside = decoded[videos] & ((start < -slack) | (end > durations[videos] + slack))
        kinds["duration"][1].update(videos[outside].tolist())
        previous_video, previous_start = int(videos[-1]), start[-1]
    for what, found in kinds.values():
        if found:
            yield Problem(f"streams/{stream}", _listed(what, cache.videos.id[sorted(found)]))


def _check_imported(cache: Cache, stream: str) -> Iterator[Problem]:
    fields = cache.streams[stream].fingerprint
    if len(cache.stores) == 1 and is_imported(fields):
        stored, found = fields["weights"].get("digest"), values_digest(cache, stream)
        if stored != found:
            yield Problem(
                f"streams/{stream}", f"imported with the digest {stored}, but the values are now {found}"
            )


def constant_rows(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Which tokens (float16 or float32 [T, D]) hold one number throughout, bool [T]."""
    bits = values.view(np.uint16 if values.dtype == np.float16 else np.uint32)
    candidates = bits[:, 0] == bits[:, 1]  # nearly always false, which spares the rest
    candidates[candidates] = (bits[candidates] == bits[candidates, :1]).all(axis=1)
    return np.asarray(candidates)


def _listed(what: str, ids: list[str] | NDArray[np.object_]) -> str:
    more = ", ..." if len(ids) > EXAMPLES else ""
    return f"{len(ids)} {what}: {', '.join(map(repr, list(ids[:EXAMPLES])))}{more}"
