"""The folder of a trained head, before anything is imported that could read it."""

from __future__ import annotations

from pathlib import Path

from cache.errors import HeadError

WEIGHTS_FILE = "head.safetensors"
INFO_FILE = "head.json"


def require_head(folder: str | Path) -> None:
    """Raises HeadError where no head lies."""
    folder = Path(folder)
    if not (folder / INFO_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        kind = "no such folder" if not folder.is_dir() else f"it needs {INFO_FILE} and {WEIGHTS_FILE}"
        raise HeadError(f"{folder} is not a trained head: {kind}; make one with train-head --out {folder}")
