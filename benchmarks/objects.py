"""What a cache in object storage costs in requests and bytes: made-up features of two streams, published after every batch.

    python benchmarks/objects.py --videos 2000 --batch 64

A folder stands for the bucket, so no network is timed; every call that would be a request is counted.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from cache.objects.bucket import Bucket
from cache.objects.mirror import Mirror
from cache.reader import open_cache
from cache.schema import StreamSpec, StreamTokens, VideoFeatures, VideoRow
from cache.writer import CacheWriter

STREAMS = (("clip", 512, 2.0), ("slowfast", 2304, 15 / 32))
"""Name, width, tokens a second."""


def video(number: int, seconds: float, rng: np.random.Generator) -> VideoFeatures:
    """One clip with random features."""
    tokens = {}
    for name, dim, rate in STREAMS:
        count = max(1, round(seconds * rate))
        spans = np.stack([np.arange(count), np.arange(1, count + 1)], axis=1).astype(np.float32)
        tokens[name] = StreamTokens(rng.normal(size=(count, dim)).astype(np.float16), spans)
    label, split = number % 2, "val" if number % 5 == 0 else "train"
    row = VideoRow(
        id=f"{split}/{('NonFight', 'Fight')[label]}/v_{number:06}.mp4",
        digest=f"blake2b:{rng.bytes(32).hex()}",
        size_bytes=int(rng.integers(100_000, 1_000_000)),
        mtime_ns=1_700_000_000_000_000_000 + number,
        label=label,
        label_name=("NonFight", "Fight")[label],
        split=split,
        source="",
        duration_seconds=seconds,
        fps=30.0,
        width=320,
        height=240,
        n_frames=round(seconds * 30),
        decoder="pyav",
    )
    return VideoFeatures(row, tokens)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each video")
    parser.add_argument("--batch", type=int, default=64, help="videos between two publishes")
    options = parser.parse_args()
    counts: Counter[str] = Counter()

    def counting(name: str) -> Any:
        whole = getattr(Bucket, name)

        def call(self: Bucket, *given: Any) -> Any:
            found = whole(self, *given)
            counts[name] += 1
            data = found if name == "read" else given[1] if name == "write" else given[0] if given else b""
            counts["bytes in" if name.startswith("read") else "bytes out"] += len(data)
            return found

        return mock.patch.object(Bucket, name, call)

    with (
        tempfile.TemporaryDirectory() as folder,
        counting("write"),
        counting("replace_record"),
        counting("read"),
        counting("read_record"),
    ):
        url = f"file://{folder}/bucket/part.zarr"
        os.environ["ONEPASS_OBJECTS_DIR"] = f"{folder}/writer"
        specs = [StreamSpec(name, dim, "float16", {"model": name}) for name, dim, _ in STREAMS]
        rng = np.random.default_rng(0)
        spent, publishes = 0.0, []
        with Mirror.open(url) as mirror:
            settings: dict[str, Any] = {"dataset": "objects", "label_names": None, "provenance": {}}
            with CacheWriter.open(mirror.path, streams=specs, **settings) as writer:
                for first in range(0, options.videos, options.batch):
                    last = min(first + options.batch, options.videos)
                    writer.commit([video(n, options.seconds, rng) for n in range(first, last)], [])
                    before, began = Counter(counts), time.perf_counter()
                    mirror.publish()
                    spent += time.perf_counter() - began
                    publishes.append(counts - before)
            held = sum(path.stat().st_size for path in mirror.path.rglob("*") if path.is_file())
        record_bytes = (Path(folder) / "bucket/part.zarr/commit.json").stat().st_size
        objects = [path.stat().st_size for path in (Path(folder) / "bucket/part.zarr/objects").iterdir()]
        n = len(publishes)
        print(
            f"{options.videos} videos in {n} publishes of {options.batch}: a cache of {held / 1e6:.1f} MB; "
            f"{len(objects)} objects of {sum(objects) / 1e6:.1f} MB are left, a record of {record_bytes / 1e3:.1f} kB"
        )
        puts = sum(one["write"] + one["replace_record"] for one in publishes)
        sent = sum(one["bytes out"] for one in publishes)
        print(
            f"a publish: {puts / n:.1f} puts, {sent / n / 1e6:.2f} MB, {spent / n:.3f} s without a network; all: {puts} puts, "
            f"{sent / 1e6:.1f} MB"
        )
        for machine in ("reader", "reader again"):
            os.environ["ONEPASS_OBJECTS_DIR"] = f"{folder}/reader"
            counts.clear()
            began = time.perf_counter()
            with open_cache(url) as cache:
                assert len(cache) == options.videos
            print(
                f"{machine}: {counts['read'] + counts['read_record']} gets, {counts['bytes in'] / 1e6:.1f} MB of objects, "
                f"{time.perf_counter() - began:.3f} s without a network"
            )


if __name__ == "__main__":
    main()
