"""One writer a cache: a file lock that dies with its process, and a note beside it that says who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from cache.errors import CacheLocked
from cache.stores import files


class CacheLock:
    """Held from construction until `release`.

    The lock is `<cache>.lock` beside the cache and is the operating system's (flock): a killed process holds
    it no longer, and a leftover file means nothing. `<cache>.lock.json` only informs.
    """

    def __init__(self, cache: Path) -> None:
        """Take the lock. Raises `CacheLocked`, naming process, host, start time and command of the holder."""
        self._note = cache.with_name(cache.name + ".lock.json")
        self._lock = FileLock(cache.with_name(cache.name + ".lock"), thread_local=False)
        with files.storage_errors(cache):
            try:
                self._lock.acquire(timeout=0)
            except Timeout:  # which is an OSError
                raise CacheLocked(
                    f"{cache} is being written by {self._holder()}. Wait until it ends, or stop it."
                ) from None
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
        }
        with contextlib.suppress(OSError):  # a full disk may refuse the note; the lock itself holds
            files.replace(self._note, json.dumps(holder).encode(), durable=False)

    def _holder(self) -> str:
        try:
            found = json.loads(self._note.read_bytes())
            where = f"process {found['pid']} on {found['host']}"
            return f"{where} since {found['since']} (command: {found['command']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def release(self) -> None:
        """Let go of the lock; harmless when done twice."""
        if self._lock.is_locked:
            try:
                with contextlib.suppress(OSError):
                    files.remove_file(self._note)
            finally:
                self._lock.release()
