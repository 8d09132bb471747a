"""Durable file operations: everything a store does to the disk goes through here.

Each function leaves either the old or the new state if the process is killed inside it, except `write_at`,
which is only used on bytes that nothing refers to yet.

A writer that may have been taken over passes a `Fence`. What it does then reaches nothing of its successor's, however long
it was stopped in the midst of it: bytes go to the file that was opened before the fence was asked, and a successor begins with
files of its own; a name is given to a part whose own name no other writer uses, and a successor removes such parts first; what
is removed is set aside, and put back where the fence has fallen meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cache.errors import CacheError, StorageFull

PART_SUFFIX = ".part"
"""Suffix of a file that is being written; a leftover one is worthless and is removed by the next writer."""


@dataclass(frozen=True, slots=True)
class Fence:
    """token: the writer's, in the names of its parts. check: raises CacheError once another writer has taken over."""

    token: str
    check: Callable[[], None]

    def beside(self, path: Path, suffix: str) -> Path:
        """A name beside `path` that is this writer's alone."""
        return path.with_name(".".join(filter(None, (path.name, self.token))) + suffix)


NO_FENCE = Fence("", lambda: None)

READ_THREADS = 2
_THREADS_FROM_BYTES = 4 * 1024 * 1024
_SYNC_THREADS = 8
FULL = (errno.ENOSPC, errno.EDQUOT)
_HDF5_ERRNO = re.compile(r"errno = (\d+)")


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn `OSError` into `StorageFull` (no space, quota) or `CacheError`, naming `path`."""
    try:
        yield
    except OSError as error:
        number = error.errno
        if number is None and (match := _HDF5_ERRNO.search(str(error))):  # h5py keeps it in the text only
            number = int(match.group(1))
        if number in FULL:
            raise StorageFull(
                f"the disk that holds {path} is full; everything committed before is intact. "
                "Make room and run the same command again."
            ) from error
        reason = os.strerror(number) if number else str(error)
        raise CacheError(f"cannot write {error.filename or path}: {reason}") from error


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


Piece = tuple[Path | int, int, memoryview]
"""File (or open descriptor), offset in it, and the memory to fill from there."""


def read_pieces(pieces: Sequence[Piece]) -> None:
    """Fill the memory of every piece; a large read is shared out to threads.

    Each thread takes one stretch of neighbouring pieces: the first touch of fresh memory costs as much as the
    copy, and this way no two threads wait for one page. Raises `OSError` naming the file, also if it is
    short.
    """
    total = sum(len(view) for _, _, view in pieces)
    if total < _THREADS_FROM_BYTES:
        _read_stretch(pieces)
        return
    share = -(-total // READ_THREADS)
    stretches: list[list[Piece]] = [[]]
    filled = 0
    for file, offset, view in pieces:
        while view:
            if filled == share:
                stretches.append([])
                filled = 0
            count = min(len(view), share - filled)
            stretches[-1].append((file, offset, view[:count]))
            offset, view, filled = offset + count, view[count:], filled + count
    with ThreadPoolExecutor(READ_THREADS) as pool:
        list(pool.map(_read_stretch, stretches))


def _read_stretch(pieces: Sequence[Piece]) -> None:
    for file, offset, view in pieces:
        descriptor = file if isinstance(file, int) else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while view:
                count = os.preadv(descriptor, [view], offset)
                if count == 0:
                    raise OSError(errno.ENODATA, f"it ends before byte {offset + len(view)}", str(file))
                offset, view = offset + count, view[count:]
        finally:
            if descriptor is not file:
                os.close(descriptor)


def write_at(
    path: Path, offset: int, data: bytes | memoryview, *, file_size: int, fence: Fence = NO_FENCE
) -> None:
    """Write `data` at `offset`, creating the file with `file_size` bytes of zeros if it is shorter."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fence.check()
        if os.fstat(descriptor).st_size != file_size:
            os.ftruncate(descriptor, file_size)
        _write_all(descriptor, memoryview(data).cast("B"), offset)
    finally:
        os.close(descriptor)


def replace(path: Path, data: bytes, *, durable: bool = True, fence: Fence = NO_FENCE) -> None:
    """Replace the contents of `path` in one step. `durable` waits until the new contents are on the disk."""
    part = fence.beside(path, PART_SUFFIX)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        try:
            _write_all(descriptor, memoryview(data), 0)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        put(part, path, fence)
    except (OSError, CacheError):
        part.unlink(missing_ok=True)
        raise


def put(source: Path, target: Path, fence: Fence) -> None:
    """`rename` for a source whose name no other writer uses."""
    fence.check()
    try:
        rename(source, target)
    except FileNotFoundError:  # a successor may have removed it
        fence.check()
        raise


def take_away(path: Path, aside: Path, fence: Fence) -> None:
    """Remove the file or folder `path`, if it is there, by way of the name `aside`: in one step for anyone who looks."""
    if not path.exists():
        return
    put(path, aside, fence)
    try:
        fence.check()
    except CacheError:
        with contextlib.suppress(OSError):
            rename(aside, path)
        raise
    remove(aside)


def rename(source: Path, target: Path) -> None:
    """Give `source` the name `target`, replacing a file (or an empty directory) of that name."""
    source.replace(target)


def make_directory(path: Path) -> None:
    """Create `path` and its parents where missing."""
    path.mkdir(parents=True, exist_ok=True)


def remove_file(path: Path) -> None:
    """Remove `path` if it is there."""
    path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove the directory `path` if it is there. Not atomic: rename what others may look at first."""
    if path.is_dir():
        shutil.rmtree(path)


def remove(path: Path) -> None:
    """Remove the file or directory `path` if it is there."""
    remove_tree(path)
    remove_file(path)


def sync(paths: Iterable[Path]) -> None:
    """Wait until the contents of files, or the entries of directories, are on the disk."""
    todo = list(paths)
    if len(todo) < 4:
        for path in todo:
            _sync_one(path)
        return
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        list(pool.map(_sync_one, todo))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # a file system that cannot sync directories
            raise
    finally:
        os.close(descriptor)
