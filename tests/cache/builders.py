"""Small made-up videos for store tests, and comparison of a cache with what was put into it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.reader import Cache, open_cache
from cache.schema import Reject, StreamSpec, StreamTokens, VideoFeatures, VideoRow
from cache.writer import CacheWriter

LABEL_NAMES = ("NonFight", "Fight")


def fingerprint(stream: str, **changes: Any) -> dict[str, Any]:
    return {
        "stream": stream,
        "model": "tiny",
        "weights": {"tag": "random", "seed": 0, "digest": "sha256:00"},
        "sampling": {"fps": 2.0},
        "precision": "fp32",
        "libraries": {"torch": "2.0"},
    } | changes


CLIP = StreamSpec("clip", 6, "float16", fingerprint("clip"))
SLOWFAST = StreamSpec("slowfast", 5, "float32", fingerprint("slowfast"))
AUDIO = StreamSpec("audio", 3, "float16", fingerprint("audio"))
STREAMS = (CLIP, SLOWFAST)


def make_tokens(name: str, spec: StreamSpec, n_tokens: int) -> StreamTokens:
    """Tokens that follow from the name alone."""
    rng = np.random.default_rng(zlib.crc32(f"{name}/{spec.name}".encode()))
    starts = np.arange(n_tokens, dtype=np.float32) / 2
    values = rng.normal(size=(n_tokens, spec.dim)).astype(spec.dtype)
    return StreamTokens(values, np.stack([starts, starts + np.float32(0.5)], axis=1))


def make_video(
    video_id: str,
    *,
    version: int = 0,
    streams: Sequence[StreamSpec] = STREAMS,
    n_tokens: int = 0,
    **columns: Any,
) -> VideoFeatures:
    """A video whose tokens follow from its id and version."""
    seed = zlib.crc32(f"{video_id}#{version}".encode())
    count = n_tokens or 1 + seed % 7
    row: dict[str, Any] = {
        "digest": f"blake2b:{seed:08x}",
        "size_bytes": 1000 + seed % 1000,
        "mtime_ns": 1_700_000_000_000_000_000 + seed,
        "label": seed % 2,
        "label_name": LABEL_NAMES[seed % 2],
        "split": ("train", "val")[seed // 2 % 2],
        "source": "",
        "duration_seconds": count / 2,
        "fps": 25.0,
        "width": 320,
        "height": 240,
        "n_frames": count * 12,
        "decoder": "pyav",
    }
    tokens = {spec.name: make_tokens(f"{video_id}#{version}", spec, count) for spec in streams}
    return VideoFeatures(VideoRow(id=video_id, **(row | columns)), tokens)


def make_reject(video_id: str, reason: str = "no-frames", detail: str = "nothing decoded") -> Reject:
    seed = zlib.crc32(video_id.encode())
    return Reject(video_id, reason, detail, f"blake2b:{seed:08x}", seed % 1000, seed)


def open_writer(path: Path, *, streams: Sequence[StreamSpec] = STREAMS, **changes: Any) -> CacheWriter:
    settings: dict[str, Any] = {
        "streams": streams,
        "dataset": "made-up",
        "label_names": LABEL_NAMES,
        "provenance": {"command": "test"},
    }
    return CacheWriter.open(path, **(settings | changes))


def write_cache(
    path: Path,
    videos: Sequence[VideoFeatures],
    rejects: Sequence[Reject] = (),
    *,
    streams: Sequence[StreamSpec] = STREAMS,
    **changes: Any,
) -> Path:
    with open_writer(path, streams=streams, **changes) as writer:
        writer.commit(videos, rejects)
    return path


def contents(cache: Cache) -> dict[str, Any]:
    """Everything that a cache says, in a form that compares with `==`."""
    found: dict[str, Any] = {
        "videos": [cache.videos.row(index) for index in range(cache.n_videos)],
        "rejects": [cache.rejects.row(index) for index in range(len(cache.rejects))],
        "label_names": cache.label_names,
    }
    for name in cache.streams:
        tokens = cache.load(name)
        found[name] = [
            (part.values.dtype.name, part.values.tobytes(), part.spans.tobytes()) for part in tokens
        ]
    return found


def expected(
    videos: Mapping[str, VideoFeatures],
    rejects: Mapping[str, Reject],
    streams: Sequence[StreamSpec] = STREAMS,
) -> dict[str, Any]:
    """What `contents` must return for these live videos and rejects, in store order."""
    found: dict[str, Any] = {
        "videos": [video.row for video in videos.values()],
        "rejects": list(rejects.values()),
        "label_names": LABEL_NAMES,
    }
    for spec in streams:
        found[spec.name] = [
            (
                spec.dtype,
                video.tokens[spec.name].values.tobytes(),
                video.tokens[spec.name].spans.tobytes(),
            )
            for video in videos.values()
        ]
    return found


def read_contents(path: Path) -> dict[str, Any]:
    with open_cache(path) as cache:
        return contents(cache)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every file, the lock aside."""
    return {
        str(file): (file.stat().st_ino, file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file() and ".lock" not in file.name
    }
