"""Standard input and outputs that cannot end a run: closed, cut off, full, or of an encoding that lacks a letter.

Nothing that a user named is read as markup, and printing never raises: `make_console` is the one place where consoles are made,
`safe_streams` the one place where stdout and stderr are prepared.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_GONE = (errno.EPIPE, errno.EIO, errno.ENXIO)
"""The reader of a pipe has left, or the terminal was hung up: nobody is left to tell."""


def make_console(**options: Any) -> Console:
    """A console that prints text as it is: `[x]`, `:fire:` and the like in a name mean nothing."""
    from rich.console import Console

    return Console(**{"soft_wrap": True, **options}, highlight=False, markup=False, emoji=False)


def open_standard_descriptors() -> None:
    """Open descriptors 0 to 2 on the null device where they are closed.

    The next file or pipe would take such a number otherwise, and a process started later would print into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(opened, True)
            else:
                os.dup2(opened, number)
                os.close(opened)


class _Output(io.RawIOBase):
    """Writes to a descriptor; once that fails, what comes is dropped. lost: the error, unless nobody was left to read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._dropping = False
        self.lost: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        if self._dropping:
            return len(view)
        try:
            return os.write(self._descriptor, view)
        except BlockingIOError:
            return self._wait_and_write(view)
        except OSError as error:
            self._dropping = True
            if error.errno not in _GONE:
                self.lost = error
            return len(view)

    def _wait_and_write(self, view: memoryview) -> int:
        """A pipe that another program set to non-blocking is full for now."""
        import select

        select.select([], [self._descriptor], [])
        return self.write(view)


def _wrap(stream: TextIO | None, descriptor: int) -> tuple[TextIO | None, _Output | None]:
    """A stream for the descriptor like `stream`; a stream that is not the process's own (a test's) is kept."""
    if stream is not None:
        try:
            own = stream.fileno() == descriptor
        except (OSError, ValueError, AttributeError):
            own = False
        if not own:
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]
            return stream, None
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    raw = _Output(descriptor)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    lines = descriptor == 2 or raw.isatty()
    wrapped = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=lines
    )
    return wrapped, raw


class Outputs:
    """What became of stdout and stderr."""

    def __init__(self, raws: list[_Output]) -> None:
        self._raws = raws

    def lost(self) -> OSError | None:
        """Why a part of what was printed is nowhere (a full disk); None where all was printed or nobody was left to read."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        return next((raw.lost for raw in self._raws if raw.lost), None)


@contextlib.contextmanager
def safe_streams() -> Iterator[Outputs]:
    """stdout and stderr as streams that never raise: letters their encoding lacks are escaped, what has no reader is dropped."""
    open_standard_descriptors()
    before = sys.stdout, sys.stderr
    raws: list[_Output] = []
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream, raw = _wrap(getattr(sys, name), number)
        setattr(sys, name, stream)
        if raw is not None:
            raws.append(raw)
    outputs = Outputs(raws)
    try:
        yield outputs
    finally:
        outputs.lost()  # flushes
        if before[0] is not None and before[1] is not None:
            sys.stdout, sys.stderr = before
