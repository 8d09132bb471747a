"""Another process that writes or locks, for tests of what two of them do to one cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


def start_python(code: str, store: Path, **pipes: Any) -> subprocess.Popen[str]:
    """Python code in a process of its own, with the store as its argument; what it prints is read as text."""
    return subprocess.Popen(
        [sys.executable, "-c", code, str(store)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, **pipes
    )


def read_line(process: subprocess.Popen[str]) -> str:
    """The next that it prints, waited for."""
    assert process.stdout is not None
    return process.stdout.readline()
