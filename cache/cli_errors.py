"""How every command ends: one line and an exit code for what a user can mend, a traceback only for our own faults."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from cache.errors import OnepassError, StorageFull

if TYPE_CHECKING:
    import typer

INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""


def run_app(app: typer.Typer, *, args: list[str] | None = None, prog_name: str | None = None) -> NoReturn:
    """Run a typer app and exit with its code; `OnepassError` becomes `error: ...` on stderr and its own code.

    args, prog_name: None for what the process was called with.
    """
    try:
        app(args=args, prog_name=prog_name)
    except OnepassError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # the reader of our output is gone (`onepass inspect | head`): nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(
                f"the disk is full: {error.filename or error}; make space and run the same command again",
                StorageFull.exit_code,
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            _fail(
                f"{error.filename or 'a file'}: {error.strerror}; check its permissions or choose another path",
                2,
            )
        raise
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
