"""What sound costs: decoding and measuring it, beside decoding the pictures of the same file.

    python benchmarks/sound.py [--seconds 120]

Makes a video of 640x360 with stereo AAC sound, and takes turns: pictures (every frame decoded, none converted), sound (decoded,
mixed, resampled), log-mel statistics of its patches. Processor milliseconds a second of video, the median of the turns; the
ratio sound / pictures; and seconds of sound a second of wall time on all cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.decoding.decoders.base import open_frames
from pipeline.decoding.hearing import hear
from pipeline.decoding.logmel import PATCH_SECONDS, RATE_HZ, patch_statistics
from pipeline.decoding.sampling import Sampling
from pipeline.decoding.sound import Samples, SoundTrack

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.sounds import write_with_sound

ROUNDS = 5
WINDOW = round(PATCH_SECONDS * RATE_HZ)


def processor_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        path = write_with_sound(Path(folder) / "a.mp4", seconds=seconds, layout="stereo", size=(640, 360))
        windows: list[Samples] = []

        def pictures() -> None:
            source = open_frames(path, "pyav")
            for _ in source:
                pass
            source.close()

        def sound() -> None:
            windows.clear()
            hear(
                path,
                SoundTrack(RATE_HZ),
                Sampling(RATE_HZ, WINDOW, WINDOW),
                origin_seconds=0.0,
                duration_seconds=seconds,
                emit=windows.append,
                beat=lambda: None,
            )

        def measured() -> None:
            for window in windows:
                patch_statistics(window)

        parts = {"pictures": pictures, "sound": sound, "log-mel": measured}
        taken = {name: [] for name in parts}  # type: dict[str, list[float]]
        for _ in range(ROUNDS):
            for name, work in parts.items():
                taken[name].append(processor_seconds(work))
    cost = {name: statistics.median(found) / seconds for name, found in taken.items()}
    for name, value in cost.items():
        print(f"{name:<9} {1e3 * value:6.2f} ms of processor a second of video")
    both = cost["sound"] + cost["log-mel"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print(f"sound with log-mel / pictures: {both / cost['pictures']:.2f}")
    print(f"sound alone: {cores / both:.0f} x real time on {cores} cores")


if __name__ == "__main__":
    main()
