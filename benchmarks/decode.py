"""Decoding and frame preparation by size of picture: the decoders in turn, beside what FFmpeg needs to decode alone.

    python benchmarks/decode.py --src DIR [--sizes 240,360,720,1080] [--clips 4] [--rounds 3]

Clips of DIR are scaled to each size once (H.264, mp4). One process on one core decodes them with each decoder in turn and
prepares the frames of both default streams; the ceiling is the same files decoded with no picture converted. `rules 1` is the
decoder of caches made before: decord, skipping the frames that nobody wants. Frames a processor second,
medians over the rounds: processor time, since other work on the machine must not decide.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import av
import numpy as np

from cache.labels.media import VIDEO_SUFFIXES
from pipeline.decoding.decode import StreamPlan, decode_video
from pipeline.decoding.decoders.base import Declared, FrameRef, open_frames
from pipeline.decoding.frames import FramePlan
from pipeline.decoding.sampling import Sampling

PLANS = (
    StreamPlan("clip", Sampling(fps=2.0), FramePlan("pil-bicubic", 224)),
    StreamPlan("slowfast", Sampling(fps=15.0, window=32, stride=32), FramePlan("linear-fixed", 256)),
)


class SkippingDecord:
    """decord as rules 1 used it: frames that nobody wants are skipped, the position is counted."""

    decoder = "decord"

    def __init__(self, path: Path) -> None:
        import decord

        self._reader = decord.VideoReader(str(path), num_threads=1)
        self._times = np.asarray(self._reader.get_frame_timestamp(range(len(self._reader))))
        self.declared = Declared(len(self._times), 0.0, 0.0)
        self.n_frames, self.n_errors, self.tail_seconds = 0, 0, 0.04
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[FrameRef]:
        starts = self._times[:, 0]
        for index, pts in enumerate(starts):
            following = float(starts[index + 1]) if index + 1 < len(starts) else None
            yield FrameRef(float(pts), following, lambda index=index: self._rgb(index))  # type: ignore[misc]
        self._skip_to(len(starts))

    def _rgb(self, index: int) -> Any:
        self._skip_to(index)
        self.n_frames = index + 1
        return self._reader.next().asnumpy()

    def _skip_to(self, index: int) -> None:
        if index > self.n_frames:
            self._reader.skip_frames(index - self.n_frames)
            self.n_frames = index

    def close(self) -> None:
        del self._reader


def scaled(source: Path, target: Path, height: int) -> None:
    """`source` at another height, H.264 as libx264's defaults make it."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        video = reader.streams.video[0]
        stream: Any = writer.add_stream("libx264", rate=Fraction(video.average_rate or 25))
        stream.height = height
        stream.width = round(video.width * height / video.height / 2) * 2
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(reader.decode(video)):
            small = frame.reformat(stream.width, stream.height, "yuv420p")
            small.pts, small.time_base = number, 1 / Fraction(video.average_rate or 25)
            writer.mux(stream.encode(small))
        writer.mux(stream.encode(None))


def through(open_source: Callable[[Path], Any], paths: list[Path]) -> float:
    """Frames a second of decoding and preparing."""
    frames, began = 0, time.process_time()
    for path in paths:
        with closing(open_source(path)) as source:
            frames += decode_video(source, PLANS, emit=lambda *_: None, beat=lambda _: None).n_frames
    return frames / (time.process_time() - began)


def ceiling(paths: list[Path]) -> float:
    """Frames a second of decoding alone, on one thread."""
    frames, began = 0, time.process_time()
    for path in paths:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE"
            frames += sum(1 for _ in container.decode(video=0))
    return frames / (time.process_time() - began)


def main() -> None:
    """Make the clips, take turns, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--sizes", default="240,360,720,1080")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    found = sorted(path for path in options.src.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    chosen = found[:: max(1, len(found) // options.clips)][: options.clips]
    sides: dict[str, Callable[[list[Path]], float]] = {
        "pyav": lambda paths: through(lambda path: open_frames(path, "pyav"), paths),
        "decord": lambda paths: through(lambda path: open_frames(path, "decord"), paths),
        "opencv": lambda paths: through(lambda path: open_frames(path, "opencv"), paths),
        "rules 1": lambda paths: through(SkippingDecord, paths),
        "decoding alone": ceiling,
    }
    print(
        "| height | "
        + " | ".join(f"{name}, frames/cpu-s" for name in sides)
        + " | pyav / rules 1 | pyav / alone |"
    )
    print("|---" * (len(sides) + 3) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for height in map(int, options.sizes.split(",")):
            paths = [Path(folder) / f"{height}_{number}.mp4" for number in range(len(chosen))]
            for source, target in zip(chosen, paths, strict=True):
                scaled(source, target, height)
            rates: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(options.rounds):
                for name, side in sides.items():
                    rates[name].append(side(paths))
            ratio = statistics.median(a / b for a, b in zip(rates["pyav"], rates["rules 1"], strict=True))
            share = statistics.median(
                a / b for a, b in zip(rates["pyav"], rates["decoding alone"], strict=True)
            )
            cells = [f"{statistics.median(values):.0f}" for values in rates.values()]
            print(f"| {height} | " + " | ".join(cells) + f" | {ratio:.2f} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
