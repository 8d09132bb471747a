"""`onepass streams`: every kind in a table that fits, one in full, at once and without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from cache.errors import InputError
from pipeline.backbones import kind as kinds
from pipeline.backbones.kind import OWN_KINDS, kind_named
from pipeline.cli.streams import streams_command

ROOT = Path(__file__).parents[3]
WITHOUT_TORCH = """
import sys
sys.argv = ["onepass", "streams", *sys.argv[1:]]
import onepass
try:
    onepass.main()
finally:
    heavy = {"torch", "torchvision", "timm", "transformers", "open_clip", "pytorchvideo", "zarr"} & set(sys.modules)
    assert not heavy, heavy
"""


def seconds_used(*words: str) -> float:
    """Processor time of one call; a busy machine makes some of it longer, never shorter."""
    before = os.times()
    subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words],
        check=True,
        timeout=120,
        cwd=ROOT,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize(
    ("words", "seconds"),
    [((), 1.5), (("--help",), 0.5), (("slowfast",), 1.5), (("mc=torchvision:mc3_18",), 1.5)],
)
def test_it_answers_at_once_without_torch(words: tuple[str, ...], seconds: float) -> None:
    assert min(seconds_used(*words) for _ in range(3)) < seconds


@pytest.mark.parametrize("columns", [150, 80])
def test_every_example_stands_in_a_table_that_fits(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    streams_command()
    table = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "┏┃┡│└"]
    assert table and max(map(len, table)) <= columns
    for name in OWN_KINDS if columns == 150 else ():  # long names are folded where there is no room
        for example in kind_named(name).examples():
            stream, *said = [part for part in example.choice.split(",") if not part.startswith("weights=")]
            stream = ",".join([stream, *said])  # size=224 and reads=text are why the row reads what it says
            (row,) = [line for line in table if f"│ {stream} " in line]
            assert f" {example.width} " in row and (example.reads or f" {example.frames} x ") in row
    (row,) = [line for line in table if "pytorchvideo:x3d_m " in line]
    assert "16 x 256 at 6 " in row and " 4.635 " in row  # 12.36 GFLOP every 16 / 6 s
    assert ("kinetics400" in row) == (columns == 150)


def test_one_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    streams_command("own=pytorchvideo:mvit_base_16x4,stride=8")
    said = capsys.readouterr().out
    assert "16 frames at 7.5 a second, a token every 1.06667 s" in said
    assert "weights      kinetics400, from https://dl.fbaipublicfiles.com/pytorchvideo" in said
    fields = json.loads(said[said.index("{") :])
    assert fields["kind"] == "pytorchvideo" and fields["sampling"]["stride"] == 8
    assert (fields["preprocessing"]["scaled"], fields["preprocessing"]["size"]) == (256, 224)
    streams_command("motion")
    assert "weights      needs none\n" in capsys.readouterr().out
    with pytest.raises(InputError, match="did you mean mvit_base_16x4"):
        streams_command("own=pytorchvideo:mvit_base_16")


def test_a_kind_that_does_not_load_is_named_below(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("broken", "no_such_package.streams:Kind", kinds.ENTRY_POINTS)
    monkeypatch.setattr(kinds, "entry_points", lambda **_: (broken,))
    monkeypatch.setattr(kinds, "kind_names", lambda: ("motion", "broken"))
    streams_command()
    assert "not to be used: --stream: the kind 'broken' of no_such_package" in capsys.readouterr().out
    kind_named.cache_clear()
