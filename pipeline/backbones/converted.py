"""Models converted for OpenVINO, which takes seconds, kept in the user's cache folder.

A name changes with the weights, the shapes and the library versions. A kept model counts where both its files have the digests
that were taken of them: after a loss of power a file can have its length and hold zeros, and its features would be as plausible
as any. What nobody used for a month is removed when another model is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from cache.stores import files
from pipeline.backbones.base import library_versions

UNUSED_SECONDS = 30 * 24 * 3600.0
LONGEST_SECONDS = 24 * 3600.0
"""Of writing a model: a folder of parts that is older is a killed process's."""
FILES = (".xml", ".bin")
DIGEST = ".sha256"


def cache_folder() -> Path:
    """Where converted models are kept: $XDG_CACHE_HOME/onepass, else ~/.cache/onepass."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onepass"


def converted(core: Any, make_module: Callable[[], torch.nn.Module], example: torch.Tensor, key: str) -> Any:
    """The OpenVINO model of a module for inputs like `example`, kept or converted now. key: tells its weights from others."""
    versions = library_versions("openvino", "torch")
    identity = json.dumps([key, list(example.shape), str(example.dtype), versions], sort_keys=True)
    path = cache_folder() / "openvino" / hashlib.sha256(identity.encode()).hexdigest()[:24]
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # not there, or not readable: made again
        if _digest(path) == path.with_suffix(DIGEST).read_text(encoding="ascii"):
            model = core.read_model(path.with_suffix(".xml"))
            with contextlib.suppress(OSError):
                os.utime(path.with_suffix(DIGEST))
            return model
    model = _convert(make_module(), example)
    with contextlib.suppress(
        OSError, RuntimeError
    ):  # no room (OpenVINO's own error) or no right: converted again next time
        _keep(model, path)
        _remove_unused(path.parent)
    return model


def _digest(path: Path) -> str:
    """SHA-256 of both files, one after the other."""
    found = hashlib.sha256()
    for suffix in FILES:
        with path.with_suffix(suffix).open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def _convert(module: torch.nn.Module, example: torch.Tensor) -> Any:
    import openvino

    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator cannot be traced
    try:
        with torch.no_grad(), _telemetry_declined():
            model = openvino.convert_model(module.eval(), example_input=example, input=[list(example.shape)])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
    return model


@contextlib.contextmanager
def _telemetry_declined() -> Iterator[None]:
    """OpenVINO's converter tells its makers of every model, through a dozen forks; a moderator's machine tells nobody."""
    try:
        import openvino_telemetry
        from openvino.tools.ovc.telemetry_stub import Telemetry
    except ImportError:  # its own stub is used then
        yield
        return
    own = openvino_telemetry.Telemetry
    openvino_telemetry.Telemetry = Telemetry
    try:
        yield
    finally:
        openvino_telemetry.Telemetry = own


def _keep(model: Any, path: Path) -> None:
    """Write the files under temporary names; that of the digest, whose presence counts, is renamed last."""
    import openvino

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / "model"
        openvino.save_model(model, part.with_suffix(".xml"), compress_to_fp16=False)
        part.with_suffix(DIGEST).write_text(_digest(part), encoding="ascii")
        for suffix in (*reversed(FILES), DIGEST):
            if path.with_suffix(suffix).is_dir():
                files.remove(path.with_suffix(suffix))
            part.with_suffix(suffix).replace(path.with_suffix(suffix))


def _remove_unused(folder: Path) -> None:
    """Also what was kept without a digest, and parts that a killed process left."""
    now = time.time()
    by_stem: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        by_stem.setdefault(path.stem, []).append(path)
    for paths in by_stem.values():
        age = now - max(path.stat().st_mtime for path in paths)
        if age > UNUSED_SECONDS or (age > LONGEST_SECONDS and all(path.is_dir() for path in paths)):
            for path in paths:
                files.remove(path)
