"""A kind of another package, that of docs/new-stream.md, through the real command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cache.reader import open_cache
from pipeline.backbones.choice import parse_stream
from pipeline.backbones.kind import ENTRY_POINTS, Machine
from pipeline.backbones.kinds.motion import Motion
from tests.pipeline.backbones.kinds.checks import counted_gflop, error_against_plain
from tests.videos import write_video

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "new-stream.md"
(SNIPPET,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as an installer leaves it: the module, and the entry point of the page."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "patches_for_onepass.py").write_text(SNIPPET)
    said = dict(re.findall(r'^    (\w+) = "(\S+:KIND)"$', PAGE.read_text(encoding="utf-8"), re.M))
    assert f'[project.entry-points."{ENTRY_POINTS}"]' in PAGE.read_text(encoding="utf-8")
    about = folder / "patches_for_onepass-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: patches-for-onepass\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in said.items()]
    (about / "entry_points.txt").write_text("\n".join([f"[{ENTRY_POINTS}]", *lines]) + "\n")
    return folder


def onepass(installed: Path, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "onepass.py"), *map(str, words)],
        text=True,
        capture_output=True,
        timeout=400,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{installed}{os.pathsep}{ROOT}", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_as_the_page_says() -> None:
    import torch

    names: dict[str, Any] = {}
    exec(compile(SNIPPET, PAGE.name, "exec"), names)
    kind = names["KIND"]
    (example,) = kind.examples()
    settled = kind.settle(kind.checked(parse_stream(example.choice)))
    sampling = settled.plan.sampling
    assert (sampling.window, sampling.fps, sampling.stride) == (example.frames, example.fps, example.stride)
    backbone = kind.load(settled, Machine(torch.device("cpu"), "fp32"))
    assert error_against_plain(backbone) < 1e-3
    width, gflop = counted_gflop(backbone._network.module, settled)
    assert width == backbone.dim == example.width
    assert gflop == pytest.approx(example.gflop, abs=5e-5)


@pytest.mark.slow
def test_it_is_listed_extracted_and_verified(installed: Path, tmp_path: Path) -> None:
    said = onepass(installed, "streams")
    assert "p=patches:small" in said and Motion.about in said
    write_video(tmp_path / "data" / "a.mp4", seconds=1.2)
    stream = ("--stream", "p=patches:wide,fps=10")
    machine = ("--device", "cpu", "--precision", "fp32", "--runtime", "torch", "--workers", "1")
    onepass(installed, "extract", "--src", tmp_path / "data", "--out", tmp_path / "a.zarr", *stream, *machine)
    with open_cache(tmp_path / "a.zarr") as cache:
        info = cache.streams["p"]
        assert (info.dim, info.fingerprint["kind"], info.fingerprint["model"]) == (64, "patches", "wide")
        assert len(cache.tokens("p", 0).values) == 3  # 12 grid samples, 4 a token
    onepass(installed, "verify", tmp_path / "a.zarr", "--src", tmp_path / "data")
