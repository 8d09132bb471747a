"""Trouble that passes: a file that cannot be read now, or that changes while it is read, says nothing of its contents.

A decoder cannot be asked: FFmpeg gives a lost mount and a truncated file the same names. So the file itself is asked, after a
decode that went wrong: is it there, is it what it was, can it be read to its end?
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds, as the cache's int64 columns hold them."""
Trouble = tuple[str, str]
"""A code of `cache.schema.PASSING_REASONS`, and the detail."""

LOST_MOUNT = tuple(
    os.strerror(getattr(errno, name))
    for name in ("ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO")
    if hasattr(errno, name)
)
"""What no contents can make a decoder say of a local file. EIO is not among them: FFmpeg says it of truncated files too."""


def file_stamp(path: str | Path) -> Stamp:
    """Size and time of change of a file. Raises OSError."""
    return stamp_of(Path(path).stat())


def stamp_of(status: os.stat_result) -> Stamp:
    """Size and time of change; a time that no int64 holds is taken modulo 2^64, which keeps two different times apart."""
    return status.st_size, (status.st_mtime_ns + 2**63) % 2**64 - 2**63


def has_odd_time(status: os.stat_result) -> bool:
    """Whether the time of change lies outside 1677 to 2262, so that nanoseconds since 1970 do not fit into int64."""
    return not -(2**63) <= status.st_mtime_ns < 2**63


def reading_trouble(error: OSError) -> Trouble:
    """Why a file could not be read."""
    if isinstance(error, FileNotFoundError):
        return "missing-file", "no such file (or a link that leads nowhere)"
    return "unreadable-file", f"cannot be read: {error.strerror or error}"


def fault(error: Exception) -> Trouble:
    """What an exception that a decoder let through says of its video."""
    if isinstance(error, OSError):
        return reading_trouble(error)
    return "decoder-crash", f"{type(error).__name__}: {error}"


class FileWatch:
    """A file from before its first byte is read. `stamp`: what it was then, or last known to be; None if not there."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self.stamp: Stamp | None = file_stamp(path)
        except OSError:
            self.stamp = None

    def trouble(
        self, digest: str, read: Callable[[], str], *, clean: bool, detail: str = ""
    ) -> Trouble | None:
        """What passing trouble stands behind the end of a decode; None where its outcome is that of the contents.

        digest: of the contents that were decoded. read: reads the file whole and gives the digest it has now; called only
        where the decode was not `clean` or the file's size or time differs. detail: what a failed decode said.
        """
        told = next((words for words in LOST_MOUNT if words in detail), None)
        if told is not None:
            return "unreadable-file", f"cannot be read: {told}"
        try:
            now = file_stamp(self._path)
            if clean and now == self.stamp:
                return None
            same = read() == digest and file_stamp(self._path) == now
        except OSError as error:
            return reading_trouble(error)
        if not same:
            return "changed-while-read", "the file changed while it was read"
        self.stamp = now
        return None
