"""Caches of made-up features with a planted signal, written by the real writer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cache.schema import StreamSpec, StreamTokens, VideoFeatures, VideoRow
from cache.writer import CacheWriter

DIMS = {"clip": 12, "slowfast": 8}


def fingerprint(stream: str, **changes: Any) -> dict[str, Any]:
    return {
        "stream": stream,
        "model": f"toy-{stream}",
        "weights": {"tag": "random", "seed": 0, "digest": f"sha256:{stream}"},
        "precision": "fp32",
        "libraries": {"torch": "2.0"},
        **changes,
    }


def spans(n_tokens: int, seconds: float) -> np.ndarray[Any, Any]:
    edges = np.linspace(0.0, seconds, n_tokens + 1, dtype=np.float32)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def features(
    index: int,
    *,
    label: int,
    rng: np.random.Generator,
    split: str = "",
    source: str = "",
    signal: float = 2.0,
    dims: Mapping[str, int] = DIMS,
    tokens: int | None = None,
    width: int = 320,
) -> VideoFeatures:
    """One video; positives are shifted by `signal` along one column of every stream."""
    n = int(rng.integers(2, 6)) if tokens is None else tokens
    made = {}
    for place, (stream, dim) in enumerate(dims.items()):
        values = rng.standard_normal((n * (2 if place == 0 else 1), dim)).astype(np.float32)
        values[:, 0] += signal * label
        made[stream] = StreamTokens(values.astype(np.float16), spans(len(values), 2.0 * n))
    row = VideoRow(
        id=f"{split or 'all'}/{'Fight' if label == 1 else 'NonFight'}/v{index:04d}.mp4",
        digest=f"blake2b:{index:04d}",
        size_bytes=1000 + index,
        mtime_ns=index,
        label=label,
        label_name={1: "Fight", 0: "NonFight"}.get(label, ""),
        split=split,
        source=source or f"source{index // 2}",
        duration_seconds=2.0 * n,
        fps=30.0,
        width=width,
        height=240,
        n_frames=60 * n,
        decoder="pyav",
    )
    return VideoFeatures(row, made)


def toy_videos(
    n: int = 60, *, seed: int = 0, signal: float = 2.0, val_share: float = 0.4, **options: Any
) -> list[VideoFeatures]:
    """Pairs of one label from one source, the first part in train and the rest in val."""
    rng = np.random.default_rng(seed)
    border = n - 2 * round(n * val_share / 2)
    return [
        features(
            i,
            label=(i // 2) % 2,
            rng=rng,
            split="train" if i < border else "val",
            signal=signal,
            **options,
        )
        for i in range(n)
    ]


def lacking(videos: list[VideoFeatures], stream: str, which: Collection[int]) -> list[VideoFeatures]:
    """The same videos, some of them (by their place) without a stream."""
    return [
        VideoFeatures(
            v.row, {n: t for n, t in v.tokens.items() if n != stream}, {**v.absent, stream: "not recorded"}
        )
        if place in which
        else v
        for place, v in enumerate(videos)
    ]


def write_cache(
    path: Path,
    videos: list[VideoFeatures],
    *,
    dims: Mapping[str, int] = DIMS,
    optional: Collection[str] = (),
    **changes: Any,
) -> Path:
    specs = [
        StreamSpec(name, dim, "float16", fingerprint(name, **changes), name in optional)
        for name, dim in dims.items()
    ]
    with CacheWriter.open(
        path, streams=specs, dataset="toy", label_names=("NonFight", "Fight"), provenance={}
    ) as writer:
        writer.commit(videos, [])
    return path
