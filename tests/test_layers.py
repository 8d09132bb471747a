"""The house: pipeline -> cache <- heads, light workers, quick help, nothing from a data file executed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "cache", "heads")
ALLOWED = {"pipeline": {"pipeline", "cache"}, "heads": {"heads", "cache"}, "cache": {"cache"}}


def modules(package: str) -> Iterator[Path]:
    yield from sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names of everything a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_point_one_way(package: str) -> None:
    files = list(modules(package))
    assert files
    for path in files:
        own = {name.split(".")[0] for name in imported(path)} & {*PACKAGES, "onepass"}
        assert own <= ALLOWED[package], f"{path} imports {own - ALLOWED[package]}"


def test_the_cache_knows_no_torch() -> None:
    for path in modules("cache"):
        assert not {name for name in imported(path) if name.split(".")[0] == "torch"}, path


@pytest.mark.parametrize("package", PACKAGES)
def test_no_pickle(package: str) -> None:
    for path in modules(package):
        names = {name.split(".")[0] for name in imported(path)}
        allowed = {"pickle"} if path.name == "weights.py" else set()  # names the error of weights_only=True
        assert not names & {"pickle", "dill", "joblib", "shelve", "marshal"} - allowed, path
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(
                    k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords
                ), path


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_decode_workers_stay_light() -> None:
    names = loaded_after(
        "import pipeline.worker, pipeline.decode, pipeline.decoders.pyav, pipeline.decoders.opencv"
    )
    assert "numpy" in names
    assert not names & {"torch", "open_clip", "pytorchvideo", "zarr", "sklearn", "matplotlib"}


def test_commands_import_nothing_heavy_before_they_run() -> None:
    names = loaded_after("import onepass")
    assert not names & {"torch", "zarr", "h5py", "sklearn", "matplotlib", "cv2", "av", "decord"}
