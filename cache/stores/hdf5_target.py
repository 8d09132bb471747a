"""The file that an HDF5 cache is written to, as HDF5 sees it: one that takes everything.

HDF5 does not live through a write that fails: it prints, leaves its file open, and may crash when that is closed. So what the
disk refuses is kept in memory, and `check` raises the refusal to who asked HDF5 to write.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Hdf5Target:
    """A file object for h5py's driver of that name. From the first refusal on nothing more reaches the disk."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._position = self._size = 0
        self._refusal: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the OSError with which the disk refused a write, if it did."""
        if self._refusal is not None:
            raise self._refusal

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte, counted from the beginning or from the end."""
        self._position = offset + (self._size if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        """The byte that is read or written next."""
        return self._position

    def write(self, data: Any) -> int:
        """Write all of `data`, or keep it."""
        rest = memoryview(data).cast("B")
        n_bytes, at = len(rest), self._position
        self._position += n_bytes
        self._size = max(self._size, self._position)
        while rest and self._refusal is None:
            try:
                n_written = os.pwrite(self._descriptor, rest, at)
            except OSError as error:
                self._refusal = error
            else:
                at, rest = at + n_written, rest[n_written:]
        if rest:
            self._kept.append((at, bytes(rest)))
        return n_bytes

    def readinto(self, out: Any) -> int:
        """Fill `out`; bytes that were never written are zeros."""
        view = memoryview(out).cast("B")
        start, stop = self._position, self._position + len(view)
        n_read = 0
        while n_read < len(view) and (n_more := os.preadv(self._descriptor, [view[n_read:]], start + n_read)):
            n_read += n_more  # at most 2 GiB at a time
        view[n_read:] = bytes(len(view) - n_read)
        for at, data in self._kept:
            first, last = max(at, start), min(at + len(data), stop)
            if first < last:
                view[first - start : last - start] = data[first - at : last - at]
        self._position = stop
        return len(view)

    def truncate(self, size: int) -> int:
        """Make the file end at byte `size`."""
        self._size = size
        if self._refusal is None:
            try:
                os.ftruncate(self._descriptor, size)
            except OSError as error:
                self._refusal = error
        return size

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Signals are answered after this: an exception of theirs within `Hdf5Target` were a write that fails."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python answers signals in the main thread
        return
    heard: list[int] = []
    ours = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not None]
    before = {one: signal.signal(one, lambda number, _frame: heard.append(number)) for one in ours}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        for number in heard:
            signal.raise_signal(number)
