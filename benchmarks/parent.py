"""What the process behind the decode pool spends a SlowFast window and the CLIP frames beside it: its limit on a GPU machine.

    python benchmarks/parent.py [--videos 600] [--seconds 5] [--rounds 5] [--slots-ms 1] [--calls]

Everything is the real thing (inventory, pool, workers, decoder, flow, writer, commits of 256 videos) but the two networks and the
device: a batch is done a millisecond after its launch, and windows are lent to the copy for --slots-ms, as a CUDA device reads
them from where the workers left them. Pictures are small, since under CUDA no frame passes through this process, whatever its
size. Two runs in turn: the pool with nobody behind it, which hands each window back at once, and the extraction. Printed are
processor seconds of this process alone (all its threads, no worker's), a window; 1 / that is what one process can take, and the
bar is 1 ms. --calls also prints where they go, by cProfile, which slows what it looks at.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cache.reader import open_cache
from cache.schema import StreamSpec, VideoLabel
from cache.writer import CacheWriter
from pipeline.backbones import batching
from pipeline.backbones.base import Batching
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import FramePlan
from pipeline.decoding.pool import DecodePool, PoolSettings, TokenFrames
from pipeline.decoding.sampling import Sampling
from pipeline.decoding.worker import Task, WorkerSettings
from pipeline.flow import Flow, FlowSettings
from pipeline.sources.inventory import take_inventory
from pipeline.sources.tree import Source

BAR_MS = 1.0
SIDE = 32
"""Pixels of a prepared picture: what this process does is the same for any."""
PLANS = {
    "clip": (StreamPlan("clip", Sampling(2.0), FramePlan("pil-bicubic", SIDE)), 512, 128),
    "slowfast": (StreamPlan("slowfast", Sampling(15.0, 32, 32), FramePlan("linear-fixed", SIDE)), 2304, 16),
}


class StandIn:
    """A backbone of whose network only the width is left."""

    queue, note = None, ""

    def __init__(self, name: str) -> None:
        self.name = name
        self.plan, self.dim, batch = PLANS[name]
        self.batching = Batching(batch)

    def fingerprint(self) -> dict[str, Any]:
        """Named for what it is."""
        return {"stream": self.name, "weights": {"tag": "stand-in"}, "runtime": "none", "precision": "fp32"}

    def embed(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """Not called: the device stands in for it."""
        raise NotImplementedError

    def embed_plainly(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """There is no reference for a stand-in."""
        raise NotImplementedError


class Device:
    """The launcher of a device that copies by itself: `fill` only says when it will have read."""

    in_flight = 2

    def __init__(self, backbone: StandIn, lent_seconds: float) -> None:
        self._dim, self._lent_seconds = backbone.dim, lent_seconds
        self._ramp = np.linspace(0, 1, backbone.dim, dtype=np.float32)

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Nothing is put there."""
        return torch.zeros(shape[0], dtype=dtype)

    def fill(self, buffer: torch.Tensor, at: int, frames: NDArray[Any]) -> Callable[[], bool]:
        """Read once the time is over."""
        return after(self._lent_seconds)

    def launch(self, frames: torch.Tensor) -> Batch:
        """Done in a millisecond."""
        return Batch(np.tile(self._ramp, (len(frames), 1)))


class Batch:
    """Features that are there a millisecond after the launch."""

    def __init__(self, features: NDArray[np.float32]) -> None:
        self._features, self.ended_seconds = features, time.perf_counter() + 0.001

    def poll(self, timeout_seconds: float = 0.0) -> bool:
        """Whether the time is over; waits as the launcher of a CUDA device does."""
        if time.perf_counter() < self.ended_seconds and timeout_seconds > 0:
            time.sleep(min(timeout_seconds, 0.0005))
        return time.perf_counter() >= self.ended_seconds

    def features(self) -> NDArray[np.float32]:
        """float32 [B, D]."""
        return self._features


def after(seconds: float) -> Callable[[], bool]:
    """Says yes once so many seconds have gone by."""
    until = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= until


