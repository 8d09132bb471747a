"""The snippets of docs/python.md run, one after another, in one namespace."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from cache.convert import convert
from tests.videos import write_video

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.mark.slow
def test_the_snippets_run(toy_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime", "tensorboard"):
        pytest.importorskip(package)
    snippets = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(snippets) >= 8
    for split, name in (("train", "Fight"), ("val", "NonFight")):
        write_video(tmp_path / "RWF-2000" / split / name / "a_0.mp4", seconds=0.6)
    (tmp_path / "cache").mkdir()
    convert(toy_path, tmp_path / "cache" / "v1.zarr")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, snippet in enumerate(snippets, start=1):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="tensorboard")
            exec(compile(snippet, f"{PAGE.name}, snippet {number}", "exec"), names)
    assert (tmp_path / "heads-out" / "first" / "report.html").is_file()
    assert names["scores"].mean() > 0.8
    assert list((tmp_path / "runs" / "first").glob("events.*"))
