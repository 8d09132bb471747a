"""How fast a cache is read: `Cache.load` against `np.load` of the same bytes, and the cost of opening large
caches.

    python benchmarks/cache_read.py                        # 184 MB in both formats, ratio to np.load
    python benchmarks/cache_read.py --videos 1000 10000 100000

Both sides of a ratio are timed in turn within each round, with the files in the page cache. Needs numpy, zarr
and h5py only; writes to a temporary folder (or `--folder`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cache.convert import convert
from cache.copying import new_zarr
from cache.reader import open_cache
from cache.schema import VIDEO_COLUMNS, StreamSpec, StreamTokens, VideoFeatures, VideoRow
from cache.stores.layout import CacheAttributes
from cache.writer import CacheWriter

TOKENS_PER_VIDEO = 10
NARROW = StreamSpec("slowfast", 8, "float16", {"stream": "slowfast", "weights": {"tag": "made up"}})
BAR = 0.8


def make_cache(path: Path, n_videos: int, stream: StreamSpec) -> None:
    """A cache of made-up features, written in bulk."""
    attributes = CacheAttributes("made up", ("safe", "harmful"), store_id=uuid.uuid4().hex)
    appender = new_zarr(path, attributes, [stream])
    for name, kind in VIDEO_COLUMNS.items():
        column: list[Any] = ["x"] * n_videos if kind == "string" else [1] * n_videos
        if name == "id":
            column = [f"train/Fight/video_{index:07d}.mp4" for index in range(n_videos)]
        if name == "digest":
            column = [f"blake2b:{index:064x}" for index in range(n_videos)]
        appender.append(f"videos/{name}", column)
    rng = np.random.default_rng(0)
    block = 1000
    for first in range(0, n_videos, block):
        tokens = min(block, n_videos - first) * TOKENS_PER_VIDEO
        appender.append("streams/slowfast/values", rng.standard_normal((tokens, stream.dim), np.float32))
        appender.append("streams/slowfast/spans", np.ones((tokens, 2), np.float32))
    appender.append("streams/slowfast/offsets", np.arange(1, n_videos + 1) * TOKENS_PER_VIDEO)
    appender.commit(attributes)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    kept = action()
    taken = time.perf_counter() - start
    del kept
    return taken


def compare_with_npy(folder: Path, megabytes: float, rounds: int, dim: int) -> bool:
    """Print time and ratio of each round; whether both formats meet the bar in the median."""
    stream = StreamSpec("slowfast", dim, "float16", NARROW.fingerprint)
    n_videos = max(1, round(megabytes * 1e6 / (TOKENS_PER_VIDEO * dim * 2)))
    zarr_path, hdf5_path = folder / "read.zarr", folder / "read.h5"
    make_cache(zarr_path, n_videos, stream)
    convert(zarr_path, hdf5_path)
    with open_cache(zarr_path) as cache:
        tokens = cache.load("slowfast")
    for name in ("values", "spans", "offsets"):
        np.save(folder / f"{name}.npy", getattr(tokens, name))
    size = tokens.values.nbytes / 1e6
    del tokens

    def with_numpy() -> object:
        return [np.load(folder / f"{name}.npy") for name in ("values", "spans", "offsets")]

    met = True
    for path in (zarr_path, hdf5_path):

        def with_cache(path: Path = path) -> object:
            with open_cache(path) as cache:
                return cache.load("slowfast")

        with_numpy()
        with_cache()
        ratios = []
        print(f"\n{path.suffix}: {size:.0f} MB, {n_videos} videos (opening included)")
        for number in range(rounds):
            if number % 2:
                ours, numpy = seconds(with_cache), seconds(with_numpy)
            else:
                numpy, ours = seconds(with_numpy), seconds(with_cache)
            ratios.append(numpy / ours)
            print(
                f"  round {number + 1}: np.load {numpy:.4f} s, Cache.load {ours:.4f} s, "
                f"speed ratio {numpy / ours:.2f}"
            )
        median = statistics.median(ratios)
        met &= median >= BAR
        print(f"  median speed ratio {median:.2f} (bar {BAR})")
    return met


def open_large(folder: Path, n_videos: int) -> None:
    """Print what opening, listing, loading and a no-op run cost on a cache of this many videos."""
    zarr_path = folder / f"open-{n_videos}.zarr"
    make_cache(zarr_path, n_videos, NARROW)
    hdf5_path = zarr_path.with_suffix(".h5")
    convert(zarr_path, hdf5_path)
    for path in (zarr_path, hdf5_path):

        def list_videos(path: Path = path) -> object:
            with open_cache(path) as cache:
                return cache.videos.id, cache.videos.label, cache.videos.split, cache.streams

        def load(path: Path = path) -> object:
            with open_cache(path) as cache:
                return cache.load("slowfast")

        def no_op(path: Path = path) -> object:
            with open_cache(path) as cache:
                some = cache.videos.id[:1000].tolist()
            started = time.perf_counter()
            with CacheWriter.open(
                path, streams=[NARROW], dataset="made up", label_names=None, provenance={}
            ) as writer:
                opened = time.perf_counter()
                known = writer.known()
                assert all(known[video_id].mtime_ns for video_id in some)
                looked_up = time.perf_counter()
            return opened - started, looked_up - opened

        times = no_op()
        assert isinstance(times, tuple)
        opened, looked_up = times
        print(
            f"{path.suffix:>5} {n_videos:>9,} videos: open and list {seconds(list_videos):.3f} s, "
            f"load {seconds(load):.3f} s, writer open {opened:.3f} s, known() of 1,000 {looked_up * 1e3:.2f} ms"
        )
    print(f"      {n_videos:>9,} videos: commit of 16 more into .zarr {commit_some(zarr_path) * 1e3:.0f} ms")


def commit_some(path: Path, *, rounds: int = 9, batch: int = 16) -> float:
    """Median seconds of a commit of 16 videos of 10 tokens into the cache at `path`."""
    spans = np.ones((TOKENS_PER_VIDEO, 2), np.float32)
    tokens = StreamTokens(
        np.random.default_rng(0).standard_normal((10, NARROW.dim)).astype(np.float16), spans
    )
    taken = []
    with CacheWriter.reopen(path) as writer:
        for number in range(rounds):
            videos = [
                VideoFeatures(
                    VideoRow(
                        id=f"new/{number}/{index}.mp4",
                        digest=f"blake2b:{index:064x}",
                        size_bytes=1,
                        mtime_ns=1,
                        label=1,
                        label_name="harmful",
                        split="train",
                        source="",
                        duration_seconds=5.0,
                        fps=30.0,
                        width=320,
                        height=240,
                        n_frames=150,
                        decoder="pyav",
                    ),
                    {"slowfast": tokens},
                )
                for index in range(batch)
            ]
            taken.append(seconds(lambda videos=videos: writer.commit(videos, [])))  # type: ignore[misc]
    return statistics.median(taken)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=184)
    parser.add_argument("--dim", type=int, default=2304, help="width of a token")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--videos", type=int, nargs="+", help="measure opening caches of these sizes instead")
    parser.add_argument("--folder", type=Path, help="where to put the temporary caches")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        if args.videos:
            for n_videos in args.videos:
                open_large(Path(name), n_videos)
            return 0
        return 0 if compare_with_npy(Path(name), args.megabytes, args.rounds, args.dim) else 1


if __name__ == "__main__":
    sys.exit(main())
