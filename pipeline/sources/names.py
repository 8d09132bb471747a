"""File names as text that a cache and a terminal can hold, the same in every locale."""

from __future__ import annotations

import os
import sys


def portable(text: str) -> str:
    """The text with undecodable bytes (lone surrogates) and control characters as %XX."""
    escaped = "".join(f"%{ord(c):02X}" if ord(c) < 32 or ord(c) == 127 else c for c in text)
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in escaped)


def portable_path(path: str | os.PathLike[str]) -> str:
    """A path of this system as text: Python reads its bytes by the locale, this reads them as UTF-8."""
    name = os.fspath(path)
    return portable(name if sys.platform == "win32" else os.fsencode(name).decode("utf-8", "surrogateescape"))
