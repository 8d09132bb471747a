"""Checks and conversions between the records given to a writer and the rows that it appends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheError
from cache.fingerprint import is_imported
from cache.known import KnownInputs
from cache.reader import BLOCK_BYTES, Cache
from cache.schema import StreamSpec, VideoFeatures, all_finite
from cache.stores.zarr_append import ZarrAppender


@dataclass(frozen=True, slots=True, eq=False)
class TokenRows:
    """The tokens of several videos in one stream. values [N, D] in the stored dtype, spans [N, 2], counts [n].

    absent: of an optional stream, why each video lacks it, "" where it does not.
    """

    values: NDArray[Any]
    spans: NDArray[np.float32]
    counts: NDArray[np.int64]
    absent: Sequence[str] | None = None


def require_streams(video: VideoFeatures, streams: Mapping[str, StreamSpec]) -> None:
    """Raise `CacheError` unless the video has tokens of the right width in exactly these streams, or is without an optional one

    for a reason.
    """
    if video.tokens.keys() | video.absent.keys() != set(streams):
        raise CacheError(
            f"{video.row.id}: has the streams {', '.join((*video.tokens, *video.absent)) or '(none)'}; "
            f"the cache stores {', '.join(streams)}"
        )
    for name, spec in streams.items():
        if name in video.absent:
            if not spec.optional:
                raise CacheError(
                    f"{video.row.id}: stream {name} is required, and absent: {video.absent[name]}"
                )
            continue
        width = video.tokens[name].values.shape[1]
        if width != spec.dim:
            raise CacheError(f"{video.row.id}: stream {name} is {width} wide; the cache stores {spec.dim}")


def cast_tokens(videos: Sequence[VideoFeatures], spec: StreamSpec) -> TokenRows:
    """Join the tokens of a stream and cast them. Raises `CacheError` for values not finite in the dtype."""
    pieces: list[NDArray[Any]] = []
    here = [video for video in videos if spec.name in video.tokens]
    for video in here:
        given = video.tokens[spec.name].values
        with np.errstate(over="ignore"):
            piece = given.astype(spec.dtype, copy=False)
        if not all_finite(piece):
            raise CacheError(
                f"{video.row.id}: stream {spec.name} has values that are not finite as {spec.dtype}"
            )
        pieces.append(piece)
    return TokenRows(
        values=np.concatenate([np.empty((0, spec.dim), spec.dtype), *pieces]),
        spans=np.concatenate(
            [np.empty((0, 2), np.float32), *(video.tokens[spec.name].spans for video in here)]
        ),
        counts=np.array(
            [len(video.tokens[spec.name].values) if spec.name in video.tokens else 0 for video in videos],
            dtype=np.int64,
        ),
        absent=[video.absent.get(spec.name, "") for video in videos] if spec.optional else None,
    )


def append_tokens(appender: ZarrAppender, stream: str, rows: TokenRows) -> None:
    """Append the tokens of the next videos."""
    before = appender.n_rows(f"streams/{stream}/values")
    appender.append(f"streams/{stream}/values", rows.values)
    appender.append(f"streams/{stream}/spans", rows.spans)
    appender.append(f"streams/{stream}/offsets", before + np.cumsum(rows.counts))
    if rows.absent is not None:
        appender.append(f"streams/{stream}/absent", rows.absent)


def require_sidecar(
    sidecar: Cache, known: KnownInputs, streams: Mapping[str, StreamSpec], where: Path
) -> StreamSpec:
    """The one stream that `sidecar` adds to the cache at `where`. Raises `CacheError` if it does not fit.

    Imported features come without digests of the videos: of these the ids alone are compared.
    """
    name = str(sidecar.paths[0])
    if len(sidecar.specs) != 1:
        raise CacheError(f"{name} holds {len(sidecar.specs)} streams; a stream to attach comes alone")
    spec = sidecar.specs[0]
    if spec.name in streams:
        raise CacheError(f"{where} holds a stream {spec.name} already")
    ids, digests = sidecar.videos.id.tolist(), sidecar.videos.digest.tolist()
    here = known.video_rows
    missing = sorted(here.keys() - set(ids))
    surplus = [video_id for video_id in ids if video_id not in here]
    if missing or surplus:
        example = missing[0] if missing else surplus[0]
        raise CacheError(
            f"{name} lacks {len(missing)} videos of {where} and holds {len(surplus)} others, "
            f"e.g. {example!r}; a stream to attach covers exactly the same videos"
        )
    if is_imported(spec.fingerprint) and not any(digests):
        return spec
    other = [
        video_id for video_id, digest in zip(ids, digests, strict=True) if known[video_id].digest != digest
    ]
    if unknown := [i for i, digest in zip(ids, digests, strict=True) if not (digest and known[i].digest)]:
        raise CacheError(
            f"{len(unknown)} videos have no digest in {name} or in {where}, e.g. {unknown[0]!r}, so that nothing tells "
            "whether both were made from the same bytes; write the cache again with the digests of its files"
        )
    if other:
        raise CacheError(
            f"{len(other)} videos were made from other bytes in {name} than in {where}, e.g. {other[0]!r}; "
            "extract the stream again"
        )
    return spec


def copy_stream(sidecar: Cache, appender: ZarrAppender, spec: StreamSpec, rows: Mapping[str, int]) -> None:
    """Append the whole stream in the order of this cache's rows; rows that are not live get no tokens."""
    place = {video_id: index for index, video_id in enumerate(sidecar.videos.id.tolist())}
    taken = np.full(appender.n_rows("videos/id"), -1, np.int64)
    for video_id, row in rows.items():
        taken[row] = place[video_id]
    counts = np.zeros(len(taken), np.int64)
    counts[taken >= 0] = np.diff(sidecar.offsets(spec.name))[taken[taken >= 0]]
    appender.append(f"streams/{spec.name}/offsets", np.concatenate([[0], np.cumsum(counts)]))
    if spec.optional:
        why = sidecar.absent(spec.name)
        appender.append(f"streams/{spec.name}/absent", [str(why[row]) if row >= 0 else "" for row in taken])
    row_bytes = spec.dim * np.dtype(spec.dtype).itemsize
    blocks = np.cumsum(counts[taken >= 0]) * row_bytes // BLOCK_BYTES
    for block in np.split(taken[taken >= 0], np.flatnonzero(np.diff(blocks)) + 1):
        if len(block):
            tokens = sidecar.read(spec.name, block)
            appender.append(f"streams/{spec.name}/values", np.concatenate([found.values for found in tokens]))
            appender.append(f"streams/{spec.name}/spans", np.concatenate([found.spans for found in tokens]))
