"""What must hold before a store is read, and before several are read as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import CacheCorrupt, CacheError, FingerprintMismatch
from cache.fingerprint import require_same
from cache.labels.names import nfc
from cache.schema import UNKNOWN_LABEL
from cache.stores.layout import StoreReader, column_specs


def require_equal_rows(store: StoreReader) -> None:
    """Raise `CacheCorrupt` unless columns of a group, values and spans, videos and offsets match in
    length.
    """
    for spec in column_specs():
        group = spec.path.partition("/")[0]
        rows, expected = store.n_rows(spec.path), store.n_rows(f"{group}/id")
        if rows != expected:
            raise CacheCorrupt(f"{store.path}: {spec.path} has {rows} rows but {group}/id has {expected}")
    n_videos = store.n_rows("videos/id")
    for stream in store.streams:
        tokens, spans, offsets = (
            store.n_rows(f"streams/{stream}/{name}") for name in ("values", "spans", "offsets")
        )
        if tokens != spans:
            raise CacheCorrupt(f"{store.path}: stream {stream} has {tokens} values but {spans} spans")
        if offsets != n_videos + 1:
            raise CacheCorrupt(f"{store.path}: stream {stream} has {offsets} offsets for {n_videos} videos")
        if store.streams[stream].optional and (rows := store.n_rows(f"streams/{stream}/absent")) != n_videos:
            raise CacheCorrupt(f"{store.path}: streams/{stream}/absent has {rows} rows for {n_videos} videos")


def read_offsets(store: StoreReader, stream: str) -> NDArray[np.int64]:
    """The stored offsets [n_rows + 1] of a stream. Raises `CacheCorrupt` unless they fit videos and
    tokens.
    """
    n_tokens = store.n_rows(f"streams/{stream}/values")
    n_offsets = store.n_rows(f"streams/{stream}/offsets")
    offsets = store.read(f"streams/{stream}/offsets", 0, n_offsets).astype(np.int64, copy=False)
    if offsets[0] != 0 or offsets[-1] != n_tokens or bool((np.diff(offsets) < 0).any()):
        raise CacheCorrupt(
            f"{store.path}: the offsets of stream {stream} do not rise from 0 to {n_tokens}, its tokens"
        )
    return offsets


def require_compatible(first: StoreReader, other: StoreReader, *, ignore_libraries: bool) -> None:
    """Raise `CacheError` or `FingerprintMismatch` unless two stores may be read as one."""
    if set(first.streams) != set(other.streams):
        raise CacheError(
            f"{first.path} holds the streams {', '.join(first.streams)} but {other.path} holds "
            f"{', '.join(other.streams)}; only caches with the same streams can be read as one"
        )
    where = f"{other.path} (here is {first.path})"
    for name, spec in first.streams.items():
        found = other.streams[name]
        require_same(
            spec.fingerprint, found.fingerprint, where=where, ignore_libraries=ignore_libraries, of="cache"
        )
        if (spec.dim, spec.dtype) != (found.dim, found.dtype):
            raise FingerprintMismatch(
                f"stream {name} is {spec.dtype} [{spec.dim}] in {first.path} "
                f"but {found.dtype} [{found.dim}] in {other.path}"
            )
        if spec.optional != found.optional:
            one, two = ("optional" if which.optional else "required" for which in (spec, found))
            raise CacheError(f"stream {name} is {one} in {first.path} but {two} in {other.path}")
    names, other_names = class_names(first), class_names(other)
    if names and other_names and tuple(map(nfc, names)) != tuple(map(nfc, other_names)):
        raise CacheError(
            f"label names (negative, positive) are {names} in {first.path} but {other_names} in "
            f"{other.path}; join labels again in one of them"
        )


def class_names(store: StoreReader) -> tuple[str, str] | None:
    """(negative, positive): of the attributes; where they name none, as live rows name both, each in one way."""
    if store.attributes.label_names:
        return store.attributes.label_names
    n_rows = store.n_rows("videos/id")
    labels = np.array(store.read("videos/label", 0, n_rows), dtype=np.int8)
    labels[list(store.attributes.superseded_videos)] = UNKNOWN_LABEL
    if not (labels != UNKNOWN_LABEL).any():
        return None
    names = np.asarray(store.read("videos/label_name", 0, n_rows))
    negative, positive = ({nfc(str(name)) for name in names[labels == label]} for label in (0, 1))
    if len(negative) != 1 or len(positive) != 1 or negative == positive or "" in negative | positive:
        return None
    return negative.pop(), positive.pop()


def require_same_names(here: tuple[str, str] | None, stored: tuple[str, str] | None, *, where: Path) -> None:
    """Raise `CacheError` where the classes (negative, positive) of a run are others than those of the cache that it adds to."""
    if stored and here and tuple(map(nfc, stored)) != tuple(map(nfc, here)):
        raise CacheError(
            f"{where} calls its classes (negative, positive) {stored}, this run {here}. "
            "Give the same classes, or change the labels of the whole cache first."
        )


def require_same_optional(stream: str, here: bool, stored: bool, *, where: Path) -> None:
    """Raise `CacheError` where a stream may be absent in a run but not in the cache that it adds to, or the other way round."""
    if here != stored:
        said, there = ("optional" if which else "required" for which in (here, stored))
        flag = "--optional" if stored else "--require"
        raise CacheError(
            f"stream {stream} is {said} in this run but {there} in {where}: give {flag} {stream}"
        )


def require_distinct_ids(ids: Sequence[str], paths: Sequence[Path]) -> None:
    """Raise `CacheError` if an id occurs twice among the caches at `paths`."""
    if len(set(ids)) == len(ids):
        return
    seen: set[str] = set()
    twice: list[str] = []
    for video_id in ids:
        if video_id in seen:
            twice.append(video_id)
        seen.add(video_id)
    raise CacheError(
        f"{len(twice)} ids are held by more than one of {', '.join(map(str, paths))}, e.g. {twice[0]!r}; "
        "each video may come from one cache only"
    )
