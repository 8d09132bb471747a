"""Scratch folders of a run in the temp folder, held by a lock: the next run removes those whose run was killed, and no other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from cache.errors import InputError

NOISE_PREFIX = "onepass-noise-"
PREDICT_PREFIX = "onepass-predict-"
OBJECTS_PREFIX = "onepass-objects-"
LOCK_FILE = "held"
TEMP_FULL = (
    "the temp folder {} is full, where features lie until they are scored; make room, or set TMPDIR to another folder "
    "(--keep-cache CACHE keeps them there, and the same command goes on)"
)
"""Of `predict`."""


class ScratchFolder:
    """A folder of its own until `remove`. A context manager.

    The lock on its file is the kernel's, so it dies with the process, whoever it belongs to and in whatever container it runs.
    root: the folder to make it in, the temp folder where none is given. Raises InputError where it cannot be written.
    """

    def __init__(self, prefix: str, root: Path | None = None) -> None:
        with _temp_folder_errors(root):
            sweep(root)
            self.path = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=root))
            self._descriptor = -1
            unnamed = self.path / f"{LOCK_FILE}.part"
            self._descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(self.path / LOCK_FILE)  # no folder is ever seen with a lock file that is not held

    def __enter__(self) -> ScratchFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder and what is in it, unless it is kept; harmless when done twice."""
        if self._descriptor >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            self._let_go()

    def keep(self) -> Path:
        """Leave the folder where it is, for good; returns it."""
        (self.path / LOCK_FILE).unlink(missing_ok=True)  # without it nobody removes the folder
        self._let_go()
        return self.path

    def _let_go(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def require_temp_folder() -> None:
    """Raise InputError where no temp folder can be written."""
    with _temp_folder_errors():
        tempfile.gettempdir()


def sweep(root: Path | None = None) -> None:
    """Remove this user's scratch folders in a folder, the temp folder by default, whose run has died."""
    root = root or Path(tempfile.gettempdir())
    for prefix in (NOISE_PREFIX, PREDICT_PREFIX, OBJECTS_PREFIX):
        for folder in root.glob(f"{prefix}*"):
            with contextlib.suppress(OSError):
                if folder.lstat().st_uid == os.geteuid():
                    _remove_unheld(folder)


def _remove_unheld(folder: Path) -> None:
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises BlockingIOError while its run lives
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temp_folder_errors(root: Path | None = None) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if root is not None:
            raise InputError(f"--scratch {root}: cannot be written ({error.strerror})") from error
        raise InputError(
            f"no temp folder can be written ({error.strerror}); set TMPDIR to a folder"
            if isinstance(error, FileNotFoundError)
            else f"the temp folder {tempfile.gettempdir()} cannot be written; set TMPDIR to another folder"
        ) from error
