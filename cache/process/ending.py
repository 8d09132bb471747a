"""How every command ends: one line and an exit code for what a user can mend, a traceback only for our own faults."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from cache.errors import InputError, OnepassError, StorageFull
from cache.process.interrupts import unwinding
from cache.process.os_errors import explain
from cache.process.terminal import safe_streams

if TYPE_CHECKING:
    import typer

INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""


def run_app(app: typer.Typer, *, args: list[str] | None = None, prog_name: str | None = None) -> NoReturn:
    """Run a typer app and exit with its code; `OnepassError` becomes `error: ...` on stderr and its own code.

    Outputs that cannot be written, or lack a letter, never end the work; SIGTERM and SIGHUP unwind it as Ctrl-C does.
    args, prog_name: None for what the process was called with. `~` is expanded in every argument.
    """
    words = [expand_home(word) for word in (sys.argv[1:] if args is None else args)]
    with safe_streams() as outputs:
        with unwinding() as heard:
            code = _run(app, words, prog_name)
        if (
            heard.is_set() and code == INTERRUPTED
        ):  # typer turns KeyboardInterrupt into this code, without a word
            _say("interrupted", code)
        lost = outputs.lost()
        if lost is not None and code == 0:
            code = _say(f"what was printed could not be written: {lost.strerror}", StorageFull.exit_code)
    sys.exit(code)


def expand_home(word: str) -> str:
    """`~/x`, `--option=~/x` and `~user/x` with the home folder: a shell leaves them as they are in quotes."""
    name, equals, value = word.partition("=")
    if equals and name.startswith("-") and value.startswith("~"):
        return f"{name}={os.path.expanduser(value)}"  # noqa: PTH111 - a Path would drop what is no path in it
    return os.path.expanduser(word)  # noqa: PTH111


def _require_no_empty(words: list[str]) -> None:
    """Raise InputError for an argument that is empty: a path of no letters would be the folder one stands in."""
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if not word or (name.startswith("--") and equals and not value):
            where = name or (f"what follows {words[number - 1]}" if number else "the first argument")
            raise InputError(
                f"{where}: is empty (a variable that is not set?); give a value (. for this folder), or leave it out"
            )


def _run(app: typer.Typer, words: list[str], prog_name: str | None) -> int:
    try:
        _require_no_empty(words)
        app(args=words, prog_name=prog_name)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except OnepassError as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:  # outside of what typer guards
        return INTERRUPTED
    except (OSError, MemoryError, RuntimeError, ImportError, SystemError) as error:
        explained = explain(error)
        if explained is None:
            raise
        return _say(*explained)
    return 0


def _say(message: str, code: int) -> int:
    print(f"error: {in_one_line(message)}", file=sys.stderr)
    return code


def in_one_line(message: str) -> str:
    """A message of several lines, with `;` between two of which the first ends without a mark."""
    lines = [" ".join(line.split()) for line in message.splitlines()]
    told = ""
    for line in filter(None, lines):
        told += f"{line}" if not told else f" {line}" if told[-1] in ".:;,!?" else f"; {line}"
    return told
