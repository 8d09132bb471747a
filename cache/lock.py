"""One writer a cache: a file lock that dies with its process, and a lease beside it for where locks do not hold."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cache.errors import CacheError, CacheLocked
from cache.lease import Lease, holder, writes_now
from cache.stores import files
from cache.stores.open import open_store


class CacheLock:
    """Held from construction until `release`.

    The lock is `<cache>.lock` beside the cache and is the operating system's (flock): a killed process holds
    it no longer, and a leftover file means nothing. `<cache>.lock.json` says who holds it, and is the lease that counts
    between machines whose locks do not exclude each other.
    """

    def __init__(self, cache: Path) -> None:
        """Take the lock. Raises `CacheLocked`, naming process, host, start time and command of the holder."""
        note = note_path(cache)
        self._lock = FileLock(lock_path(cache), thread_local=False)
        with files.storage_errors(cache):
            try:
                self._lock.acquire(timeout=0)
            except Timeout:  # which is an OSError
                raise CacheLocked(
                    f"{cache} is being written by {holder(note)}. Wait until it ends, or stop it."
                ) from None
            try:
                with files.storage_errors(note):
                    self.lease = Lease(cache, note)
            except BaseException:
                self._lock.release()
                raise
        self.fence = files.Fence(self.lease.token, self.lease.check)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within it, what fails since a successor has taken over is told as that: `CacheLocked`."""
        try:
            yield
        except CacheLocked:
            self.lease.lost = True
            raise
        except (CacheError, FileNotFoundError):
            self.lease.check()
            raise

    def release(self) -> None:
        """Let go of the lock; harmless when done twice."""
        if self._lock.is_locked:
            try:
                self.lease.release()
            finally:
                self._lock.release()


class LentLock(CacheLock):
    """A lock for writers that come and go while another holds it: they do not let go of it."""

    def __init__(self, held: CacheLock) -> None:
        self._lock, self.lease, self.fence = held._lock, held.lease, held.fence

    def release(self) -> None:
        """Held on."""


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[CacheLock]:
    """The lock of a cache that may come to be: where none came, its file and the folders that were made for it go again.

    Raises `CacheLocked`, and CacheError where the folder cannot be made.
    """
    cache = cache.resolve()
    new_folders = [folder for folder in cache.parents if not folder.exists()]
    foreign = lock_path(cache).is_file() and lock_path(cache).stat().st_size > 0  # a lock's own file is empty
    try:
        with files.storage_errors(cache):
            files.make_directory(cache.parent)
        try:
            lock = CacheLock(cache)
        except CacheLocked:
            raise
        except BaseException:
            with contextlib.suppress(OSError):
                if not foreign:
                    lock_path(cache).unlink(missing_ok=True)
            raise
        try:
            yield lock
        finally:
            with contextlib.suppress(OSError):
                if not foreign and not lock.lease.lost and not _is_cache(cache):
                    lock_path(cache).unlink(missing_ok=True)
            lock.release()
    finally:
        for folder in new_folders:  # the innermost first
            with contextlib.suppress(OSError):
                folder.rmdir()


def _is_cache(path: Path) -> bool:
    try:
        open_store(path).close()
    except CacheError:
        return False
    return True


def note_writers(*caches: Path | str) -> None:
    """Tell on stderr of each cache that is being written: what is read of it is what was committed by then."""
    for cache in caches:
        path = Path(cache).absolute()
        with contextlib.suppress(OSError, RuntimeError):  # no such place: what reads it says so
            path = path.resolve()  # as a writer does
        if path.name and (who := writes_now(note_path(path))):
            print(
                f"note: {cache} is being written by {who}: what is committed by now is read, not what is still to come",
                file=sys.stderr,
                flush=True,
            )


def lock_path(cache: Path) -> Path:
    """The file that is locked."""
    return cache.with_name(cache.name + ".lock")


def note_path(cache: Path) -> Path:
    """The file that says who holds the lock."""
    return cache.with_name(cache.name + ".lock.json")
