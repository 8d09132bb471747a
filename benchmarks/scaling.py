"""How cost grows: extraction with the number of videos, a cache with the number of its videos, training with its tokens.

    python benchmarks/scaling.py --src DIR [--out docs] [--parts extract cache train]

Writes scaling.png and prints the points, each curve with the exponent of a power law through its larger half (1 is linear).
Extraction runs the CLIP stream with random weights; caches and tokens are made up.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import threading
import time
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import torch
from cache_read import make_cache
from rich.console import Console

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter, NullLocator

from cache.reader import open_cache
from cache.schema import StreamSpec, StreamTokens, VideoFeatures, VideoLabel, VideoRow
from cache.writer import CacheWriter
from heads import TrainConfig, train_head
from pipeline.backbones.load import BackboneConfig, load_backbones
from pipeline.decoding.pool import PoolSettings
from pipeline.flow import Flow, FlowSettings
from pipeline.sources.inventory import take_inventory
from pipeline.sources.tree import Source, discover

Points = list[tuple[int, float]]
REPEATS = 7
NARROW = StreamSpec("slowfast", 8, "float16", {"stream": "slowfast", "weights": {"tag": "made up"}})


def exponent(points: Points) -> float:
    """Slope in log-log of the larger half of the points."""
    tail = points[-max(2, (len(points) + 1) // 2) :]
    logs = np.log(np.asarray(tail, dtype=float))
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def extraction(src: Path, counts: list[int], workers: list[int]) -> dict[str, Points]:
    """Seconds of a CLIP extraction by number of videos, a curve a number of decode workers."""
    backbones = load_backbones(BackboneConfig.of(streams=("clip",), clip_weights="random", device="cpu"))
    found = discover(src).sources
    specs = [StreamSpec(name, b.dim, "float16", b.fingerprint()) for name, b in backbones.items()]
    curves: dict[str, Points] = {}
    for n_workers in workers:
        curve = f"{n_workers} worker{'s' * (n_workers > 1)}"
        for count in counts:
            sources = [
                Source(f"{n:06d}/{s.id}", s.path, "", "", "")
                for n, s in ((n, found[n % len(found)]) for n in range(count))
            ]
            labels = {source.id: VideoLabel(-1, "") for source in sources}
            work = take_inventory(sources, labels, {}, retry_rejects=False).work
            settings = FlowSettings(
                "float16", "pyav", PoolSettings(workers=n_workers), 0.2, 0.0, False, 16, 10.0
            )
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                with CacheWriter.open(
                    Path(folder) / "s.zarr", streams=specs, dataset="bench", label_names=None, provenance={}
                ) as writer:
                    flow = Flow(settings, backbones, writer=writer, device=torch.device("cpu"), digests={})
                    flow.run(work, console=Console(quiet=True), stop=threading.Event())
                seconds = time.perf_counter() - began
            curves.setdefault(curve, []).append((count, seconds))
            print(f"extract, {curve}, {count} videos: {seconds:.1f} s", flush=True)
    return curves


def caches(counts: list[int]) -> dict[str, Points]:
    """Median seconds to open a cache and list its ids and labels, to load its tokens (8 wide, 10 a video), and of np.load of the
    same bytes, which shows what of the growth is the machine's.
    """
    curves: dict[str, Points] = {"open and list": [], "load tokens": [], "np.load of the same bytes": []}
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            path = Path(folder) / f"{count}.zarr"
            make_cache(path, count, NARROW)
            with open_cache(path) as cache:
                tokens = cache.load("slowfast")
            plain = [Path(folder) / name for name in ("values.npy", "spans.npy")]
            for file, array in zip(plain, (tokens.values, tokens.spans), strict=True):
                np.save(file, array)
            del tokens, array
            os.sync()  # else the disk is still being written to while it is read
            found: list[tuple[float, float, float]] = []
            for _ in range(REPEATS):
                times = [time.perf_counter()]
                with open_cache(path) as cache:
                    assert len(cache.videos.id) == len(cache.videos.label) == count
                    times.append(time.perf_counter())
                    loaded = cache.load("slowfast")
                times.append(time.perf_counter())
                del loaded
                again = time.perf_counter()
                arrays = [np.load(file) for file in plain]
                plain_seconds = time.perf_counter() - again
                del arrays
                found.append((times[1] - times[0], times[2] - times[1], plain_seconds))
            medians = [statistics.median(seconds) for seconds in zip(*found, strict=True)]
            for points, seconds in zip(curves.values(), medians, strict=True):
                points.append((count, seconds))
            shown = ", ".join(
                f"{name} {seconds:.4f} s" for name, seconds in zip(curves, medians, strict=True)
            )
            print(f"cache, {count} videos: {shown}", flush=True)
    return curves


def training(counts: list[int]) -> dict[str, Points]:
    """Median seconds of an epoch of the default head by number of tokens (10 a video, 512 wide)."""
    rng = np.random.default_rng(0)
    points: Points = []
    spec = StreamSpec("clip", 512, "float16", {"stream": "clip", "weights": {"tag": "made up"}})
    config = TrainConfig(n_resamples=0).updated({"epochs": 5, "patience": "none"})
    for count in counts:
        videos = count // 10
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "t.zarr"
            rows = [
                VideoFeatures(
                    VideoRow(
                        id=f"{i}.mp4",
                        digest=f"blake2b:{i:040x}",
                        size_bytes=1,
                        mtime_ns=1,
                        label=i % 2,
                        label_name=("safe", "harmful")[i % 2],
                        split="train" if i % 5 else "val",
                        source=str(i),
                        duration_seconds=5.0,
                        fps=25.0,
                        width=64,
                        height=64,
                        n_frames=125,
                        decoder="made up",
                    ),
                    {"clip": StreamTokens(rng.standard_normal((10, 512)).astype(np.float16), _spans())},
                )
                for i in range(videos)
            ]
            with CacheWriter.open(
                path, streams=[spec], dataset="bench", label_names=("safe", "harmful"), provenance={}
            ) as writer:
                writer.commit(rows, [])
            with open_cache(path) as cache:
                record = train_head(cache, config).training
            assert record is not None
            seconds = statistics.median(row.seconds for row in record.history)
        points.append((count, seconds))
        print(f"train, {count} tokens: {seconds:.3f} s an epoch", flush=True)
    return {"default head": points}


def _spans() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    starts = np.arange(10, dtype=np.float32) / 2
    return np.stack([starts, starts + np.float32(0.5)], axis=1)


def main() -> None:
    """Measure and plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    parser.add_argument("--parts", nargs="+", default=["extract", "cache", "train"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    parts: list[tuple[str, str, dict[str, Points]]] = []
    if "extract" in arguments.parts and arguments.src:
        parts.append(("extraction, CLIP stream", "videos", extraction(arguments.src, [8, 16, 32], [1, 2, 4])))
    if "cache" in arguments.parts:
        parts.append(("cache", "videos", caches([1_000, 10_000, 100_000, 1_000_000])))
    if "train" in arguments.parts:
        parts.append(("training", "tokens", training([2_000, 8_000, 32_000])))
    figure, axes = plt.subplots(1, len(parts), figsize=(5 * len(parts), 4), squeeze=False)
    for axis, (title, unit, curves) in zip(axes[0], parts, strict=True):
        for name, points in curves.items():
            slope = exponent(points)
            axis.plot(*zip(*points, strict=True), marker="o", label=f"{name} (exponent {slope:.2f})")
            print(f"{title}, {name}: exponent {slope:.2f}")
        largest = max(seconds for points in curves.values() for _, seconds in points)
        assert math.isfinite(largest)
        axis.set(title=title, xlabel=unit, ylabel="seconds", xscale="log", yscale="log")
        counts = sorted({count for points in curves.values() for count, _ in points})
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(
            top=largest * (largest / min(one for points in curves.values() for _, one in points)) ** 0.4
        )
        axis.legend(loc="upper left")
        axis.grid(True, which="both", alpha=0.3)
    figure.tight_layout()
    arguments.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out / "scaling.png", dpi=110)
    print(arguments.out / "scaling.png")


if __name__ == "__main__":
    main()
