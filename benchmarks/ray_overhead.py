"""What Ray costs a shard: the same small videos in few and in many shards on a local cluster of one place.

    python benchmarks/ray_overhead.py [--videos 32] [--shards 2 32]

A shard's own time is what its extraction reports; what is left of the wall time, over the shards, is Ray's, without the first
one, whose process has everything to import.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cache.process.terminal import make_console
from pipeline.backbones.load import BackboneConfig
from pipeline.config import ExtractConfig
from pipeline.engines import on_ray
from pipeline.engines.on_ray import Ended, RayEngine, extract_on_ray


def make_videos(folder: Path, count: int) -> None:
    """Half a second of noise each."""
    rng = np.random.default_rng(0)
    for number in range(count):
        size = (160, 120)
        writer = cv2.VideoWriter(
            str(folder / f"{number:03d}.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, size
        )
        for _ in range(12):
            writer.write(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        writer.release()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a number of shards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=32)
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 32])
    given = parser.parse_args(arguments)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=80 << 20,
        log_to_driver=False,
        logging_level="error",
    )
    ends: list[tuple[float, Ended]] = []
    answer = on_ray._Cluster.answer

    def timed(self: Any, task: Any) -> Ended:
        ends.append((time.perf_counter(), answer(self, task)))
        return ends[-1][1]

    on_ray._Cluster.answer = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(prefix="onepass-ray-") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        make_videos(folder / "data", given.videos)
        for shards in given.shards:
            ends.clear()
            config = ExtractConfig(
                src=folder / "data", out=folder / f"{shards}.zarr", backbones=BackboneConfig.of(("motion",)),
                allow_unmatched=True, max_rejects=1.0,
            )  # fmt: skip
            with (folder / "log").open("w", encoding="utf-8") as log:
                extract_on_ray(config, RayEngine(shards=shards), console=make_console(file=log), workers=1)
            wall = ends[-1][0] - ends[0][0]
            own = sum(ended.report.seconds for _, ended in ends[1:] if ended.report is not None)
            print(
                f"{shards:4d} shards: {wall:.1f} s after the first, {own / (shards - 1):.2f} s of extraction a shard, "
                f"{(wall - own) / (shards - 1):.3f} s of Ray's",
                flush=True,
            )
    ray.shutdown()


if __name__ == "__main__":
    main()