def write_video(path: Path, seconds: float) -> None:
    """64 x 48 pixels at 30 fps in h264: a square that moves."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(round(30 * seconds)):
            picture = np.full((48, 64, 3), 60, np.uint8)
            picture[10:30, index % 40 : index % 40 + 20] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def make_sources(folder: Path, *, videos: int, seconds: float) -> list[Source]:
    """One made video under so many names."""
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "clip.mp4", seconds)
    found = []
    for number in range(videos):
        shutil.copyfile(folder / "clip.mp4", path := folder / f"{number:06d}.mp4")
        found.append(Source(path.name, path, "", "", ""))
    return found


class Spent:
    """Processor seconds of this process and wall seconds, while it lasts; start-up of workers left out by `begin`."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """From now on."""
        self._processor, self._wall = time.process_time(), time.perf_counter()

    def end(self) -> tuple[float, float]:
        """(processor seconds, wall seconds)."""
        return time.process_time() - self._processor, time.perf_counter() - self._wall


def pool_alone(sources: list[Source], workers: int) -> tuple[int, float, float]:
    """(SlowFast windows, processor seconds, wall seconds) from the first window on."""
    settings = WorkerSettings(tuple(plan for plan, _, _ in PLANS.values()), max_error_share=0.2)
    tasks = [Task(number, str(source.path), "pyav") for number, source in enumerate(sources)]
    windows, spent = 0, Spent()
    with DecodePool(PoolSettings(workers=workers), worker_settings=settings) as pool:
        for event in pool.run(tasks):
            if isinstance(event, TokenFrames) and event.stream == 1:
                if not windows:
                    spent.begin()
                windows += len(event.frames)
        told = spent.end()
    return windows, *told


def extraction(
    sources: list[Source], workers: int, out: Path, lent_seconds: float
) -> tuple[int, float, float]:
    """The same of a whole flow; what was stored is counted against what was there."""
    models: dict[str, Any] = {name: StandIn(name) for name in PLANS}
    labels = {source.id: VideoLabel(-1, "") for source in sources}
    work = take_inventory(sources, labels, {}, retry_rejects=False).work
    specs = [StreamSpec(name, one.dim, "float16", one.fingerprint()) for name, one in models.items()]
    settings = FlowSettings("float16", "pyav", PoolSettings(workers=workers), 0.2, 0.0, False, 256, 5.0)
    spent = Spent()

    class FromFirst(Flow):
        def _take(self, event: Any) -> None:
            if not self._began and isinstance(event, TokenFrames) and event.stream == 1:
                self._began = True
                spent.begin()
            super()._take(event)

        _began = False

    launchers = mock.patch.object(batching, "make_launcher", lambda one, _: Device(one, lent_seconds))
    with (
        launchers,
        CacheWriter.open(out, streams=specs, dataset="parent", label_names=None, provenance={}) as writer,
    ):
        flow = FromFirst(settings, models, writer=writer, device=torch.device("cpu"), digests={})
        counts = flow.run(work, console=Console(quiet=True), stop=threading.Event())
        told = spent.end()
    with open_cache(out) as cache:
        n_windows = cache.streams["slowfast"].n_tokens
        if len(cache.videos) != len(sources) or counts.rejected_now:
            sys.exit(f"{len(cache.videos)} of {len(sources)} videos were stored")
    return n_windows, *told


def main() -> None:
    """Make a video, run both in turn, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a video")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slots-ms", type=float, default=1.0, help="how long a window is lent to the copy")
    parser.add_argument("--calls", action="store_true", help="where the time goes, of one more extraction")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources = make_sources(folder, videos=options.videos, seconds=options.seconds)
        lent = options.slots_ms / 1000
        rows: dict[str, list[tuple[float, float]]] = {"pool alone": [], "extraction": []}
        for turn in range(options.rounds):
            for name, found in (
                ("pool alone", pool_alone(sources, options.workers)),
                ("extraction", extraction(sources, options.workers, folder / f"{turn}.zarr", lent)),
            ):
                windows, processor, wall = found
                rows[name].append((1000 * processor / windows, windows / wall))
        print(
            f"{options.videos} videos of {options.seconds:g} s, {windows} windows, {options.workers} workers, "
            f"{options.rounds} rounds in turn: median [lowest, highest]"
        )
        print(
            f"{'':<12}{'ms of this process a window':>34}{'windows/s here':>16}{'of one process at most':>24}"
        )
        for name, own in rows.items():
            spent, rate = [ms for ms, _ in own], statistics.median(rate for _, rate in own)
            middle = statistics.median(spent)
            print(
                f"{name:<12}{f'{middle:.2f} [{min(spent):.2f}, {max(spent):.2f}]':>34}{rate:>16,.0f}{1000 / middle:>24,.0f}"
            )
        whole = statistics.median(ms for ms, _ in rows["extraction"])
        print(
            f"bar: {BAR_MS} ms a window, {'met' if whole < BAR_MS else 'missed'} ({whole / BAR_MS:.2f} of it)"
        )
        if options.calls:
            profile = cProfile.Profile()
            profile.enable()
            extraction(sources, options.workers, folder / "calls.zarr", lent)
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
