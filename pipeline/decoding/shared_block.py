"""Memory that a spawned process shares, reserved when it is made.

`multiprocessing.RawArray` maps a file with a hole in it: where /dev/shm or the temp folder is too small, the first touch kills
the process (SIGBUS). Here the room is taken first, and its lack is an error.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from cache.errors import StorageFull

SHARED_MEMORY = Path("/dev/shm")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ZEROS = bytes(1 << 20)


class SharedBlock:
    """`n_bytes` of zeros; `view` is a memoryview of items of `form` (`B` bytes, `d` doubles). `folder`: where its file lies.

    Handed to a spawned process as an argument it arrives there as such a memoryview. Its file has no name: a kill leaves nothing.
    Raises StorageFull where neither /dev/shm nor the temp folder has room.
    """

    def __init__(self, n_bytes: int, form: str = "B") -> None:
        self._descriptor, self.folder = _reserve(n_bytes)
        self._n_bytes, self._form = n_bytes, form
        self.view = _attach(self._descriptor, n_bytes, form)

    def __del__(self) -> None:
        descriptor = getattr(self, "_descriptor", -1)
        if descriptor >= 0:
            os.close(descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_duplicate, (DupFd(self._descriptor), self._n_bytes, self._form)


def _from_duplicate(duplicate: Any, n_bytes: int, form: str) -> Any:
    descriptor = duplicate.detach()
    try:
        return _attach(descriptor, n_bytes, form)
    finally:
        os.close(descriptor)


def _attach(descriptor: int, n_bytes: int, form: str) -> Any:
    view: Any = memoryview(mmap.mmap(descriptor, n_bytes))
    return view.cast("B").cast(form)


def _reserve(n_bytes: int) -> tuple[int, Path]:
    """Descriptor of a file without a name that has all its bytes, and its folder."""
    folders = [SHARED_MEMORY] if SHARED_MEMORY.is_dir() else []
    folders.append(Path(tempfile.gettempdir()))
    tried = []
    for folder in folders:
        descriptor = -1
        try:
            descriptor, name = tempfile.mkstemp(prefix="onepass-", dir=folder)
            Path(name).unlink()
            _allocate(descriptor, n_bytes)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            if error.errno not in (*_NO_ROOM, errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            tried.append(f"{folder}: {os.strerror(error.errno)}")
        else:
            return descriptor, folder
    raise StorageFull(
        f"no room for {max(1, n_bytes >> 20)} MiB of memory that decode workers share ({'; '.join(tried)}): use fewer --workers, "
        "give a container more with --shm-size, or set TMPDIR to a folder with room"
    )


def _allocate(descriptor: int, n_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, n_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
        else:
            return
    written = 0
    while written < n_bytes:
        written += os.pwrite(descriptor, _ZEROS[: n_bytes - written], written)
