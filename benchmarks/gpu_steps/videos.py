"""Videos to decode: made here, and a folder of real ones."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from gpu_steps.day import Day

SIZES = {(640, 360): 40, (1280, 720): 8, (1920, 1080): 4}


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
