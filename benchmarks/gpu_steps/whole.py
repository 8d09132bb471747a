"""The whole path from a video to a cache: speed beside the decode ceiling, memory, verify, the command, the tests."""

from __future__ import annotations

import cProfile
import pstats
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from gpu_steps.day import Day, shell


def sources_of(paths: list[Path], count: int) -> list[Any]:
    from pipeline.sources.tree import Source

    return [
        Source(f"{n:06d}/{paths[n % len(paths)].name}", paths[n % len(paths)], "", "", "")
        for n in range(count)
    ]


def steady(marks: list[float], began: float) -> dict[str, float]:
    """Rate between the 20th and the 90th hundredth: without the start of workers and the last batches."""
    if len(marks) < 10:
        return {"videos": len(marks), "wall_s": marks[-1] - began if marks else 0.0}
    low, high = int(len(marks) * 0.2), int(len(marks) * 0.9)
    return {
        "videos": len(marks),
        "first_s": marks[0] - began,
        "wall_s": marks[-1] - began,
        "videos_s_with_start": len(marks) / (marks[-1] - began),
        "videos_s": (high - low) / (marks[high] - marks[low]),
    }


def decode_alone(day: Day, paths: list[Path], count: int) -> dict[str, float]:
    from pipeline.decoding.pool import DecodePool, PoolSettings, default_workers
    from pipeline.decoding.worker import Finished, Task, WorkerSettings

    plans = tuple(b.plan for b in day.kept["backbones"].values())
    tasks = [Task(n, str(s.path), "pyav") for n, s in enumerate(sources_of(paths, count))]
    marks, began = [], time.perf_counter()
    with DecodePool(
        PoolSettings(workers=default_workers()), worker_settings=WorkerSettings(plans, max_error_share=0.2)
    ) as pool:
        for event in pool.run(tasks):
            if isinstance(event, Finished):
                marks.append(time.perf_counter())
    return steady(marks, began)


def extraction(day: Day) -> dict[str, Any]:
    """Steady speed of `extract` beside the pure decode ceiling, in turns.

    The ceiling is the same workers, decoder and resize with nobody behind them.
    """
    from pipeline.decoding.pool import default_workers

    counts = {"640x360": 700, "1280x720": 170, "1920x1080": 80, "real": 900}
    found: dict[str, Any] = {}
    for name, paths in day.kept["sets"].items():
        count = 2 if day.args.tiny else counts[name]
        alone: list[float] = []
        extracted: list[float] = []
        for _ in range(1 if day.args.tiny else 2):
            if day.left < 60 and extracted:
                break
            alone.append(decode_alone(day, paths, count).get("videos_s", 0.0))
            told = extract_set(day, name, count, default_workers())
            extracted.append(told.get("videos_s", 0.0))
            found[name] = {**told, "decode_alone_videos_s": alone, "extract_videos_s": extracted}
        if all(alone):
            found[name]["share_of_decode_alone"] = statistics.median(extracted) / statistics.median(alone)
        if day.left < 90:
            break
    return found


def extract_set(day: Day, name: str, count: int, workers: int) -> dict[str, Any]:
    """Steady speed beside decode alone, memory after 50 videos and after all."""
    import psutil
    import torch
    from rich.console import Console

    from cache.schema import StreamSpec, VideoLabel
    from cache.writer import CacheWriter
    from pipeline.decoding.pool import PoolSettings
    from pipeline.flow import Flow, FlowSettings
    from pipeline.sources.inventory import take_inventory

    models, paths = day.kept["backbones"], day.kept["sets"][name]
    marks: list[float] = []
    memory: dict[str, Any] = {}
    process = psutil.Process()

    def look() -> dict[str, int]:
        told = {"rss_mib": process.memory_info().rss >> 20}
        if day.cuda:
            free, total = torch.cuda.mem_get_info()
            told |= {
                "allocated_mib": torch.cuda.memory_allocated() >> 20,
                "peak_allocated_mib": torch.cuda.max_memory_allocated() >> 20,
                "reserved_mib": torch.cuda.memory_reserved() >> 20,
                "device_used_mib": (total - free) >> 20,
            }
            torch.cuda.reset_peak_memory_stats()
        return told

    class Watched(Flow):
        def _keep(self, features: Any, message: Any) -> None:
            super()._keep(features, message)
            marks.append(time.perf_counter())
            if len(marks) in (1, 50, 200, 500, 1000, 2000):
                memory[f"after {len(marks)}"] = look()

    runs: dict[str, Any] = {"before": look()}
    listed = sources_of(paths, count)
    work = take_inventory(listed, {s.id: VideoLabel(-1, "") for s in listed}, {}, retry_rejects=False).work
    specs = [StreamSpec(name, b.dim, "float16", b.fingerprint()) for name, b in models.items()]
    settings = FlowSettings("float16", "pyav", PoolSettings(workers=workers), 0.2, 0.0, False, 64, 5.0)
    out = day.work / f"gpu_{time.time_ns()}.h5"
    utilisation: list[int] = []
    done = threading.Event()
    watch = threading.Thread(target=watch_gpu, args=(utilisation, done), daemon=True)
    psutil.cpu_percent(percpu=True)
    with CacheWriter.open(out, streams=specs, dataset="day", label_names=None, provenance={}) as writer:
        flow = Watched(settings, models, writer=writer, device=torch.device(day.args.device), digests={})
        if day.cuda:
            watch.start()
        began, thread = time.perf_counter(), time.thread_time()
        report = flow.run(work, console=Console(quiet=True), stop=threading.Event())
        parent = time.thread_time() - thread
    done.set()
    busy = psutil.cpu_percent(percpu=True)
    told = steady(marks, began)
    runs |= told
    runs |= {
        "tokens": report.tokens,
        "rejected": report.rejected_now,
        "fallbacks": len(report.fallbacks),
        "restarts": report.worker_restarts,
        "windows_s": report.tokens.get("slowfast", 0) / max(told.get("wall_s", 0), 1e-9),
        "parent_thread_share": parent / max(told.get("wall_s", 0), 1e-9),
        "write_s": report.write_seconds,
        "models_busy_s": report.model_seconds,
        "idle_s": report.idle_seconds,
        "decode_wait_s": report.decode_wait_seconds,
        "cpu_percent": round(sum(busy) / len(busy)),
        "gpu_percent_median": statistics.median(utilisation) if utilisation else None,
        "memory": memory,
        "after all": look(),
    }
    day.kept["cache"], day.kept["paths"] = out, {s.id: s.path for s in listed}
    return runs


