"""A lease on a cache, for file systems whose locks do not hold between machines: who writes, and whether it still does.

`<cache>.lock.json` is its record, a file of its own for each holder, whose time of change the holder renews. No two clocks are
compared: another machine takes a lease for dead once it has itself seen the file unchanged for as long as the lease says. A
holder that was taken over for dead is kept out by `check`, which every change of the cache asks first (cache/stores/files.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from cache.errors import CacheLocked
from cache.stores import files

LEASE_SECONDS = 60.0
"""How long a holder on another machine may be silent: six beats, and as long as an NFS client keeps attributes by default."""

BEAT_SECONDS = 10.0
_LONGEST_WAIT_SECONDS = 600.0
_PID_NAMESPACE = "/proc/self/ns/pid"


def places() -> list[str]:
    """Digests that tell this machine from others: the boot of its kernel, and its name with its machine id."""
    host = socket.gethostname()
    boot, machine = _line("/proc/sys/kernel/random/boot_id"), _line("/etc/machine-id")
    known = [f"boot {boot}"] * bool(boot) + [f"{host} machine {machine}"] * bool(machine) or [host]
    return [hashlib.blake2b(one.encode(), digest_size=8).hexdigest() for one in known]


def _line(path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, ValueError):
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - what it names is no file
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The file of a lease as it was at one moment. raw: empty where there is none."""

    raw: bytes
    mtime_ns: int

    @classmethod
    def at(cls, path: Path) -> _Seen:
        """Opened, not only asked for: that is when a network file system looks for what others wrote."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return cls(b"", 0)
        try:
            found = os.fstat(descriptor)
            return cls(os.pread(descriptor, found.st_size, 0), found.st_mtime_ns)
        finally:
            os.close(descriptor)

    def record(self) -> Mapping[str, Any]:
        """What it says; empty where it is none, or of a version that left no leases."""
        try:
            found = json.loads(self.raw)
            fits = isinstance(found["token"], str) and isinstance(found["places"], list)
            return found if fits and float(found["lease_seconds"]) >= 0 else {}
        except (ValueError, KeyError, TypeError):
            return {}


def holder(path: Path) -> str:
    """Who holds the lease whose file is `path`, in words."""
    try:
        return _words(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return "another process"


def writes_now(path: Path) -> str:
    """Who renews the lease whose file is `path`, in words; "" where nobody does, or this process.

    Of another machine's clock nothing is known: one that differs by a minute hides its writer, or shows one that ended. Of a
    process in another container its number says nothing: one that was killed is shown for up to a minute.
    """
    try:
        seen = _Seen.at(path)
    except OSError:
        return ""
    record = seen.record()
    if not record or time.time() - seen.mtime_ns / 1e9 > min(float(record["lease_seconds"]), LEASE_SECONDS):
        return ""
    here = _link(_PID_NAMESPACE)
    if set(places()) & set(map(str, record["places"])) and record.get("pid_namespace", here) == here:
        pid = record.get("pid")
        if not isinstance(pid, int) or pid == os.getpid() or not psutil.pid_exists(pid):
            return ""
    return _words(record)


def _words(found: Any) -> str:
    try:
        where = f"process {found['pid']} on {found['host']}"
        return f"{where} since {found['since']} (command: {found['command']})"
    except (KeyError, TypeError):
        return "another process"


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM end what is within, whatever else they do in this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, signal.default_int_handler) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class Lease:
    """Held from construction until `release`, by whoever holds the lock of the cache on this machine.

    token: random, in no other lease. taken_over: it was another machine's, which has not answered. lost: likewise, here.
    """

    def __init__(self, cache: Path, path: Path) -> None:
        """Waits only where a process of another machine left a lease. Raises CacheLocked where that one still renews it."""
        self.token = uuid.uuid4().hex
        self.taken_over = self.lost = False
        self._cache, self._path = cache, path
        self._file = -1
        self._ended = threading.Event()
        record = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
            "token": self.token,
            "places": places(),
            "pid_namespace": _link(_PID_NAMESPACE),
            "lease_seconds": LEASE_SECONDS,
        }
        self._raw = json.dumps(record).encode()
        self._before = self._wait(_Seen.at(path))
        with contextlib.suppress(OSError):  # a full disk may refuse it: then the first change asks again
            self._write()

    def _wait(self, seen: _Seen) -> bytes:
        """Raw bytes of what may be replaced: no lease, one of this machine (whose lock is held here), or a dead one."""
        record = seen.record()
        if not record or set(places()) & set(map(str, record["places"])):
            return seen.raw
        seconds = min(float(record["lease_seconds"]), _LONGEST_WAIT_SECONDS)
        self._say(f"waiting up to {seconds:.0f} s to see whether {_words(record)} still writes")
        give_up = time.monotonic() + seconds
        with _interruptible():
            while time.monotonic() < give_up:
                time.sleep(min(1.0, seconds / 10))
                now = _Seen.at(self._path)
                if now.raw and now != seen:
                    raise CacheLocked(
                        f"{self._cache} is being written by {_words(now.record())}. Wait until it ends, or stop it."
                    )
                if not now.raw:  # it ended meanwhile
                    return b""
        self.taken_over = True
        self._say(f"taken over, since {_words(record)} has not renewed its lease for {seconds:.0f} s")
        return seen.raw

    def _say(self, what: str) -> None:
        print(f"{self._cache}: {what}", file=sys.stderr, flush=True)

    def _write(self) -> None:
        if _Seen.at(self._path).raw != self._before:
            return  # somebody was quicker: `check` says so
        files.replace(self._path, self._raw, durable=False)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        if os.pread(descriptor, len(self._raw) + 1, 0) != self._raw:
            os.close(descriptor)
            return
        self._file = descriptor
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        """By the open file, never by its name: there lies another's lease once this one is taken over."""
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def check(self) -> None:
        """Raise CacheLocked unless the lease is still this one's; OSError where it cannot be read, or written at last."""
        if self._file < 0 and not (self.lost or self._ended.is_set()):
            self._write()
        found = _Seen.at(self._path)
        if found.raw == self._raw:
            return
        self.lost = True
        record = found.record()
        who = f"{_words(record)} writes it now" if record else f"its lease {self._path} is gone"
        raise CacheLocked(
            f"{self._cache} was taken over while this run did not answer: {who}. What was committed is whole; once nothing "
            "else writes, the same command goes on."
        )

    def release(self) -> None:
        """Let go; harmless when done twice. What another wrote meanwhile stays."""
        self._ended.set()
        if self._file < 0:
            return
        self._thread.join()
        os.close(self._file)
        self._file = -1
        with contextlib.suppress(OSError):
            if _Seen.at(self._path).raw == self._raw:
                files.remove_file(self._path)
