"""The house rules that a reader would otherwise have to trust: who imports whom, and that no file is executed."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import COSTLY, SLOWEST

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("pipeline", "cache", "heads")
ALLOWED = {"pipeline": {"pipeline", "cache"}, "cache": {"cache"}, "heads": {"heads", "cache"}}
"""pipeline -> cache <- heads. The root command alone composes the two stages."""
COMPOSERS = {"onepass", "commands"}
MODULES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
ROOMS = {
    "cache": (
        "errors",
        "arguments",
        "schema",
        "fingerprint tables",
        "labels",
        "stores",
        "lease",
        "lock",
        "objects",
        "process known reader",
        "kept_text",
        "batch check copying export",
        "convert writer",
        "merge token_arrays",
        "features",
        "cli",
    ),
    "pipeline": (
        "decoding demo_videos",
        "sources backbones",
        "imports",
        "counts",
        "reporting assembly redo verify",
        "flow",
        "config zero_shot",
        "add_stream dry_run",
        "run",
        "api engines",
        "cli",
    ),
    "heads": (
        "data",
        "models",
        "scoring",
        "training",
        "trained",
        "train estimator report audit",
        "ablation",
        "cli",
    ),
}
"""The rows of each package, lowest first. A room, or a file beside the rooms, imports from rows below its own only."""


@functools.cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Every module that a file imports, at any depth, with its line. Of `from heads import train` it is `heads.train`."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if (REPOSITORY / str(node.module).replace(".", "/")).is_dir():
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield str(node.module), node.lineno


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


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


def room(path: Path) -> str:
    """The folder below its package that a module lies in, or its own name where it lies beside the rooms."""
    return path.relative_to(REPOSITORY).with_suffix("").parts[1]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_has_its_row(package: str) -> None:
    there = {room(path) for path in (REPOSITORY / package).rglob("*.py")} - {"__init__"}
    named = " ".join(ROOMS[package]).split()
    assert sorted(named) == sorted(there)


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_only_look_down(package: str) -> None:
    """`__init__` is the face of its package, so it may name anything."""
    row = {name: number for number, names in enumerate(ROOMS[package]) for name in names.split()}
    wrong = []
    for path in (REPOSITORY / package).rglob("*.py"):
        own = room(path)
        if own == "__init__":
            continue
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] != package or parts[1:2] == [own]:
                continue
            if row.get(parts[1] if parts[1:] else "", len(row)) >= row[own]:
                wrong.append(f"{names(path)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


MODELS = {"torch", "torchvision", "open_clip", "pytorchvideo", "openvino"}
PARENT_SIDE = {"fetching", "pool", "memory", "pinned", "scratch", "shared_block"}
"""Files of decoding/ that run beside the models; all others run in a worker too."""


def test_decoding_knows_neither_torch_nor_models() -> None:
    """Checked file by file, with what is imported inside functions; test_worker checks a live interpreter."""
    decoding = REPOSITORY / "pipeline" / "decoding"
    wrong = []
    for path in decoding.rglob("*.py"):
        for name, line in imports(path):
            up = path.stem not in PARENT_SIDE and name.removeprefix("pipeline.decoding.") in PARENT_SIDE
            if name.split(".")[0] in MODELS or up:
                wrong.append(f"{names(path)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


COVERED_IN = {
    "pipeline/decoding/test_fetching.py": "pipeline/decoding/remote_file",
    "cache/process/test_ending.py": "cache/errors cache/process/os_errors cache/process/terminal",
    "heads/ablation/test_work.py": "cache/process/cores",
    "heads/cli/test_audit.py": "heads/cli/labels",
    "heads/training/test_device.py": "cache/process/device_errors",
    "cache/labels/test_files.py": "cache/labels/columns",
    "cache/labels/test_keys.py": "cache/labels/media",
    "cache/objects/test_reading.py": "cache/objects/address",
    "cache/test_features.py": "cache/token_arrays",
    "cache/test_reader.py": "cache/stores/compatible",
    "cache/test_writer.py": "cache/batch cache/copying",
    "heads/ablation/test_leaderboard_files.py": "heads/ablation/leaderboard_figures heads/ablation/show",
    "heads/ablation/test_sweep.py": "heads/ablation/floor_runs",
    "heads/audit/test_probe.py": "heads/cli/probe",
    "heads/cli/test_ablate.py": "heads/ablation/record",
    "heads/cli/test_evaluate.py": "heads/report/evaluation",
    "heads/cli/test_train.py": "heads/cli/run",
    "heads/report/test_curves.py": "heads/report/history",
    "heads/report/test_page.py": (
        "heads/report/mistakes heads/report/thumbnails heads/report/training_figures heads/report/words"
    ),
    "heads/test_estimator.py": "heads/data/videos",
    "heads/test_train.py": "heads/trained/record",
    "heads/trained/test_checkpoint.py": "heads/trained/folder",
    "heads/trained/test_export.py": "heads/cli/export",
    "heads/trained/test_timeline.py": "heads/report/timeline_file",
    "heads/training/test_batched.py": "heads/training/epochs",
    "pipeline/backbones/test_engine.py": "pipeline/backbones/runtime",
    "pipeline/backbones/test_heard.py": "pipeline/backbones/sound_families pipeline/decoding/spectrogram",
    "pipeline/backbones/test_load.py": "pipeline/backbones/network",
    "pipeline/backbones/kinds/test_pytorchvideo.py": "pipeline/backbones/folding",
    "pipeline/backbones/kinds/test_transformers.py": "pipeline/backbones/families",
    "pipeline/backbones/kinds/test_motion.py": "pipeline/backbones/measured pipeline/decoding/plain_motion",
    "pipeline/decoding/test_worker.py": "pipeline/decoding/noise",
    "pipeline/decoding/test_hearing.py": "pipeline/decoding/plain_sound pipeline/decoding/sound",
    "pipeline/decoding/test_reading.py": "pipeline/decoding/plain_words pipeline/decoding/words",
    "pipeline/backbones/test_text.py": "pipeline/backbones/text_keys",
    "pipeline/test_words.py": "pipeline/decoding/other_media pipeline/sources/read_transcripts",
    "pipeline/test_verify_words.py": "pipeline/backbones/plain_text",
    "pipeline/backbones/test_slowfast_planes.py": "pipeline/backbones/slowfast",
    "pipeline/decoding/decoders/test_base.py": (
        "pipeline/decoding/decoders/decord pipeline/decoding/decoders/opencv pipeline/decoding/decoders/pyav "
        "pipeline/decoding/decoders/reordering pipeline/decoding/decoders/tiff"
    ),
    "pipeline/sources/test_tree.py": (
        "pipeline/sources/manifest pipeline/sources/names pipeline/sources/system_files"
    ),
    "pipeline/test_numbered.py": "pipeline/decoding/decoders/suited",
    "pipeline/test_redo.py": "pipeline/decoding/decoders/affected",
    "pipeline/test_run.py": "pipeline/config cache/process/interrupts",
    "pipeline/imports/test_run.py": "pipeline/cli/imports pipeline/imports/crops pipeline/imports/spans",
    "pipeline/test_verify.py": "pipeline/cli/verify",
    "test_cli_extract.py": "pipeline/cli/extract",
    "test_predict.py": "heads/report/score_sheet",
    "test_onepass_cli.py": "cache/cli",
    "test_shards.py": "pipeline/cli/merge pipeline/cli/plan",
}
"""Modules without a test file of their own, by the test of the one caller or of the kind through which they are tested."""


def test_every_module_has_its_test_file() -> None:
    """tests/ mirrors the rooms. A new module gets `test_<module>.py` beside its neighbours' rather than a line above."""
    tests = REPOSITORY / "tests"
    elsewhere = {f"{module}.py" for modules in COVERED_IN.values() for module in modules.split()}
    without = set()
    for path in MODULES:
        mirrored = tests / path.relative_to(REPOSITORY).with_name(f"test_{path.name}")
        if path.stem != "__init__" and not mirrored.exists():
            without.add(names(path))
    assert sorted(without) == sorted(elsewhere)


def test_costly_tests_are_still_there() -> None:
    for modules in (COSTLY, SLOWEST):
        assert not [name for name in modules if not (REPOSITORY / "tests" / name).is_file()]
        assert len(set(modules)) == len(modules)


@pytest.mark.parametrize("test", COVERED_IN)
def test_a_module_is_within_reach_of_the_test_that_covers_it(test: str) -> None:
    reached: set[Path] = set()
    open_files = [REPOSITORY / "tests" / test]
    while open_files:
        path = open_files.pop()
        if path not in reached:
            reached.add(path)
            places = {REPOSITORY / f"{name.replace('.', '/')}.py" for name, _ in imports(path)}
            open_files += [place for place in places if place.exists()]
    missed = {module for module in COVERED_IN[test].split() if REPOSITORY / f"{module}.py" not in reached}
    assert not missed


UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
EXECUTING_CALLS = {"eval", "exec", "os.system", "torch.save", "torch.jit.load", "torch.hub.load"}
SAFE_LOADERS = {"yaml.BaseLoader", "yaml.SafeLoader"}


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(parsed(path)):
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
        if path == REPOSITORY / "cache" / "process" / "terminal.py":
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