def parent(day: Day) -> dict[str, Any]:
    """What the process behind the pool spends a window: with stand-ins on this machine's cores, and where it goes on the device.

    The second is by cProfile, which slows what it looks at: its order counts, the time is `extraction`'s.
    """
    import parent as alone

    from pipeline.decoding.pool import default_workers

    folder = day.work / "parent"
    sources = alone.make_sources(folder, videos=4 if day.args.tiny else 400, seconds=5)
    windows, processor, wall = alone.extraction(
        sources, default_workers(), folder / f"{time.time_ns()}.zarr", lent_seconds=0.001
    )
    found: dict[str, Any] = {
        "stand_in_ms_a_window": 1000 * processor / windows,
        "stand_in_windows_s": windows / wall,
    }
    day.keep("parent", found)
    name = next(iter(day.kept["sets"]))
    profile = cProfile.Profile()
    profile.enable()
    try:
        told = extract_set(day, name, 1 if day.args.tiny else 300, default_workers())
    finally:
        profile.disable()
    rows = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    most = sorted(rows, key=lambda row: -row[1][2])[:16]
    calls = {
        f"{Path(file).name}:{line} {call}": {
            "calls": n,
            "own_s": round(own, 3),
            "with_below_s": round(total, 3),
        }
        for (file, line, call), (_, n, own, total, _) in most
    }
    return {**found, "set": name, "windows": told["tokens"].get("slowfast", 0), "calls": calls}


def memory(day: Day) -> dict[str, Any]:
    """Process and device over many more videos than any buffer holds."""
    from pipeline.decoding.pool import default_workers

    name = next(iter(day.kept["sets"])) if day.args.tiny else "640x360"
    told = extract_set(day, name, 2 if day.args.tiny else 2500, default_workers())
    return {
        key: told[key] for key in ("videos", "videos_s", "memory", "after all", "rejected") if key in told
    }


def watch_gpu(found: list[int], done: threading.Event) -> None:
    import torch

    while not done.wait(0.3):
        try:
            found.append(torch.cuda.utilization())
        except Exception:  # noqa: BLE001 - only a side view
            return


def verify(day: Day) -> dict[str, Any]:
    """Stored tokens of that cache against the plain models on the CPU: batching, order and padding included."""
    from cache.reader import open_cache
    from pipeline.verify import compare_video

    rng = np.random.default_rng(0)
    told: list[Any] = []
    misplaced: list[str] = []
    with open_cache(day.kept["cache"]) as cache:
        for index in rng.choice(len(cache.videos), 1 if day.args.tiny else 3, replace=False):
            path = day.kept["paths"][str(cache.videos.id[int(index)])]
            one = compare_video(cache, int(index), path, day.kept["backbones"], rng=rng)
            told += one.comparisons
            misplaced += one.misplaced
    return {"misplaced": misplaced} | {
        name: {"tokens": len(own), "worst_cosine": min(c.cosine for c in own)}
        for name in day.kept["backbones"]
        if (own := [c for c in told if c.stream == name])
    }


def command_line(day: Day) -> dict[str, Any]:
    """What a user types, from start to end: extract, verify."""
    if not day.args.src:
        return {"skipped": "no clips"}
    out = day.work / f"cli_{time.time_ns()}.zarr"
    shared = ["--src", day.args.src, "--device", day.args.device]
    extract = ["extract", *shared, "--out", str(out), "--weights", "random", "--profile"]
    check = ["verify", str(out), *shared, "--sample", "3"]
    found: dict[str, Any] = {}
    for command in (extract, check):
        began = time.perf_counter()
        program = "from onepass import main; main()"
        found[command[0]] = shell(sys.executable, "-c", program, *command, seconds=70)[-2500:]
        found[f"{command[0]}_s"] = time.perf_counter() - began
    return found


def tests(day: Day) -> dict[str, Any]:
    if not day.cuda:
        return {"skipped": "needs a device"}
    text = shell(
        "env",
        "ONEPASS_REQUIRE_CUDA=1",
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "cuda and not slow",
        "-W",
        "default",
        "-p",
        "no:cacheprovider",
        "tests/pipeline",
        seconds=150,
    )
    return {"pytest": text[-400:]}
