"""Many parts: how long opening them as one cache and merging them takes, and the memory of both.

    python benchmarks/parts.py --parts 100 1000 --videos 16

Parts are shards of made videos (tokens of 8 numbers, so that what is measured is the number of parts, not their bytes).
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from cache.merge import merge, shard_provenance
from cache.reader import open_cache
from cache.schema import Reject, StreamSpec, StreamTokens, VideoFeatures, VideoRow
from cache.stores import files
from cache.writer import CacheWriter

SPECS = [
    StreamSpec(name, 8, "float16", {"stream": name, "weights": {"tag": "random", "seed": 0}})
    for name in ("clip", "slowfast")
]
TOKENS = 5


def video(number: int) -> VideoFeatures:
    """One made video, the same for the same number."""
    row = VideoRow(f"d/v{number:07d}.mp4", f"blake2b:{number:032x}", 10_000, number, number % 2,
                   ("no", "yes")[number % 2], "train", "", 5.0, 25.0, 640, 360, 125, "pyav")  # fmt: skip
    rng = np.random.default_rng(number)
    starts = np.arange(TOKENS, dtype=np.float32)
    tokens = {
        spec.name: StreamTokens(
            rng.normal(size=(TOKENS, spec.dim)).astype(spec.dtype), np.stack([starts, starts + 1], axis=1)
        )
        for spec in SPECS
    }
    return VideoFeatures(row, tokens)


def make_parts(folder: Path, count: int, videos: int, suffix: str) -> list[Path]:
    """`count` finished shards of `videos` videos and one reject each."""
    found = []
    for place in range(count):
        path = folder / f"{place:05d}{suffix}"
        said = shard_provenance(place + 1, count, plan="", found=videos + 1, finished=True)
        with CacheWriter.open(
            path, streams=SPECS, dataset="parts", label_names=("no", "yes"), provenance=said
        ) as writer:
            rejected = Reject(f"d/r{place:07d}.mp4", "empty-file", "0 bytes", "", 0, place)
            writer.commit([video(place * videos + n) for n in range(videos)], [rejected])
        found.append(path)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line a number of parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--videos", type=int, default=16, help="in each part")
    parser.add_argument("--suffix", default=".zarr", choices=(".zarr", ".h5"))
    parser.add_argument("--synced", action="store_true", help="make the parts with fsync too")
    given = parser.parse_args(arguments)
    print("parts  videos    open s  all columns s  load s   merge s  peak MiB")
    for count in given.parts:
        folder = Path(tempfile.mkdtemp(prefix="onepass-parts-"))
        try:
            with contextlib.nullcontext() if given.synced else mock.patch.object(files, "sync"):
                paths = make_parts(folder, count, given.videos, given.suffix)
            began = time.perf_counter()
            with open_cache(*paths) as cache:
                opened = time.perf_counter() - began
                began = time.perf_counter()
                for name in ("id", "label", "split", "source", "duration_seconds"):
                    cache.videos.column(name)
                columns = time.perf_counter() - began
                began = time.perf_counter()
                tokens = cache.load("clip")
                loaded = time.perf_counter() - began
                assert len(tokens.values) == count * given.videos * TOKENS
            began = time.perf_counter()
            merged = merge(paths, folder / f"all{given.suffix}")
            took = time.perf_counter() - began
            assert (merged.n_videos, merged.n_rejects) == (count * given.videos, count)
        finally:
            shutil.rmtree(folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
        print(
            f"{count:5d} {count * given.videos:7d} {opened:9.2f} {columns:14.2f} {loaded:7.2f} {took:9.2f} {peak:9d}",
            flush=True,
        )


if __name__ == "__main__":
    main()
