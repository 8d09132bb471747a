"""Memory of an extraction by the length of the video: a clip of 2 s against one long 1080p file.

    python benchmarks/memory.py [--minutes 120] [--fps 5] [--models real|stand-in] [--decoder pyav]

Makes both files (10 s are encoded, the long one repeats their packets with later times), extracts each in a process of its own
and samples the proportional set size of that process and of its decode workers twice a second: shared memory counts once.
stand-in: everything is the real thing but the two networks, which are replaced by a mean over the frames, since SlowFast alone
takes over an hour for two hours of video on two cores; the networks' own memory does not know how long a video is. Prints the
peaks and the frames decoded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.backbones.base import Batching

SEGMENT_SECONDS = 10
SIZE = (1920, 1080)


def write_segment(path: Path, *, fps: int, seconds: int = SEGMENT_SECONDS) -> None:
    """A square that moves over still noise, in 1080p h264."""
    import av

    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "g": str(4 * fps)})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        noise = rng.integers(0, 60, (SIZE[1] // 8, SIZE[0] // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        for index in range(seconds * fps):
            picture = noise.copy()
            left = (11 * index) % (SIZE[0] - 300)
            picture[300:600, left : left + 300] = (230, 40, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def repeat(segment: Path, path: Path, *, times: int) -> None:
    """The segment so many times over, its packets copied with later times."""
    import av

    with av.open(str(segment)) as source, av.open(str(path), "w") as target:
        old = source.streams.video[0]
        new = target.add_stream_from_template(old)
        packets = [p for p in source.demux(old) if p.dts is not None]
        first = min(p.dts for p in packets)
        length = round(SEGMENT_SECONDS / old.time_base)
        data = [(bytes(p), p.pts, p.dts, p.duration, p.is_keyframe, p.time_base) for p in packets]
        for number in range(times):
            for raw, pts, dts, duration, key, base in data:
                packet = av.Packet(raw)
                packet.stream, packet.time_base = new, base
                packet.pts, packet.dts = pts + number * length, dts - first + number * length + first
                packet.duration, packet.is_keyframe = duration, key
                target.mux(packet)


class StandIn:
    """A backbone whose network is a mean over the frames."""

    queue = None

    def __init__(self, name: str, plan: Any, dim: int) -> None:
        self.name, self.plan, self.dim = name, plan, dim
        self.batching = Batching(16 if plan.sampling.window == 1 else 1)

    def fingerprint(self) -> dict[str, Any]:
        """Named for what it is."""
        return {"stream": self.name, "weights": {"tag": "stand-in"}, "runtime": "none", "precision": "fp32"}

    def embed(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """The mean of each channel, repeated to the width, with a ramp so that no feature is constant."""
        mean_BC = frames_BTHWC[:, :, ::16, ::16].float().mean((1, 2, 3)) / 1000
        return mean_BC.repeat(1, self.dim // 3 + 1)[:, : self.dim] + torch.linspace(0, 1, self.dim)

    def embed_plainly(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """There is no reference for a stand-in."""
        raise NotImplementedError


def extract_here(src: Path, out: Path, *, models: str, decoder: str) -> None:
    """What the measured process does; prints the counts as JSON."""
    from rich.console import Console

    from cache.reader import open_cache
    from cache.schema import StreamSpec, VideoLabel
    from cache.writer import CacheWriter
    from pipeline.backbones.load import BackboneConfig, load_backbones
    from pipeline.decoding.decode import StreamPlan
    from pipeline.decoding.frames import FramePlan
    from pipeline.decoding.pool import PoolSettings
    from pipeline.decoding.sampling import Sampling
    from pipeline.flow import Flow, FlowSettings
    from pipeline.sources.inventory import take_inventory
    from pipeline.sources.tree import discover

    warnings.simplefilter("ignore")
    backbones: dict[str, Any]
    if models == "real":
        backbones = dict(
            load_backbones(BackboneConfig.of(clip_weights="random", slowfast_weights="random", device="cpu"))
        )
    else:
        clip = StreamPlan("clip", Sampling(2.0), FramePlan("pil-bicubic", 224))
        slowfast = StreamPlan("slowfast", Sampling(15.0, 32, 32), FramePlan("linear-fixed", 256))
        backbones = {
            "clip": StandIn("clip", clip, 512),
            "slowfast": StandIn("slowfast", slowfast, 2304),
        }
    specs = [StreamSpec(name, b.dim, "float16", b.fingerprint()) for name, b in backbones.items()]
    sources = discover(src).sources
    work = take_inventory(sources, {s.id: VideoLabel(-1, "") for s in sources}, {}, retry_rejects=False).work
    settings = FlowSettings("float16", decoder, PoolSettings(), 0.2, 0.0, False, 16, 5.0)  # type: ignore[arg-type]
    with CacheWriter.open(out, streams=specs, dataset="memory", label_names=None, provenance={}) as writer:
        flow = Flow(settings, backbones, writer=writer, device=torch.device("cpu"), digests={})
        flow.run(work, console=Console(quiet=True), stop=threading.Event())
    with open_cache(out) as cache:
        print(
            json.dumps(
                {
                    "frames": int(cache.videos.n_frames.sum()),
                    "seconds": float(cache.videos.duration_seconds.sum()),
                    "rejects": [str(d) for d in cache.rejects.detail],
                    "tokens": {name: info.n_tokens for name, info in cache.streams.items()},
                }
            )
        )


@dataclass(frozen=True)
class Peak:
    """MiB at the peak: of the process, of its workers, of both at one moment; and what it found."""

    process: float
    workers: float
    together: float
    wall_seconds: float
    found: dict[str, Any]


def measure(src: Path, out: Path, *, models: str, decoder: str) -> Peak:
    """Run `extract_here` in a process of its own and watch it."""
    command = [sys.executable, __file__, "--inside", str(src), str(out), "--models", models]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--decoder", decoder], stdout=subprocess.PIPE, text=True)
    peak = (0.0, 0.0, 0.0)
    while process.poll() is None:
        own = _pss(process.pid)
        try:
            children = sum(_pss(c.pid) for c in psutil.Process(process.pid).children(recursive=True))
        except psutil.Error:
            children = 0.0
        peak = (max(peak[0], own), max(peak[1], children), max(peak[2], own + children))
        time.sleep(0.5)
    text = process.stdout.read() if process.stdout else ""
    if process.returncode:
        sys.exit(f"the extraction failed with {process.returncode}")
    return Peak(*peak, time.perf_counter() - began, json.loads(text.splitlines()[-1]))


def _pss(pid: int) -> float:
    """Proportional set size in MiB; 0 for a process that is gone."""
    try:
        return float(psutil.Process(pid).memory_full_info().pss) / 2**20
    except psutil.Error:
        return 0.0


def main() -> None:
    """Make the files, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=120)
    parser.add_argument(
        "--fps", type=int, default=5, help="of both files; a surveillance camera's by default"
    )
    parser.add_argument("--models", choices=["real", "stand-in"], default="stand-in")
    parser.add_argument("--decoder", default="pyav")
    parser.add_argument("--inside", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        extract_here(*options.inside, models=options.models, decoder=options.decoder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "short").mkdir()
        (folder / "long").mkdir()
        write_segment(folder / "short" / "clip.mp4", fps=options.fps, seconds=2)
        write_segment(folder / "segment.mp4", fps=options.fps)
        repeat(
            folder / "segment.mp4",
            folder / "long" / "long.mp4",
            times=options.minutes * 60 // SEGMENT_SECONDS,
        )
        print(
            f"models: {options.models}, decoder {options.decoder}; MiB of proportional set size at the peak"
        )
        print(
            f"{'video':<10}{'frames':>9}{'seconds':>9}{'process':>9}{'workers':>9}{'together':>10}{'wall, s':>9}"
        )
        for name in ("short", "long"):
            peak = measure(
                folder / name, folder / f"{name}.zarr", models=options.models, decoder=options.decoder
            )
            found = peak.found
            print(
                f"{name:<10}{found['frames']:>9,}{found['seconds']:>9,.0f}{peak.process:>9,.0f}{peak.workers:>9,.0f}"
                f"{peak.together:>10,.0f}{peak.wall_seconds:>9,.0f}   tokens {found['tokens']} {'; '.join(found['rejects'])}",
                flush=True,
            )


if __name__ == "__main__":
    main()
