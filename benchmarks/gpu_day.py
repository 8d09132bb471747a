"""Everything worth knowing of the CUDA path, in one run of about five minutes.

    python benchmarks/gpu_day.py --out DIR [--src CLIPS] [--seconds 440] [--device cuda] [--tiny] [--only STEP ...]

Each step's figures are in DIR/gpu_day.json as soon as it is done, a failed step's with its traceback: a run that is cut short
keeps what it found. Videos are made where no folder is given. `--device cpu --tiny` runs what a processor can, to find slips
before a machine is there.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

WINDOW_FLOP, FRAME_FLOP = 131.4e9, 5.9e9
"""torch's counter: a SlowFast window, a ViT-B-32 frame."""
SIZES = {(640, 360): 40, (1280, 720): 8, (1920, 1080): 4}


class Day:
    """Arguments, results, and what steps hand to one another."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.args, self.began = arguments, time.perf_counter()
        self.out = Path(arguments.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.work = Path(arguments.work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}

    @property
    def left(self) -> float:
        return self.args.seconds - (time.perf_counter() - self.began)

    @property
    def precision(self) -> Any:
        return "fp32" if self.args.tiny else "bf16"

    @property
    def cuda(self) -> bool:
        return bool(self.args.device == "cuda")

    def run(self, name: str, step: Callable[[Day], Any], *, needs_seconds: float) -> None:
        if self.args.only and name not in self.args.only:
            return
        if self.left < needs_seconds:
            self.results[name] = {"skipped": f"{self.left:.0f} s left"}
        else:
            began = time.perf_counter()
            try:
                found = step(self)
                self.results[name] = {**found, "took_s": round(time.perf_counter() - began, 1)}
            except BaseException as error:  # noqa: BLE001 - the next step still has something to tell
                self.results[name] = {
                    "failed": f"{type(error).__name__}: {error}",
                    "traceback": traceback.format_exc(),
                }
        (self.out / "gpu_day.json").write_text(
            json.dumps(self.results, indent=1, default=str), encoding="utf-8"
        )
        shown = {k: v for k, v in self.results[name].items() if k != "traceback"}
        print(
            f"[{time.perf_counter() - self.began:6.1f} s] {name}: {json.dumps(shown, default=str)[:1500]}",
            flush=True,
        )


def sync(day: Day) -> None:
    import torch

    if day.cuda:
        torch.cuda.synchronize()


def shell(*command: str, seconds: float = 10) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}"
    return (done.stdout + done.stderr).strip()


def rate(day: Day, once: Callable[[], object], *, seconds: float = 0.8) -> float:
    """Median seconds of one call, each waited for; warmed up."""
    for _ in range(1 if day.args.tiny else 3):
        once()
    sync(day)
    found: list[float] = []
    until = time.perf_counter() + seconds
    while not found or time.perf_counter() < until:
        began = time.perf_counter()
        once()
        sync(day)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


# --- what is here ------------------------------------------------------------------------------------------------------------


def environment(day: Day) -> dict[str, Any]:
    import psutil
    import torch

    shm = os.statvfs("/dev/shm")
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "cpu": shell("bash", "-c", "lscpu | grep -E 'Model name|Thread|^CPU.s.:' | tr -s ' '").splitlines(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": psutil.virtual_memory().total >> 30,
        "dev_shm_gib": round(shm.f_bavail * shm.f_frsize / 2**30, 1),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "nvidia_smi": shell(
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total,pcie.link.gen.current,"
            "pcie.link.width.current,clocks.sm",
            "--format=csv,noheader",
        ),
        "nvcuvid": shell(
            "bash", "-c", "ldconfig -p | grep nvcuvid; ls /usr/local/nvidia/lib*/libnvcuvid* 2>/dev/null"
        ),
    }
    if day.cuda:
        found["device"] = torch.cuda.get_device_name()
        found["bf16"] = torch.cuda.is_bf16_supported(including_emulation=False)
        torch.zeros(1, device="cuda")
        found["nvdec_h264"] = nvdec_caps()
    return found


def nvdec_caps() -> dict[str, Any]:
    """cuvidGetDecoderCaps for 8-bit 4:2:0 h264, in the context that torch made current."""

    class Caps(ctypes.Structure):
        _fields_ = [
            ("codec", ctypes.c_int),
            ("chroma", ctypes.c_int),
            ("depth_minus_8", ctypes.c_uint),
            ("reserved1", ctypes.c_uint * 3),
            ("supported", ctypes.c_ubyte),
            ("engines", ctypes.c_ubyte),
            ("formats", ctypes.c_ushort),
            ("max_width", ctypes.c_uint),
            ("max_height", ctypes.c_uint),
            ("max_mb", ctypes.c_uint),
            ("min_width", ctypes.c_ushort),
            ("min_height", ctypes.c_ushort),
            ("more", ctypes.c_uint * 16),
        ]

    for name in (
        "libnvcuvid.so.1",
        "/usr/local/nvidia/lib64/libnvcuvid.so.1",
        "/usr/local/nvidia/lib/libnvcuvid.so.1",
    ):
        try:
            library = ctypes.CDLL(name)
            break
        except OSError as error:
            why = str(error)
    else:
        return {"error": why}
    caps = Caps(codec=4, chroma=1, depth_minus_8=0)
    code = library.cuvidGetDecoderCaps(ctypes.byref(caps))
    return {
        "library": name,
        "code": code,
        "supported": caps.supported,
        "engines": caps.engines,
        "max": [caps.max_width, caps.max_height],
        "min": [caps.min_width, caps.min_height],
    }


def ceilings(day: Day) -> dict[str, Any]:
    import torch

    side, mib = (1024, 64) if day.args.tiny else (8192, 1024)
    device = torch.device(day.args.device)
    a, b = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    repeats = 1 if day.args.tiny else 10

    def products() -> None:
        for _ in range(repeats):
            torch.mm(a, b)

    found = {"bf16_tflops": repeats * 2 * side**3 / rate(day, products) / 1e12}
    windows = [
        np.random.default_rng(n).integers(0, 32000, (32, 256, 256, 3)).astype(np.int16)
        for n in range(2 if day.args.tiny else 16)
    ]
    host = torch.zeros((8, 32, 256, 256, 3), dtype=torch.int16, pin_memory=day.cuda)
    view, turn = host.numpy(), iter(range(10**9))

    def copy_window() -> None:
        n = next(turn)
        view[n % 8] = windows[n % len(windows)]

    found["host_window_copy_ms"] = rate(day, copy_window, seconds=0.5) * 1e3
    if day.cuda:
        big = torch.empty(mib << 20, dtype=torch.uint8, device=device).random_()
        other = torch.empty_like(big)
        found["device_copy_tb_s"] = 2 * (mib << 20) / rate(day, lambda: other.copy_(big)) / 1e12
        on_device = torch.empty_like(host, device=device)
        found["h2d_gb_s"] = host.nbytes / rate(day, lambda: on_device.copy_(host, non_blocking=True)) / 1e9
        found["d2h_gb_s"] = host.nbytes / rate(day, lambda: host.copy_(on_device, non_blocking=True)) / 1e9
    day.kept["tflops"] = found["bf16_tflops"]
    return found


# --- videos ------------------------------------------------------------------------------------------------------------------


def make_one(job: tuple[str, int, int, int, int]) -> None:
    """A textured scene that drifts and shakes, with moving shapes and grain: about what real clips cost to decode."""
    import av

    path, width, height, n_frames, seed = job
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 40, width // 8 + 40, 3)).astype(np.float32)
    big = np.kron(coarse, np.ones((8, 8, 1), np.float32))
    for axis in (0, 1):  # soft edges, as a lens gives
        big = (big + np.roll(big, 2, axis) + np.roll(big, -2, axis) + np.roll(big, 5, axis)) / 4
    grain = rng.normal(0, 3, (4, height, width, 1)).astype(np.float32)
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(30), options={"preset": "veryfast", "crf": "26"}
        )
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, "yuv420p", 1
        x, y = rng.uniform(0, width, 2)
        for n in range(n_frames):
            left, top = int(150 + 140 * np.sin(n / 37 + seed)), int(150 + 140 * np.cos(n / 29 + seed))
            frame = big[top : top + height, left : left + width] + grain[n % 4]
            x, y = (x + 5) % (width - 60), (y + 3) % (height - 60)
            frame[int(y) : int(y) + 60, int(x) : int(x) + 60] = (255 * (n % 7 < 3), 90, 160)
            picture = av.VideoFrame.from_ndarray(np.clip(frame, 0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def videos(day: Day) -> dict[str, Any]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    folder = day.work / "videos"
    folder.mkdir(exist_ok=True)
    sizes = {(320, 240): 2} if day.args.tiny else SIZES
    jobs = [
        (str(folder / f"{w}x{h}_{n:03d}.mp4"), w, h, 70 if day.args.tiny else 150, 100 * w + n)
        for (w, h), count in sizes.items()
        for n in range(count)
    ]
    jobs = [job for job in sorted(jobs, key=lambda job: -job[1]) if not Path(job[0]).exists()]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        list(pool.map(make_one, jobs))
    made = sorted(folder.glob("*.mp4"))
    day.kept["made"] = made
    smallest = min(sizes)
    sets = {f"{w}x{h}": [p for p in made if p.name.startswith(f"{w}x{h}_")] for w, h in sizes}
    if day.args.src:
        sets["real"] = sorted(Path(day.args.src).rglob("*.mp4"))
    day.kept["sets"] = {name: paths for name, paths in sets.items() if paths}
    day.kept["main"] = "real" if "real" in day.kept["sets"] else f"{smallest[0]}x{smallest[1]}"
    return {
        name: {"files": len(p), "mean_kb": round(sum(q.stat().st_size for q in p) / 1000 / len(p))}
        for name, p in day.kept["sets"].items()
    }


# --- models ------------------------------------------------------------------------------------------------------------------


def backbones(
    day: Day, precision: str, only: str = "", batch_size: int = 0, engine: str = "graph"
) -> dict[str, Any]:
    from pipeline.backbones.load import BackboneConfig, load_backbones

    return load_backbones(
        BackboneConfig.of(
            streams=(only,) if only else ("clip", "slowfast"),
            clip_weights="random",
            slowfast_weights="random",
            device=day.args.device,
            precision=precision,
            runtime="torch",
            batch_sizes=((only, batch_size),) if batch_size else (),
            gpu_engine=engine,
        )
    )


def load(day: Day) -> dict[str, Any]:
    import torch

    began = time.perf_counter()
    day.kept["backbones"] = found = backbones(day, day.precision)
    sync(day)
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "allocated_mib": torch.cuda.memory_allocated() >> 20 if day.cuda else None,
        "batching": {name: str(b.batching) for name, b in found.items()},
    }


def samples(day: Day) -> dict[str, list[list[Any]]]:
    """Raw frames of a few windows and frames of as many videos, spread over the sizes."""
    from pipeline.decoding.decoders.base import open_frames

    if "samples" in day.kept:
        return day.kept["samples"]
    found: dict[str, list[list[Any]]] = {"slowfast": [], "clip": []}
    paths = [p for group in day.kept["sets"].values() for p in (group[:1] if day.args.tiny else group[:4])]
    for path in paths:
        source = open_frames(path, "pyav")
        frames = [frame.rgb() for _, frame in zip(range(64), source, strict=False)]
        source.close()
        if len(frames) == 64:
            found["slowfast"].append(frames[::2])
        found["clip"] += [[frames[0]], [frames[len(frames) // 2]]]
    day.kept["samples"] = found
    return found


def compared(fast: Any, plain: Any) -> dict[str, float]:
    """Own cosine; the same without the mean token, since random weights give tokens that are nearly alike; nearest neighbour."""
    a, b = np.asarray(fast, np.float64), np.asarray(plain, np.float64)

    def cosine(x: Any, y: Any) -> Any:
        return (x * y).sum(-1) / np.maximum(np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1), 1e-30)

    centre = b.mean(0)
    table = cosine((a - centre)[:, None], (b - centre)[None])
    apart = cosine(b[:, None], b[None])[~np.eye(len(b), dtype=bool)]
    return {
        "tokens": len(a),
        "worst_cosine": float(cosine(a, b).min()),
        "worst_relative_error": float((np.abs(a - b).max(1) / np.abs(b).max(1)).max()),
        "worst_centred_cosine": float(np.diag(table).min()),
        "nearest_is_own": int((table.argmax(1) == np.arange(len(a))).sum()),
        "closest_two_tokens": float(apart.max()) if len(apart) else 0.0,
    }


def parity(day: Day) -> dict[str, Any]:
    """Tokens on the device against the plain models on the CPU, by precision; fp32 with and without TF32 in cuDNN."""
    import torch

    from pipeline.decoding.frames import prepare_frame

    raw = samples(day)
    models = day.kept["backbones"]
    plain = {name: [models[name].embed_plainly(frames) for frames in raw[name]] for name in models}
    prepared = {
        name: [
            torch.from_numpy(np.stack([prepare_frame(f, models[name].plan.frames) for f in frames]))
            for frames in raw[name]
        ]
        for name in models
    }

    def run(found: dict[str, Any]) -> dict[str, Any]:
        told = {}
        for name, backbone in found.items():
            tokens = [
                backbone.embed(part[None].to(day.args.device))[0].float().cpu().numpy()
                for part in prepared[name]
            ]
            told[name] = compared(tokens, plain[name])
        return told

    result = {str(day.precision): run(models)}
    for precision in () if day.args.tiny else ("fp16", "fp32") if day.cuda else ("fp32",):
        other = backbones(day, precision)
        result[precision] = run(other)
        del other
        gc.collect()
    return result


def batch_of(day: Day, name: str, size: int) -> Any:
    """Random frames on the device: zeros run faster than real ones."""
    import torch

    plan = day.kept["backbones"][name].plan
    high, dtype = (256, torch.uint8) if name == "clip" else (255 * 128, torch.int16)
    return torch.randint(
        0, high, (size, plan.sampling.window, *plan.frames.shape), dtype=dtype, device=day.args.device
    )


def bitwise(day: Day) -> dict[str, Any]:
    """Is a token the same bits again, in another place of its batch, beside padding, and while the other stream runs?"""
    import torch

    found = {}
    for name, backbone in day.kept["backbones"].items():
        size = 2 if day.args.tiny else backbone.batching.batch_size
        batch = batch_of(day, name, size)
        first = backbone.embed(batch)
        turned = backbone.embed(batch.roll(1, 0)).roll(-1, 0)
        padded = batch.clone()
        padded[size // 2 :] = 0
        half = backbone.embed(padded)[: size // 2]
        told = {
            "again": bool(
                all(torch.equal(first, backbone.embed(batch)) for _ in range(1 if day.args.tiny else 8))
            ),
            "other_place": bool(torch.equal(first, turned)),
            "beside_padding": bool(torch.equal(first[: size // 2], half)),
        }
        if day.cuda:
            side, other = torch.cuda.Stream(), next(n for n in day.kept["backbones"] if n != name)
            load_batch = batch_of(day, other, 16)
            torch.cuda.synchronize()
            same = True
            for _ in range(8):
                with torch.cuda.stream(side):
                    day.kept["backbones"][other].embed(load_batch)
                same &= bool(torch.equal(first, backbone.embed(batch)))
            told["beside_other_stream"] = same
        found[name] = told
    return found


def speed(day: Day) -> dict[str, Any]:
    """Windows and frames a second of the forward pass alone: by batch size, recorded and launched one by one, time to launch."""
    found: dict[str, Any] = {}
    sizes = {
        "slowfast": (1,) if day.args.tiny else (2, 8, 16),
        "clip": (2,) if day.args.tiny else (64, 128, 256),
    }
    for name, flop in (("slowfast", WINDOW_FLOP), ("clip", FRAME_FLOP)):
        lines: dict[str, Any] = {}
        for engine in ("graph", "eager") if day.cuda else ("eager",):
            for size in sizes[name]:
                own = backbones(day, day.precision, name, size, engine)[name]
                batch = batch_of(day, name, size)
                seconds = rate(day, partial(own.embed, batch), seconds=0.6)
                began = time.perf_counter()
                own.embed(batch)
                launch = time.perf_counter() - began
                sync(day)
                lines[f"{size} {engine}"] = {
                    "a_second": size / seconds,
                    "tflops": size * flop / seconds / 1e12,
                    "launch_ms": launch * 1e3,
                }
                del own
                gc.collect()
        found[name] = lines
    return found


def runner(day: Day) -> dict[str, Any]:
    """Batches through the launcher as `extract` sends them, from memory: what one Python thread feeds."""
    import torch

    from pipeline.backbones.batching import StreamRunner

    found = {}
    for name, backbone in day.kept["backbones"].items():
        plan, size = backbone.plan, backbone.batching.batch_size
        n_batches = 1 if day.args.tiny else 60
        dtype = plan.frames.dtype
        source = [
            np.random.default_rng(n)
            .integers(0, 255, (1, plan.sampling.window, *plan.frames.shape))
            .astype(dtype)
            for n in range(1 if day.args.tiny else 24)
        ]
        stream = StreamRunner(backbone, device=torch.device(day.args.device))
        for index in range(0 if day.args.tiny else size * 4):
            stream.add(0, 0, index, source[index % len(source)])
        stream.flush()
        began, thread = time.perf_counter(), time.thread_time()
        for index in range(n_batches * size if not day.args.tiny else size):
            stream.add(0, 0, index, source[index % len(source)])
        stream.flush()
        wall, busy = time.perf_counter() - began, time.thread_time() - thread
        count = n_batches * size
        found[name] = {
            "a_second": count / wall,
            "parent_ms_each": busy / count * 1e3,
            "busy_share": stream.busy.seconds / wall,
        }
    return found


# --- the whole path ----------------------------------------------------------------------------------------------------------


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
            if len(marks) in (1, 50, 200, 500, 1000):
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


def profiled(day: Day) -> dict[str, Any]:
    """torch's profile of two batches a stream, into profile.txt."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if day.cuda else [])]
    text, found = [], {}
    for name, backbone in day.kept["backbones"].items():
        batch = batch_of(day, name, 1 if day.args.tiny else backbone.batching.batch_size)
        backbone.embed(batch)
        sync(day)
        with profile(activities=activities, record_shapes=True) as watched:
            for _ in range(1 if day.args.tiny else 2):
                backbone.embed(batch)
            sync(day)
        for group in (0, 5):
            rows = watched.key_averages(group_by_input_shape=bool(group))
            key = "self_device_time_total" if day.cuda else "self_cpu_time_total"
            text.append(
                f"=== {name}, batch {len(batch)}\n"
                + rows.table(sort_by=key, row_limit=25, max_name_column_width=60)
            )
        found[name] = {
            "kernels": sum(1 for e in watched.events() if "CUDA" in str(getattr(e, "device_type", "")))
        }
    (day.out / "profile.txt").write_text("\n\n".join(text), encoding="utf-8")
    return found


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


