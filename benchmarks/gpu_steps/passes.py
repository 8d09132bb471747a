"""Forward passes alone: parity, bits, speed, and what one Python thread feeds."""

from __future__ import annotations

import gc
import time
from functools import partial
from typing import Any

import numpy as np

from gpu_steps.day import FRAME_FLOP, WINDOW_FLOP, Day, backbones, batch_of, compared, rate, sync
from gpu_steps.videos import samples


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
