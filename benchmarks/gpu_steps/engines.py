"""How passes reach a GPU: one by one, recorded, or compiled; what they take beside what bytes and products allow, and where."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from gpu_steps.day import FRAME_FLOP, WINDOW_FLOP, Day, backbones, compared, rate, sync

CASES = (
    ("slowfast", "graph", 16),
    ("slowfast", "graph beside", 16),
    ("slowfast", "compile", 16),
    ("clip", "graph", 128),
    ("clip", "compile", 128),
    ("slowfast", "graph searched", 16),
    ("slowfast", "graph beside searched", 16),
    ("slowfast", "compile beside", 16),
    ("slowfast", "compile apart", 16),
    ("slowfast", "eager", 16),
    ("clip", "eager", 128),
    ("slowfast", "graph", 8),
    ("slowfast", "compile", 8),
    ("slowfast", "eager", 8),
)
"""Stream, engine and batch size, what is least known first. `beside`: SlowFast's fast pathway computes `BESIDE` frames side by

side in its four stages. `apart`: its bias, shortcut and ReLU are left to the compiler. `searched`: cuDNN times its kernels for
each shape and takes the fastest, which may be another one tomorrow.
"""
BESIDE = (8, 4, 2, 1)
SMALL = "clip=timm:test_vit,weights=random"
"""Stands for CLIP where a processor tries the step out."""
TOKENS = {"slowfast": 6, "clip": 24}
MOST_ROWS = 25


def pictures(count: int, seed: int) -> list[Any]:
    """Frames of a textured scene that moves, uint8 [256, 340, 3], no two seeds alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (48, 60, 3), dtype=np.uint8) // (1 + seed % 3)
    scene = coarse.repeat(8, 0).repeat(8, 1)
    step = 1 + seed % 5
    return [np.ascontiguousarray(scene[n % 64 :][:256, step * n % 60 :][:, :340]) for n in range(count)]


def reference(day: Day, name: str, backbone: Any) -> tuple[Any, Any]:
    """Prepared frames and what the plain model on the CPU makes of them, float32; made once."""
    import torch

    from pipeline.decoding.frames import prepare_frame

    if name not in day.kept.setdefault("reference", {}):
        count = 2 if day.args.tiny else TOKENS[name]
        window = backbone.plan.sampling.window
        raw = [pictures(window, seed) for seed in range(count)]
        frames = [np.stack([prepare_frame(f, backbone.plan.frames) for f in each]) for each in raw]
        tokens = np.stack([backbone.embed_plainly(each) for each in raw])
        day.kept["reference"][name] = torch.from_numpy(np.stack(frames)), tokens
    found: tuple[Any, Any] = day.kept["reference"][name]
    return found


@contextlib.contextmanager
def arranged(engine: str) -> Iterator[None]:
    """What the words after an engine's name say, for what is loaded meanwhile."""
    import torch

    from pipeline.backbones import slowfast_planes as planes

    before = planes.FUSED_WHEN_COMPILED, planes.FAST_BESIDE, torch.backends.cudnn.benchmark
    words = engine.split()
    planes.FUSED_WHEN_COMPILED = "apart" not in words
    planes.FAST_BESIDE = BESIDE if "beside" in words else planes.FAST_BESIDE
    torch.backends.cudnn.benchmark = "searched" in words
    try:
        yield
    finally:
        planes.FUSED_WHEN_COMPILED, planes.FAST_BESIDE, torch.backends.cudnn.benchmark = before


