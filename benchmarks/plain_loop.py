"""The plain loop that earlier models of this line used: one backbone after the other, each decoding every video again.

OpenCV, whole video into memory, float32; CLIP one frame at a time, SlowFast one window at a time. Same sampling as `extract`, so
that both do the same work. Runnable alone; `benchmarks/extract.py` alternates it with `extract`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.backbones.base import Backbone
from pipeline.decoding.sampling import Sampling, grid_size
from pipeline.sources.tree import discover
from pipeline.verify import plain_frame_indices


@dataclass(frozen=True, slots=True)
class PlainResult:
    """What one pass did and took."""

    n_videos: int
    n_tokens: int
    seconds: float


def read_whole(path: Path) -> tuple[list[NDArray[np.uint8]], NDArray[np.float64], float]:
    """All frames of a video as RGB, their times, and the duration."""
    capture = cv2.VideoCapture(str(path))
    fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
    frames, times = [], []
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    capture.release()
    stamps = np.asarray(times) - (times[0] if times else 0.0)
    return frames, stamps, (float(stamps[-1]) + 1 / fps) if times else 0.0


def windows(sampling: Sampling, duration: float) -> int:
    """Number of tokens, from the definition."""
    samples = grid_size(duration, sampling)
    return max(1, -(-(samples - sampling.window) // sampling.stride) + 1) if samples > sampling.window else 1


def plain_loop(paths: Sequence[Path], backbones: Sequence[Backbone]) -> PlainResult:
    """Every backbone over every video."""
    began = time.perf_counter()
    tokens = 0
    for backbone in backbones:
        for path in paths:
            frames, times, duration = read_whole(path)
            for token in range(windows(backbone.plan.sampling, duration)):
                chosen = plain_frame_indices(times, duration, token, backbone.plan.sampling)
                backbone.embed_plainly([frames[index] for index in chosen])
                tokens += 1
    return PlainResult(len(paths), tokens, time.perf_counter() - began)


def main() -> None:
    """Run the plain loop over a folder."""
    from pipeline.backbones.load import BackboneConfig, load_backbones

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--count", type=int, default=16, help="videos, evenly chosen")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    sources = discover(arguments.src).sources
    paths = [source.path for source in sources[:: max(1, len(sources) // arguments.count)]][: arguments.count]
    config = BackboneConfig.of(
        clip_weights="random", slowfast_weights="random", precision="fp32", device="cpu"
    )
    result = plain_loop(paths, list(load_backbones(config).values()))
    print(f"{result.n_videos} videos, {result.n_tokens} tokens in {result.seconds:.1f} s: "
          f"{result.n_videos / result.seconds:.3f} videos/s")  # fmt: skip


if __name__ == "__main__":
    main()
