"""What the operating system's refusals mean to a user: one line that says what to raise or to change, and an exit code."""

from __future__ import annotations

import errno
import os
import re

from cache.errors import InputError, LimitReached, StorageFull

_HANDLES = (errno.EMFILE, errno.ENFILE)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_PATHS = (
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ESTALE, errno.EBUSY),
    *(
        errno.ETXTBSY,
        errno.ENODEV,
        errno.ENXIO,
        errno.EHOSTDOWN,
        errno.ENOTCONN,
        errno.EEXIST,
        errno.ENOTEMPTY,
    ),
)
_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|failed to map segment|bad_alloc|out of memory|"
    r"failed to allocate|unable to allocate",
    re.IGNORECASE,
)
_NO_THREADS = re.compile(r"can't start new thread|resource temporarily unavailable", re.IGNORECASE)

_HANDLES_WORDS = "no more files may be open: raise the limit (ulimit -n 1024) and run the same command again"
_MEMORY_WORDS = (
    "there is too little memory: raise the limit (ulimit -v, or the container's), or use fewer --workers or --jobs, and run the "
    "same command again"
)
_THREADS_WORDS = (
    "no more processes or threads may be started: raise the limit (ulimit -u, or the container's), or use fewer --workers or "
    "--jobs, and run the same command again"
)
_LIMIT, _INPUT = LimitReached.exit_code, InputError.exit_code


def explain(error: BaseException) -> tuple[str, int] | None:
    """Message and exit code for an error that is no fault of the program's; None for any other."""
    if isinstance(error, MemoryError):
        return _MEMORY_WORDS, _LIMIT
    if isinstance(error, OSError) and error.errno is not None:
        return _explain_number(error)
    text = str(error)
    if _NO_THREADS.search(text):
        return _THREADS_WORDS, _LIMIT
    if os.strerror(errno.EMFILE) in text:
        return _HANDLES_WORDS, _LIMIT
    return (_MEMORY_WORDS, _LIMIT) if _NO_MEMORY.search(text) else None


def _explain_number(error: OSError) -> tuple[str, int] | None:
    number = error.errno
    name = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else ""
    where = os.fsdecode(name)
    if number in _HANDLES:
        return _HANDLES_WORDS, _LIMIT
    if number == errno.ENOMEM:
        return _MEMORY_WORDS, _LIMIT
    if number == errno.EAGAIN:
        return _THREADS_WORDS, _LIMIT
    if number in _FULL:
        return (
            f"the disk is full: {where or error}; make space and run the same command again",
            StorageFull.exit_code,
        )
    if number == errno.EFBIG:
        return f"{where or 'a file'} may not grow further: raise the limit (ulimit -f)", StorageFull.exit_code
    if number in _REFUSED:
        return f"{where or 'a file'}: {error.strerror}; check its permissions or choose another path", _INPUT
    if number == errno.ENOENT and "temporary directory" in str(error):
        return f"no temp folder can be written ({error.strerror}); set TMPDIR to a folder", _INPUT
    if number in _PATHS and where:
        return f"{where}: {error.strerror}; check the path or choose another", _INPUT
    return None
