"""What is printed must never end a run: names that the terminal's encoding lacks are written as escapes."""

from __future__ import annotations

import io
import sys


def escape_unprintable() -> None:
    """From now on stdout and stderr write what their encoding lacks as `\\\\xe9`, where they would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
