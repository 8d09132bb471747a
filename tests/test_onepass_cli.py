"""The umbrella command: a named command runs alone, and behaves as in the group of all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import onepass
from tests.heads.synthetic import toy_videos, write_cache

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(
    command.name or command.callback.__name__
    for command in onepass.app.registered_commands
    if command.callback
)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["onepass", *words])
    with pytest.raises(SystemExit) as stopped:
        onepass.main()
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_its_whole_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, name, "--help") == 0
    assert f"Usage: onepass {name} " in capsys.readouterr().out


def test_the_group_lists_all_and_refuses_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--help") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in COMMANDS)
    assert call(monkeypatch, "nonsense") == 2
    assert "No such command 'nonsense'" in capsys.readouterr().err


def test_user_errors_are_one_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "inspect", "nowhere.zarr") == 3
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "--src", "nowhere", "--shards", "2", "--workers", "-1"),
        ("plan", "--src", "nowhere", "--shards", "2", "--workers", "100000"),
        ("verify", "nowhere.zarr", "--seed", "-1"),
        ("demo", "--out", "nowhere", "--seed", "-1"),
    ],
)
def test_numbers_out_of_range_are_one_line(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """These ended in a traceback, and that many workers were begun."""
    assert call(monkeypatch, *words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {words[-2]} {words[-1]}: ") and said.count("\n") == 1
    assert not Path("nowhere").exists()


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
sys.argv = ["onepass", "train-head", "--help"]
import onepass
try:
    onepass.main()
finally:
    heavy = {"torch", "numpy", "zarr", "h5py", "sklearn", "matplotlib", "cv2", "pydantic"} & set(sys.modules)
    assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT, capture_output=True)


def test_a_demo_that_is_interrupted_ends_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def step(arguments: list[str], **_: object) -> int:
        begun.append(arguments[0])
        return 130

    monkeypatch.setattr("pipeline.demo_videos.make_demo_tree", lambda folder, **_: folder)
    monkeypatch.setattr(onepass, "app", step)
    with pytest.raises(typer.Exit) as stopped:
        onepass.demo(tmp_path / "demo")
    assert stopped.value.exit_code == 130 and begun == ["extract"]


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "{cache}", "--json"),
        ("convert", "{cache}", "{out}.h5"),
        ("export", "{cache}", "--out", "{out}"),
        ("merge", "{cache}", "--out", "{out}.zarr"),
        ("verify", "{cache}"),
        ("audit", "{cache}", "--json"),
        ("probe", "{cache}", "--json"),
        ("ablate", "--features", "{cache}", "--out", "{out}", "--seeds", "1", "--set", "epochs=1"),
        ("train-head", "--features", "{cache}", "--model", "logistic", "--out", "{out}"),
    ],
    ids=lambda words: words[0],
)
def test_a_cache_that_is_written_meanwhile_is_read_with_a_note(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = write_cache(tmp_path / "toy.zarr", toy_videos(24))
    monkeypatch.setattr("cache.lock.writes_now", lambda path: f"process 7 ({path.name})")
    given = [word.format(cache=cache, out=tmp_path / "out") for word in words]
    ended = CliRunner().invoke(onepass.app, given)
    assert ended.exit_code in (0, 1), ended.output  # 1: leaks of audit, and verify without --src
    told = (
        f"note: {cache} is being written by process 7 (toy.zarr.lock.json): what is committed by now is read"
    )
    assert told in ended.stderr and "note: " not in ended.stdout.splitlines()[0]