def decode_hw(path: str, hardware: bool) -> tuple[int, float]:
    import av
    from av.codec.hwaccel import HWAccel

    began, count = time.perf_counter(), 0
    accel = HWAccel("cuda", allow_software_fallback=False) if hardware else None
    with av.open(path, hwaccel=accel) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for _ in container.decode(stream):
            count += 1
    return count, time.perf_counter() - began


def nvdec(day: Day) -> dict[str, Any]:
    """Frames a second that PyAV decodes on NVDEC from a process a core, beside the processor's own."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    found: dict[str, Any] = {}
    n = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool:
        for hardware in (False, True) if day.cuda else (False,):
            for size, own in day.kept["sets"].items():
                paths = [str(path) for path in own] * (3 * n)
                list(pool.map(decode_hw, paths[:n], [hardware] * n))
                began = time.perf_counter()
                done = list(pool.map(decode_hw, paths[: 3 * n], [hardware] * 3 * n))
                seconds = time.perf_counter() - began
                found[f"{size}{' hw' * hardware}"] = sum(count for count, _ in done) / seconds
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
        "cuda",
        "-W",
        "default",
        "-p",
        "no:cacheprovider",
        "tests/pipeline",
        seconds=60,
    )
    return {"pytest": text[-400:]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="gpu-day")
    parser.add_argument("--work", default=str(Path(__import__("tempfile").gettempdir()) / "gpu-day"))
    parser.add_argument("--src", default="")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=float, default=440)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", nargs="*", default=[])
    day = Day(parser.parse_args())
    steps: list[tuple[str, Callable[[Day], Any], float]] = [
        ("environment", environment, 5),
        ("ceilings", ceilings, 15),
        ("videos", videos, 40),
        ("load", load, 30),
        ("parity", parity, 60),
        ("bitwise", bitwise, 15),
        ("speed", speed, 40),
        ("runner", runner, 20),
        ("extraction", extraction, 60),
        ("verify", verify, 30),
        ("profiled", profiled, 15),
        ("command_line", command_line, 60),
        ("tests", tests, 30),
        ("nvdec", nvdec, 30),
    ]
    for name, step, needed in steps:
        day.run(name, step, needs_seconds=needed)
    failed = [name for name, found in day.results.items() if "failed" in found]
    print(f"{time.perf_counter() - day.began:.0f} s; failed: {', '.join(failed) or 'none'}")


if __name__ == "__main__":
    main()
