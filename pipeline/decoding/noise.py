"""What decoders print: kept in a file in the place of stdout and stderr, told as one line."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

NOISE_TAIL_BYTES = 2000


class Noise:
    """The file that stands in for stdout and stderr. `tail()` is what was printed since `reset()`."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._libc = ctypes.CDLL(None)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # None where the parent had it closed
                stream.flush()
        os.dup2(self._descriptor, 1)  # OpenCV prints FFmpeg's complaints here, through C's buffer
        os.dup2(self._descriptor, 2)

    def reset(self) -> None:
        """Forget what was printed."""
        self._libc.fflush(None)
        os.ftruncate(self._descriptor, 0)

    def tail(self) -> str:
        """The last lines printed, as one line."""
        self._libc.fflush(None)
        size = os.fstat(self._descriptor).st_size
        return noise_text(os.pread(self._descriptor, NOISE_TAIL_BYTES, max(0, size - NOISE_TAIL_BYTES)))


def noise_text(raw: bytes) -> str:
    """Decoder output as one line: addresses and repeats dropped, at most 5 distinct messages."""
    seen: dict[str, None] = {}
    for line in raw.decode("utf-8", "replace").splitlines():
        text = line.strip()
        if text.startswith("[") and " @ 0x" in text:
            text = "[" + text[1:].split(" @ 0x")[0] + "]" + text.partition("]")[2]
        if text:
            seen.setdefault(text)
    return "; ".join(list(seen)[-5:])


def quiet_libraries() -> None:
    """One thread a worker (the pool is the parallelism), and FFmpeg's complaints, no more, to stderr."""
    import cv2

    cv2.setNumThreads(1)
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "16"  # libavutil/log.h: AV_LOG_ERROR; silence would hide damage
    os.environ["DECORD_DUPLICATE_WARNING_THRESHOLD"] = "0.0"  # share of frames it may make up without a word
    import av.logging

    av.logging.restore_default_callback()
    av.logging.set_libav_level(
        av.logging.ERROR
    )  # PyAV's own level does not reach FFmpeg's callback: warnings would pass
