"""The house rules that a reader would otherwise have to trust: who imports whom, and that no file is executed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("pipeline", "cache", "heads")
ALLOWED = {"pipeline": {"pipeline", "cache"}, "cache": {"cache"}, "heads": {"heads", "cache"}}
"""pipeline -> cache <- heads. The root command alone composes the two stages."""
COMPOSERS = {"onepass", "commands"}
MODULES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, at any depth, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield str(node.module), node.lineno


def names(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def test_the_modules_were_found() -> None:
    assert len(MODULES) > 60


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_run_towards_the_cache(package: str) -> None:
    ours = {*PACKAGES, *COMPOSERS}
    wrong = [
        f"{names(path)}:{line} imports {name}"
        for path in (REPOSITORY / package).rglob("*.py")
        for name, line in imports(path)
        if name.split(".")[0] in ours - ALLOWED[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_cache_knows_no_torch() -> None:
    heavy = {
        "torch",
        "torchvision",
        "open_clip",
        "pytorchvideo",
        "sklearn",
        "av",
        "cv2",
        "decord",
        "matplotlib",
    }
    wrong = [
        f"{names(path)}:{line} imports {name}"
        for path in (REPOSITORY / "cache").rglob("*.py")
        for name, line in imports(path)
        if name.split(".")[0] in heavy
    ]
    assert not wrong, "\n".join(wrong)


FRAMES_SIDE = ("worker", "probe", "decode", "frames", "sampling", "trouble")


def test_decode_workers_know_neither_torch_nor_models() -> None:
    """Checked file by file, with what is imported inside functions; test_worker checks a live interpreter."""
    pipeline = REPOSITORY / "pipeline"
    files = [pipeline / f"{name}.py" for name in FRAMES_SIDE] + list((pipeline / "decoders").glob("*.py"))
    allowed = {f"pipeline.{name}" for name in FRAMES_SIDE}
    wrong = []
    for path in files:
        for name, line in imports(path):
            ours = name.startswith("pipeline") and name not in allowed
            if name.split(".")[0] == "torch" or (ours and not name.startswith("pipeline.decoding.decoders")):
                wrong.append(f"{names(path)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
EXECUTING_CALLS = {"eval", "exec", "os.system", "torch.save", "torch.jit.load", "torch.hub.load"}
SAFE_LOADERS = {"yaml.BaseLoader", "yaml.SafeLoader"}


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def _keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(k.value) for k in call.keywords if k.arg == name), None)


def _keyword_is(call: ast.Call, name: str, value: object) -> bool:
    return any(
        k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is value for k in call.keywords
    )


def test_no_file_is_executed() -> None:
    """No pickle; `torch.load` only with weights_only=True; numpy only with allow_pickle=False; no eval, no shell."""
    wrong = []
    for path in [*MODULES, REPOSITORY / "onepass.py"]:
        for name, line in imports(path):
            if name.split(".")[0] in UNSAFE_MODULES:
                wrong.append(f"{names(path)}:{line} imports {name}")
        for name, call in _calls(path):
            where = f"{names(path)}:{call.lineno} calls {name}"
            if name in ("torch.load", "torch.hub.load_state_dict_from_url"):
                if _keyword(call, "weights_only") is not True:
                    wrong.append(f"{where} without weights_only=True")
            elif name in ("np.load", "numpy.load"):
                if _keyword(call, "allow_pickle") is not False:
                    wrong.append(f"{where} without allow_pickle=False")
            elif name == "yaml.load":
                if not {ast.unparse(k.value) for k in call.keywords} & SAFE_LOADERS:
                    wrong.append(f"{where} without a safe loader")
            elif name in EXECUTING_CALLS:
                wrong.append(where)
            elif any(k.arg == "shell" for k in call.keywords):
                wrong.append(f"{where} through a shell")
    assert not wrong, "\n".join(wrong)


def test_consoles_are_made_in_one_place() -> None:
    """`cache.process.terminal.make_console` reads no markup in what a user named; a console of another make would."""
    wrong = []
    for path in [*MODULES, REPOSITORY / "onepass.py"]:
        if path == REPOSITORY / "cache" / "terminal.py":
            continue
        for name, call in _calls(path):
            if name.split(".")[-1] == "Console" or _keyword_is(call, "markup", True):
                wrong.append(f"{names(path)}:{call.lineno} calls {name}")
            if name.split(".")[-1] == "from_markup":
                wrong.append(f"{names(path)}:{call.lineno} calls {name}")
    assert not wrong, "\n".join(wrong)


def test_text_files_name_their_encoding() -> None:
    """Files are UTF-8 whatever the locale says."""
    wrong = []
    for path in [*MODULES, REPOSITORY / "onepass.py"]:
        for name, call in _calls(path):
            named = {k.arg for k in call.keywords}
            method = name.split(".")[-1]
            positional = {"read_text": 1, "write_text": 2}.get(method)
            if positional is not None and "encoding" not in named and len(call.args) < positional:
                wrong.append(f"{names(path)}:{call.lineno} calls {name}")
            if method == "open" and name not in (
                "os.open",
                "av.open",
                "Image.open",
                "cls.open",
                "CacheWriter.open",
            ):
                mode = next((ast.unparse(arg) for arg in call.args), "'r'")
                if "encoding" not in named and "b" not in mode and mode in ("'r'", "'w'", "'a'", "'x'"):
                    wrong.append(f"{names(path)}:{call.lineno} calls {name}")
    assert not wrong, "\n".join(wrong)


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    lengths = {names(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {name: n for name, n in lengths.items() if n > 450}


@pytest.mark.parametrize(
    ("module", "must_not_load"),
    [
        (
            "pipeline.cli.extract",
            {"torch", "zarr", "h5py", "cv2", "av", "decord", "open_clip", "sklearn", "matplotlib"},
        ),
        ("heads.cli.train", {"torch", "zarr", "h5py", "sklearn", "matplotlib", "scipy"}),
        ("cache", {"torch", "zarr", "h5py"}),
        ("cache.reader", {"torch", "sklearn"}),
        ("cache.writer", {"torch", "sklearn"}),
        ("pipeline.decoding.worker", {"torch", "open_clip", "pytorchvideo", "zarr", "h5py", "decord", "av"}),
        ("onepass", {"torch", "zarr", "h5py", "cv2", "av", "decord", "open_clip", "sklearn", "matplotlib"}),
    ],
)
def test_what_an_import_costs(module: str, must_not_load: set[str]) -> None:
    """`--help` answers at once because heavy libraries wait for the command that needs them."""
    code = f"import sys, {module}; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env=environment,
    ).stdout
    assert not must_not_load & set(loaded.split())
