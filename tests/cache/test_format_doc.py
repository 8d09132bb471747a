"""The snippets of docs/format.md, run as they stand."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from cache.convert import convert
from cache.schema import MAX_DETAIL_CHARACTERS, REJECT_COLUMNS, RELABEL_COLUMNS, VIDEO_COLUMNS
from tests.cache.builders import make_video, write_cache

DOCUMENT = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


def test_there_are_three_short_snippets() -> None:
    assert len(SNIPPETS) == 3
    for snippet in SNIPPETS:
        assert len([line for line in snippet.splitlines() if line.strip()]) <= 12


@pytest.mark.parametrize("number", range(3))
def test_snippets_print_the_live_videos(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cache(
        Path("v1.zarr"), [make_video("a.mp4", n_tokens=4, label=1), make_video("b/ü.mp4", n_tokens=2)]
    )
    write_cache(Path("v1.zarr"), [make_video("b/ü.mp4", version=1, n_tokens=3, label=0)])
    convert("v1.zarr", "v1.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(SNIPPETS[number], "docs/format.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["a.mp4 1 (4, 6) [1.5 2. ]", "b/ü.mp4 0 (3, 6) [1.  1.5]"]


@pytest.mark.parametrize("name", [*VIDEO_COLUMNS, *REJECT_COLUMNS, *RELABEL_COLUMNS])
def test_every_column_is_documented(name: str) -> None:
    assert f"`{name}`" in DOCUMENT


def test_the_stated_limits_are_those_of_the_code() -> None:
    assert f"at most {MAX_DETAIL_CHARACTERS:,}" in DOCUMENT