def measured(day: Day, name: str, engine: str, size: int, precision: str) -> tuple[dict[str, Any], Any]:
    """One engine at one batch size: load and compile, speed, launch, parity, bits. And the backbone."""
    import torch

    began = time.perf_counter()
    with arranged(engine):
        stream = SMALL if day.args.tiny else name
        own = backbones(day, precision, stream, size, engine.split()[0])[name]
    sync(day)
    told: dict[str, Any] = {"load_s": time.perf_counter() - began}
    frames, plain = reference(day, name, own)
    whole = frames.repeat(-(-size // len(frames)), 1, 1, 1, 1)[:size].to(day.args.device)
    features = own.embed(whole)
    told["bits_again"] = all(
        torch.equal(features, own.embed(whole)) for _ in range(1 if day.args.tiny else 8)
    )
    told["bits_in_another_place"] = torch.equal(features, own.embed(whole.roll(1, 0)).roll(-1, 0))
    seconds = rate(day, partial(own.embed, whole), seconds=0.8)
    began = time.perf_counter()
    own.embed(whole)
    told["launch_ms"] = (time.perf_counter() - began) * 1e3
    sync(day)
    told["a_second"] = size / seconds
    told["tflops"] = size * {"slowfast": WINDOW_FLOP, "clip": FRAME_FLOP}[name] / seconds / 1e12
    told["share_of_products"] = told["tflops"] / day.kept["tflops"]
    if name == "slowfast" and "tb_s" in day.kept:
        told["bound_a_second"] = 1 / bound_seconds(size, day.kept["tflops"], day.kept["tb_s"])
        told["share_of_bound"] = told["a_second"] / told["bound_a_second"]
    told["parity"] = compared(features[: len(frames)].float().cpu().numpy(), plain)
    return told, own


def engines(day: Day) -> dict[str, Any]:
    """Every engine on the streams that `extract` makes, with the slowest kernels of what is recorded."""
    found: dict[str, Any] = {}
    graph_load = dict.fromkeys(("slowfast", "clip"), 0.0)
    for name, engine, size in (("clip", "eager", 2),) if day.args.tiny else CASES:
        if not day.cuda and engine != "eager":
            continue
        try:
            told, own = measured(day, name, engine, size, day.precision)
            if engine == "graph":
                graph_load[name] = told["load_s"]
            if engine.startswith("compile"):
                told["compile_s"] = told["load_s"] - graph_load[name]
            if size != 8 and engine != "eager":
                told["kernels"] = kernels(day, own, name, size)
            del own
        except Exception as error:  # noqa: BLE001 - the other engines still say something
            told = {"failed": f"{type(error).__name__}: {error}"}
        found.setdefault(name, {})[f"{size} {engine}"] = told
        gc.collect()
        day.keep("engines", found)
    return found


def kernels(day: Day, backbone: Any, name: str, size: int) -> list[dict[str, Any]]:
    """The device's own times of one pass, kernels of one name together, the slowest first."""
    from torch.profiler import ProfilerActivity, profile

    frames = reference(day, name, backbone)[0].repeat(-(-size // TOKENS[name]), 1, 1, 1, 1)[:size]
    batch = frames.to(day.args.device)
    activities = [ProfilerActivity.CUDA] if day.cuda else [ProfilerActivity.CPU]
    with profile(activities=activities) as watched:
        for _ in range(4):
            backbone.embed(batch)
        sync(day)
    sums: dict[str, list[float]] = {}
    for event in watched.events():
        if "CUDA" in str(event.device_type) or not day.cuda:
            sums.setdefault(event.name, []).append(event.device_time if day.cuda else event.cpu_time)
    total = sum(map(sum, sums.values()))
    slowest = sorted(sums.items(), key=lambda item: -sum(item[1]))[:MOST_ROWS]
    return [
        {"name": kernel[:110], "calls": len(us) / 4, "ms": sum(us) / 4e3, "share": sum(us) / total}
        for kernel, us in slowest
    ]


def bound_seconds(batch: int, tflops: float, tb_s: float) -> float:
    """Seconds a window that the published model's convolutions would take in 16 bits, each by its bytes or by its products,

    whichever is slower. Bytes: of input, weights, output, and of the shortcut where it is added.
    """
    import torch
    from pytorchvideo.models.hub import slowfast_r50
    from torch import nn

    model = slowfast_r50(pretrained=False).eval().to("meta")
    total = [0.0]
    thirds = {module for name, module in model.named_modules() if name.endswith("conv_c")}

    def add(conv: nn.Module, inputs: tuple[Any, ...], out: Any) -> None:
        weight = conv.weight.numel()  # type: ignore[operator]
        shortcut = conv in thirds
        moved = 2 * (inputs[0].numel() + (1 + shortcut) * out.numel() + weight / batch)
        total[0] += max(moved / tb_s, 2 * out.numel() * weight / out.shape[1] / tflops) / 1e12

    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(add)
    fast = torch.empty(1, 3, 32, 256, 256, device="meta")
    with torch.no_grad():
        model([fast[:, :, ::4], fast])
    return total[0]


def convolutions(day: Day) -> dict[str, Any]:
    """`one_by_one` of SlowFast as it is run, and with its fast frames side by side."""
    found: dict[str, Any] = {}
    for name in ("graph", "graph beside"):
        with arranged(name):
            found[name] = one_by_one(day)
        day.keep("convolutions", found)
    return found


def one_by_one(day: Day) -> dict[str, Any]:
    """Each convolution of SlowFast alone as it is run, beside its own bytes and products: which of them are far from both.

    Alike ones stand in one row. `rest_ms` is what a pass takes beside them: stems' gathering, pools, joins; `rest_bytes_ms` what
    the bytes of that would take.
    """
    import torch

    from gpu_steps.moved import Moved
    from pipeline.backbones import slowfast_planes as planes

    size, side = (1, 32) if day.args.tiny else (16, 256)
    seen: list[tuple[Any, ...]] = []
    moved = Moved()
    real, bare = planes._convolve, planes._unbiased

    def watch_convolve(x: Any, conv: Any, plus: Any, relu: bool) -> Any:
        seen.append((real, (x, conv, plus, relu), conv, x, plus))
        with moved.aside():
            return real(x, conv, plus, relu)

    def watch_bare(conv: Any, x: Any) -> Any:
        seen.append((bare, (conv, x), conv, x, None))
        with moved.aside():
            return bare(conv, x)

    own = planes_of(day, size, side)
    planes._convolve, planes._unbiased = watch_convolve, watch_bare  # type: ignore[assignment]
    try:
        with torch.inference_mode(), moved:
            own()
    finally:
        planes._convolve, planes._unbiased = real, bare
    rows: dict[str, dict[str, Any]] = {}
    peak, bandwidth = day.kept["tflops"] * 1e12, day.kept.get("tb_s", 0.05) * 1e12
    with torch.inference_mode():
        for run, given, conv, x, plus in seen:
            out = run(*given)
            flop = 2 * out.numel() * conv.weight[0].numel()
            size_bytes = x.element_size() * sum(
                t.numel() for t in (x, out, conv.weight, plus) if t is not None
            )
            ms = time_alone(day, partial(run, *given))
            shape = f"{conv.over} {list(x.shape)} x {list(conv.weight.shape)} /{conv.stride[0]}"
            key = shape + " + shortcut" * (plus is not None)
            row = rows.setdefault(key, {"calls": 0, "ms": 0.0, "bytes_ms": 0.0, "products_ms": 0.0})
            row["calls"] += 1
            row["ms"] += ms
            row["bytes_ms"] += size_bytes / bandwidth * 1e3
            row["products_ms"] += flop / peak * 1e3
    lost = {key: row["ms"] - max(row["bytes_ms"], row["products_ms"]) for key, row in rows.items()}
    whole = rate(day, own, seconds=0.5) * 1e3
    together = sum(row["ms"] for row in rows.values())
    return {
        "batch": size,
        "pass_ms_one_by_one": whole,
        "convolutions_ms": together,
        "rest_ms": whole - together,
        "rest_bytes_ms": sum(moved.n_bytes.values()) / bandwidth * 1e3,
        "rest_mb": {
            key: round(n / 1e6, 1) for key, n in sorted(moved.n_bytes.items(), key=lambda item: -item[1])[:12]
        },
        "bound_ms": sum(max(row["bytes_ms"], row["products_ms"]) for row in rows.values()),
        "kinds": len(rows),
        "most_lost": {key: rows[key] for key in sorted(lost, key=lambda key: -lost[key])[:MOST_ROWS]},
    }


def planes_of(day: Day, size: int, side: int) -> Callable[[], Any]:
    """A pass of SlowFast's planes over noise, without its head: the maps' sizes are free, for a small trial."""
    import torch
    from pytorchvideo.models.slowfast import create_slowfast

    from pipeline.backbones.base import DTYPES, seeded
    from pipeline.backbones.slowfast import fold, slow_frame_index
    from pipeline.backbones.slowfast_planes import PlanesSlowFast

    with seeded(0):
        depth = 18 if day.args.tiny else 50
        whole = create_slowfast(model_depth=depth, slowfast_fusion_conv_kernel_size=(7, 1, 1))
    model = fold(whole.eval()).blocks[:5]
    dtype = DTYPES[day.precision]
    own = PlanesSlowFast(model.to(device=day.args.device, dtype=dtype))
    fast = torch.randn(size, 32, side, side, 3, device=day.args.device).to(dtype)
    slow = fast[:, slow_frame_index().to(day.args.device)]
    return torch.inference_mode()(lambda: own(slow, fast))


def time_alone(day: Day, once: Callable[[], object]) -> float:
    """Milliseconds of one call among many that are queued at once: what the device takes, not what Python does."""
    import torch

    if not day.cuda:
        began = time.perf_counter()
        once()
        return (time.perf_counter() - began) * 1e3
    graph, repeats = torch.cuda.CUDAGraph(), 10
    once()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            once()
    graph.replay()
    began_event, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began_event.record()
    graph.replay()
    ended.record()
    torch.cuda.synchronize()
    return float(began_event.elapsed_time(ended)) / repeats


def fp16(day: Day) -> dict[str, Any]:
    """What an older device would run: the recorded engine in fp16."""
    cases = {"clip": 2} if day.args.tiny else {"slowfast": 16, "clip": 128}
    precision, engine = ("fp16", "graph") if day.cuda else ("fp32", "eager")
    found: dict[str, Any] = {}
    for name, size in cases.items():
        found[name], own = measured(day, name, engine, size, precision)
        del own
        gc.collect()
    return found
