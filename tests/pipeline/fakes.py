"""Decoders that misbehave on purpose, in real worker processes.

A worker is started by naming its entry point, so a test that puts `fakes.main` in the place of
`pipeline.decoding.worker.main` has this module run in the child: it swaps the decoders there and goes on with the real worker.
What a video does is written in its file name: `hang_1.mp4` hangs in every decoder, `decord-hang_1.mp4` in decord only. Nothing
here imports torch.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.decoding import worker
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.decoders.base import Declared, DecodeProblem, DecoderName, FrameRef, FrameSource
from pipeline.decoding.frames import FramePlan, RgbFrame
from pipeline.decoding.sampling import Sampling

FPS = 10.0
LATE = 12
LEAK: list[Any] = []
PLANS = (
    StreamPlan("clip", Sampling(fps=2.0), FramePlan("pil-bicubic", 8)),
    StreamPlan("slowfast", Sampling(fps=10.0, window=4, stride=4), FramePlan("linear-fixed", 8)),
)
"""Two streams in small: one token a frame, and windows of four frames."""


class ListedFrames:
    """A video from a list of times in seconds; every frame is grey with its own level, so frames can be told apart."""

    decoder: DecoderName = "pyav"

    def __init__(self, times: Sequence[float], *, tail_seconds: float = 1 / FPS, n_errors: int = 0) -> None:
        self.times = list(times)
        self.declared = Declared(
            n_frames=len(self.times), fps=FPS, duration_seconds=len(self.times) * tail_seconds
        )
        self.notes: list[str] = []
        self.n_frames = 0
        self.n_errors = n_errors
        self.tail_seconds = tail_seconds
        self.first_seconds: float | None = None
        self.converted: list[int] = []
        self.closed = False

    def __iter__(self) -> Iterator[FrameRef]:
        for index, pts in enumerate(self.times):
            self.n_frames = index + 1
            following = self.times[index + 1] if index + 1 < len(self.times) else None
            yield FrameRef(pts, following, lambda index=index: self.picture(index))  # type: ignore[misc]

    def picture(self, index: int) -> RgbFrame:
        self.converted.append(index)
        return np.full((12, 16, 3), index % 256, np.uint8)

    def close(self) -> None:
        self.closed = True


class Misbehaving(ListedFrames):
    """Does what its name says when it comes to frame 5 of 10, or `at` of twice that."""

    def __init__(self, deed: str, path: Path, at: int = 5) -> None:
        super().__init__([n / FPS for n in range(2 * at)])
        self._deed, self._path, self._at = deed, path, at

    def picture(self, index: int) -> RgbFrame:
        if index == self._at and self._deed == "growing":
            with self._path.open("ab") as file:
                file.write(b"more")
        elif index == self._at:
            misbehave(self._deed)
        return super().picture(index)


def misbehave(deed: str) -> None:
    if deed == "hang":  # as decord does: in C, holding the interpreter's lock
        ctypes.PyDLL(None).sleep(3600)
    elif deed == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif deed == "exit":
        os._exit(7)
    elif deed == "eat":
        hoard = []
        while True:
            hoard.append(np.ones(32 << 20, np.uint8))
            time.sleep(0.01)
    elif deed == "memory":
        raise MemoryError
    elif deed == "fault":
        raise RuntimeError("a fault in the decoder")
    elif deed == "noise":
        os.write(2, b"[h264 @ 0x55d0] something is wrong\n" * 3)
    elif deed == "problem":
        raise DecodeProblem("decode-errors", "frame 5 is broken")
    elif deed == "stale":
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    elif deed == "lost":
        raise DecodeProblem("decode-errors", f"frame 5: {os.strerror(errno.ENOTCONN)}")
    elif deed == "slow":
        time.sleep(0.4)
    elif deed == "grow":
        LEAK.append(np.ones(120 << 20, np.uint8))


def open_frames(path: Path, decoder: DecoderName) -> FrameSource:
    """`<decoder>-<deed>_<anything>`, `<deed>_<anything>`, `long<seconds>_<anything>`, else a quiet video of one second.

    `late<deed>`: once it has handed over some tokens.
    """
    only, _, rest = path.stem.rpartition("-")
    deed = rest.partition("_")[0]
    if only and only != decoder:
        deed = "quiet"
    if deed == "open":
        misbehave("hang")
    if deed.startswith("long"):
        source = ListedFrames([n / FPS for n in range(int(deed.removeprefix("long")) * int(FPS))])
    elif deed.startswith("late"):
        source = Misbehaving(deed.removeprefix("late"), path, at=LATE)
    else:
        source = Misbehaving(deed, path)
    source.decoder = decoder
    return source


def main(
    connection: Connection, memory: Any, pulse: Any, noise_path: str, settings: worker.WorkerSettings
) -> None:
    """Entry point of a worker process with these decoders."""
    worker.open_frames = open_frames
    worker.main(connection, memory, pulse, noise_path, settings)


def hanging_probe(
    connection: Connection, memory: Any, pulse: Any, noise_path: str, settings: worker.WorkerSettings
) -> None:
    """Entry point of a worker whose quick probe hangs on a_0.mp4."""
    from pipeline.decoding import probe

    real = probe.probe_file

    def probe_file(path: Path, **options: bool) -> Declared:
        if path.name == "a_0.mp4":
            misbehave("hang")
        return real(path, **options)

    probe.probe_file = probe_file
    worker.main(connection, memory, pulse, noise_path, settings)


def dies_at_once(*_: Any) -> None:
    """Entry point of a worker that cannot even start."""
    os._exit(3)


def write_names(folder: Path, *names: str) -> list[Path]:
    """One small file for each name; what lies in it does not matter to these decoders."""
    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
        os.truncate(path, 2_000_000)  # a video may not have more frames than bytes
    return paths
