"""Extraction on a CUDA device against the machine's ceilings: decode alone, and the device's matrix rate.

    python benchmarks/gpu_extract.py [--src DIR] [--count 500] [--workers N] [--precision auto]

Needs a CUDA device; makes videos where no folder is given. In one run: the decode ceiling (the same workers, decoder and resize,
nothing else), the extraction, device memory at its peak after 50 videos and after all, parity of a sample with the backbones
run plainly on the CPU. Prints the share of the lower ceiling (bars: 90 % of decode, 80 % of the matrix rate).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from cache.reader import open_cache
from cache.schema import StreamSpec, VideoLabel
from cache.writer import CacheWriter
from pipeline.backbones.load import BackboneConfig, load_backbones
from pipeline.decoding.pool import DecodePool, PoolSettings, TokenFrames, default_workers
from pipeline.decoding.worker import Finished, Task, WorkerSettings
from pipeline.demo_videos import make_demo_tree
from pipeline.flow import Flow, FlowSettings
from pipeline.reporting.profile import matrix_rate, token_flops
from pipeline.reporting.report import ExtractReport
from pipeline.sources.inventory import take_inventory
from pipeline.sources.tree import Source, discover
from pipeline.verify import compare_video

EARLY = 50


def decode_only(sources: list[Source], plans: tuple[object, ...], workers: int) -> float:
    """Videos per second of the decode pool with nobody behind it."""
    settings = WorkerSettings(plans, max_error_share=0.2)  # type: ignore[arg-type]
    tasks = [Task(number, str(source.path), "pyav") for number, source in enumerate(sources)]
    ended = 0
    with DecodePool(PoolSettings(workers=workers), worker_settings=settings) as pool:
        began = time.perf_counter()
        for event in pool.run(tasks):
            ended += isinstance(event, Finished)
            if isinstance(event, TokenFrames):
                _ = event.frames[0, 0, 0, 0, 0]
        return ended / (time.perf_counter() - began)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here: this benchmark measures nothing without one")
    warnings.simplefilter("ignore")
    device = torch.device("cuda")
    workers = arguments.workers or default_workers()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        src = arguments.src or make_demo_tree(
            folder / "videos", videos_per_class_train=24, videos_per_class_val=8, seed=0
        )
        found = [s for s in discover(src).sources if s.path.is_file() and s.path.stat().st_size]
        # a small folder is walked more than once, under other ids, so that memory has time to grow
        sources = [
            Source(f"{number:06d}/{s.id}", s.path, s.label_name, s.split, s.source)
            for number, s in ((n, found[n % len(found)]) for n in range(arguments.count))
        ]
        config = BackboneConfig(
            clip_weights="random", slowfast_weights="random", device="cuda", precision=arguments.precision
        )
        backbones = load_backbones(config)
        precision = config.resolved_precision()
        plans = tuple(backbone.plan for backbone in backbones.values())
        rate = matrix_rate(device, precision)
        print(
            f"{torch.cuda.get_device_name()}, {precision}, {rate / 1e12:.0f} TFLOP/s matrix rate, {workers} workers"
        )
        decode = decode_only(sources, plans, workers)
        print(f"decode alone: {decode:.1f} videos/s")
        specs = [StreamSpec(name, b.dim, "float16", b.fingerprint()) for name, b in backbones.items()]
        settings = FlowSettings("float16", "pyav", PoolSettings(workers=workers), 0.2, 0.0, False, 16, 30.0)
        cache, peaks, wall = folder / "gpu.zarr", [], 0.0
        tokens: dict[str, int] = {}
        for part in (sources[:EARLY], sources[EARLY:]):
            work = take_inventory(
                part, {s.id: VideoLabel(-1, "") for s in part}, {}, retry_rejects=False
            ).work
            report = ExtractReport("", "", found=len(part))
            began = time.perf_counter()
            with CacheWriter.open(
                cache, streams=specs, dataset="bench", label_names=None, provenance={}
            ) as writer:
                flow = Flow(settings, backbones, writer=writer, device=device, digests={})
                flow.run(work, report=report, console=Console(quiet=True), stop=threading.Event())
            wall += time.perf_counter() - began
            peaks.append(torch.cuda.max_memory_allocated())
            tokens = {name: tokens.get(name, 0) + count for name, count in report.tokens.items()}
        compute = sum(token_flops(b) * tokens[name] for name, b in backbones.items()) / rate
        speed = len(sources) / wall
        limit = len(sources) / compute
        print(
            f"extract: {speed:.1f} videos/s = {speed / decode:.0%} of decode alone; the models' limit is {limit:.1f} videos/s"
        )
        bound = "decode" if decode < limit else "matrix rate"
        bar = 90 if bound == "decode" else 80
        print(f"lower ceiling: {bound}; reached {speed / min(decode, limit):.0%} (bar {bar} %)")
        early, late = (peak / 2**20 for peak in peaks)
        print(
            f"device memory at its peak: {early:.0f} MiB after {EARLY} videos, {late:.0f} MiB after {len(sources)}"
        )
        rng, paths = np.random.default_rng(0), {s.id: s.path for s in sources}
        with open_cache(cache) as opened:
            compared = [
                c
                for i in range(3)
                for c in compare_video(opened, i, paths[str(opened.videos.id[i])], backbones, rng=rng)
            ]
        print(
            f"parity with the CPU over {len(compared)} tokens: worst cosine {min(c.cosine for c in compared):.6f} (bound 0.999)"
        )


if __name__ == "__main__":
    main()
