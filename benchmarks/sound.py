"""What sound costs: decoding and measuring it, beside decoding the pictures of the same file.

    python benchmarks/sound.py [--seconds 120]
    python benchmarks/sound.py --memory 20 120

Makes a video of 640x360 with stereo AAC sound, and takes turns: pictures (every frame decoded, none converted), sound (decoded,
mixed, resampled), log-mel statistics of its patches. Processor milliseconds a second of video, the median of the turns; the
ratio sound / pictures; and seconds of sound a second of wall time on all cores. With --memory: the most memory that a process
takes that hears so many minutes of an 8 kHz file for log-mel statistics, and one that repeats 12 of its windows (Linux).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path

from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.decoders.base import open_frames
from pipeline.decoding.frames import FramePlan
from pipeline.decoding.hearing import hear, sound_alone
from pipeline.decoding.logmel import PATCH_SECONDS, RATE_HZ, patch_statistics
from pipeline.decoding.plain_sound import plain_windows
from pipeline.decoding.sampling import Sampling
from pipeline.decoding.sound import Samples, SoundTrack

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.sounds import tone, write_with_sound

ROUNDS = 5
WINDOW = round(PATCH_SECONDS * RATE_HZ)


def processor_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def peak_mebibytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10


def hear_long(path: Path, what: str) -> None:
    """In a process of its own."""
    sampling, track = Sampling(RATE_HZ, WINDOW, WINDOW), SoundTrack(RATE_HZ)
    before = peak_mebibytes()
    if what == "verify":
        n_windows, *_ = plain_windows(
            path, track, sampling, duration_seconds=None, choose=lambda n: range(0, n, max(1, n // 12))
        )
    else:
        plan = StreamPlan("audio", sampling, FramePlan("grey", 1), sound=track)
        found: list[int] = []

        def emit(_: int, window: Samples) -> None:
            patch_statistics(window)
            found.append(1)

        sound_alone(path, (plan,), emit=emit, beat=lambda: None)
        n_windows = len(found)
    print(f"{what:<7} {path.stem} min: {n_windows} windows, {peak_mebibytes()} MiB at most, {before} before")


def memory(minutes: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            path = Path(folder) / f"{length:g}.wav"
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                for _ in range(round(length)):
                    file.writeframes((tone(60.0, 8000) * 32767).astype("<i2").tobytes())
            for what in ("extract", "verify"):
                subprocess.run([sys.executable, __file__, "--hear", str(path), what], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--memory", type=float, nargs="+", metavar="MINUTES")
    parser.add_argument("--hear", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hear:
        return hear_long(Path(arguments.hear[0]), arguments.hear[1])
    if arguments.memory:
        return memory(arguments.memory)
    costs(arguments.seconds)
    return None


def costs(seconds: float) -> None:
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
