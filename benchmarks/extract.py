"""Extraction against the machine's limit and against the plain loop, alternating in one run.

    python benchmarks/extract.py --src DIR [--streams clip,slowfast] [--stream NAME=KIND:MODEL ...] [--count 48] [--rounds 3]

limit   = processor time of the decode alone (same decoder, same resize, measures of motion, nothing else) / cores
        + model FLOPs of the same tokens / bf16 (or float32) matrix rate measured between the rounds
ceiling = the same decode / cores + the same tokens / the rate of the models alone on all cores: what networks can reach that are
          not made of large products (depthwise convolutions, small batches)

Prints each round and the medians: wall / limit, wall / ceiling, videos/s of extract over videos/s of the plain loop. Random
weights: speed does not depend on them. Models are loaded before the clock starts on both sides; worker start, digests and writing
to disk count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from plain_loop import plain_loop
from rich.console import Console

from cache.schema import StreamSpec, VideoLabel
from cache.writer import CacheWriter
from pipeline.backbones.base import Backbone, Precision, cpu_has_bf16
from pipeline.backbones.load import BackboneConfig, load_backbones
from pipeline.counts import FlowCounts
from pipeline.decoding.decode import decode_video
from pipeline.decoding.decoders.base import DecoderName, open_frames
from pipeline.decoding.frames import PreparedFrame
from pipeline.decoding.pool import PoolSettings, default_workers
from pipeline.flow import Flow, FlowSettings
from pipeline.reporting.profile import matrix_rate, token_flops
from pipeline.sources.inventory import take_inventory
from pipeline.sources.tree import Source, discover

ALONE_SECONDS = 2.0


def decode_seconds(sources: list[Source], backbones: dict[str, Backbone], decoder: DecoderName) -> float:
    """Processor seconds of decoding and resizing, on one thread, in this process."""
    import cv2

    cv2.setNumThreads(1)
    plans = tuple(backbone.plan for backbone in backbones.values())
    targets = [np.empty(plan.token_shape, plan.token_dtype) if plan.reduce else None for plan in plans]

    def emit(stream: int, window: Sequence[PreparedFrame]) -> None:
        if (target := targets[stream]) is not None:
            plans[stream].fill(window, target)

    began = time.process_time()
    for source in sources:
        frames = open_frames(source.path, decoder)
        decode_video(frames, plans, emit=emit, beat=lambda _n: None)
        frames.close()
    return time.process_time() - began


def alone_rate(backbone: Backbone) -> float:
    """Tokens per second of one network alone on all cores, batched as in the run; infinite where there is none."""
    if backbone.plan.reduce:
        return float("inf")
    size = backbone.batching.batch_size
    frames = torch.from_numpy(np.zeros((size, *backbone.plan.token_shape), backbone.plan.token_dtype))

    def run() -> None:
        if backbone.queue is None:
            backbone.embed(frames)
            return
        for pending in [backbone.queue.start(frames.numpy()) for _ in range(backbone.queue.n_streams)]:
            pending.features()

    run()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < ALONE_SECONDS:
        run()
        count += size * (backbone.queue.n_streams if backbone.queue is not None else 1)
    return count / (time.perf_counter() - began)


def run_extract(
    sources: list[Source], backbones: dict[str, Backbone], folder: Path, *, decoder: DecoderName, workers: int
) -> tuple[float, FlowCounts]:
    """Wall seconds of one extraction into a fresh cache, and what it did."""
    specs = [StreamSpec(name, b.dim, "float16", b.fingerprint()) for name, b in backbones.items()]
    labels = {source.id: VideoLabel(-1, "") for source in sources}
    work = take_inventory(sources, labels, {}, retry_rejects=False).work
    settings = FlowSettings("float16", decoder, PoolSettings(workers=workers), 0.2, 0.0, False, 16, 30.0)
    began = time.perf_counter()
    with CacheWriter.open(
        folder / "bench.zarr", streams=specs, dataset="bench", label_names=None, provenance={}
    ) as writer:
        flow = Flow(settings, backbones, writer=writer, device=torch.device("cpu"), digests={})
        counts = flow.run(work, console=Console(quiet=True), stop=threading.Event())
    return time.perf_counter() - began, counts


def main() -> None:
    """Run the rounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--streams", default="")
    parser.add_argument("--stream", action="append", default=[])
    parser.add_argument("--count", type=int, default=48, help="videos for extract, evenly chosen")
    parser.add_argument("--plain-count", type=int, default=8, help="videos of these for the plain loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--decoder", default="pyav")
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    everything = discover(arguments.src).sources
    step = max(1, len(everything) // arguments.count)
    sources = list(everything[::step][: arguments.count])
    named = [name for name in arguments.streams.split(",") if name]
    asked = [*named, *arguments.stream] or ["clip", "slowfast"]
    config = BackboneConfig.of(
        asked, weights="random", device="cpu", runtime=arguments.runtime, precision=arguments.precision
    )
    fast = load_backbones(config)
    plain_config = BackboneConfig.of(asked, weights="random", device="cpu", runtime="torch", precision="fp32")
    plain = list(load_backbones(plain_config).values())
    flops = {backbone.name: token_flops(backbone) for backbone in plain}
    native = cpu_has_bf16() and any(one.fingerprint()["precision"] == "bf16" for one in fast.values())
    precision: Precision = "bf16" if native else "fp32"
    cores = len(os.sched_getaffinity(0))
    prints = next(iter(fast.values())).fingerprint()
    per_token = ", ".join(f"{name} {value / 1e9:.1f} GFLOP a token" for name, value in flops.items())
    print(
        f"{cores} cores, runtime {prints['runtime']}, {prints['precision']}, decoder {arguments.decoder}; {per_token}"
    )
    shares, own_shares, ratios = [], [], []
    for number in range(1, arguments.rounds + 1):
        rates = [matrix_rate(torch.device("cpu"), precision)]
        alone = {name: [alone_rate(backbone)] for name, backbone in fast.items()}
        decode = decode_seconds(sources, fast, arguments.decoder)
        with tempfile.TemporaryDirectory() as folder:
            wall, report = run_extract(
                sources,
                fast,
                Path(folder),
                decoder=arguments.decoder,
                workers=arguments.workers or default_workers(),
            )
        rates.append(matrix_rate(torch.device("cpu"), precision))
        for name, backbone in fast.items():
            alone[name].append(alone_rate(backbone))
        plain_result = plain_loop(
            [source.path for source in sources[:: max(1, len(sources) // arguments.plain_count)]], plain
        )
        rate = statistics.mean(rates)
        total = sum(flops[name] * count for name, count in report.tokens.items())
        limit = decode / cores + total / rate
        shares.append(wall / limit)
        ceiling = decode / cores + sum(n / statistics.mean(alone[name]) for name, n in report.tokens.items())
        own_shares.append(wall / ceiling)
        speed = len(sources) / wall
        plain_speed = plain_result.n_videos / plain_result.seconds
        ratios.append(speed / plain_speed)
        embed = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.embed_seconds.items())
        print(
            f"round {number}: matrix {rate / 1e9:.0f} GFLOP/s ({rates[0] / 1e9:.0f}, {rates[1] / 1e9:.0f}), decode {decode:.1f} "
            f"CPU s, {total / 1e12:.2f} TFLOP, limit {limit:.1f} s; extract {wall:.1f} s ({embed}) = {shares[-1]:.2f} x limit, "
            f"{own_shares[-1]:.2f} x ceiling ({ceiling:.1f} s), {speed:.2f} videos/s = {report.video_seconds / wall:.1f} x real "
            f"time; plain {plain_speed:.3f} videos/s; {ratios[-1]:.1f} x the plain loop",
            flush=True,
        )
    print(
        f"median: {statistics.median(shares):.2f} x limit (bar 1.25), {statistics.median(own_shares):.2f} x ceiling, "
        f"{statistics.median(ratios):.1f} x plain loop (bar 3.5)"
    )


if __name__ == "__main__":
    main()
