"""`extract` as a command: what it refuses, in one line and with which exit code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_type_hints

import pytest

from onepass import predict
from pipeline.backbones.choice import PRECISIONS, RUNTIMES
from pipeline.cli.extract import extract_command
from pipeline.config import CHOICES
from tests.test_cli_extract import MODEL, call
from tests.test_cli_extract import src as src


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--src", "nowhere"], 2, "nowhere"),
        (["--src", "{src}/val/NonFight/text.txt"], 2, "text.txt"),
        (["--src", "{src}", "--decoder", "vlc"], 2, "--decoder vlc: choose from pyav, decord, opencv"),
        (["--src", "{src}", "--dtype", "float64"], 2, "--dtype float64"),
        (["--src", "{src}", "--duplicates", "drop"], 2, "--duplicates drop"),
        (["--src", "{src}", "--streams", "clip,sound"], 2, "--streams sound"),
        (["--src", "{src}", "--streams", ","], 2, "--streams"),
        (["--src", "{src}", "--clip-model", "ViT"], 2, "--clip-model ViT"),
        (["--src", "{src}", "--clip-fps", "0"], 2, "--clip-fps"),
        (["--src", "{src}", "--clip-fps", "nan"], 2, "--clip-fps"),
        (["--src", "{src}", "--clip-fps", "1e9"], 2, "--clip-fps"),
        (
            ["--src", "{src}", "--streams", "motion", "--clip-fps", "4"],
            2,
            "--clip-fps 4.0: is of the built-in stream clip, which this run does not make (it makes motion)",
        ),
        (
            ["--src", "{src}", "--stream", "clip=motion", "--clip-weights", "random"],
            2,
            "--clip-weights random: is of",
        ),
        (["--src", "{src}", "--slowfast-stride", "40"], 2, "--slowfast-stride"),
        (["--src", "{src}", "--device", "gpu"], 2, "--device gpu"),
        (["--src", "{src}", "--device", "cuda:99"], 2, "--device"),
        (["--src", "{src}", "--precision", "fp8"], 2, "--precision fp8"),
        (["--src", "{src}", "--precision", "fp16", "--device", "cpu"], 2, "--precision fp16"),
        (["--src", "{src}", "--runtime", "tflite"], 2, "--runtime tflite"),
        (["--src", "{src}", "--gpu-engine", "compile", "--device", "cpu"], 2, "--gpu-engine compile needs"),
        (["--src", "{src}", "--seed", "-1"], 2, "--seed"),
        (["--src", "{src}", "--workers", "-1"], 2, "--workers"),
        (["--src", "{src}", "--workers", "100000"], 2, "--workers"),
        (["--src", "{src}", "--deadline", "0"], 2, "--deadline"),
        (["--src", "{src}", "--deadline", "nan"], 2, "--deadline"),
        (["--src", "{src}", "--worker-memory", "inf"], 2, "--worker-memory"),
        (["--src", "{src}", "--memory", "-1"], 2, "--memory"),
        (["--src", "{src}", "--memory", "nan"], 2, "--memory"),
        (["--src", "{src}", "--memory", "1e-12"], 2, "--memory: 0 MiB are too little"),
        (["--src", "{src}", "--max-rejects", "2"], 2, "--max-rejects"),
        (["--src", "{src}", "--max-rejects", "nan"], 2, "--max-rejects"),
        (["--src", "{src}", "--max-decode-errors", "-1"], 2, "--max-decode-errors is a share"),
        (["--src", "{src}", "--min-seconds", "nan"], 2, "--min-seconds"),
        (["--src", "{src}", "--labels", "nowhere.csv"], 2, "nowhere.csv"),
        (["--src", "{src}", "--sources", "nowhere.csv"], 2, "nowhere.csv"),
        (["--src", "{src}", "--positive", "Fights"], 2, "Fights"),
        (["--src", "{src}", "--out", "{tmp}/cache.txt", *MODEL[:2], "--streams", "clip"], 3, "cache.txt"),
        (["--src", "{src}", "--clip-weights", "opnai", "--streams", "clip"], 4, "--clip-weights opnai"),
        (
            ["--src", "{src}", "--clip-weights", "nowhere.pt", "--streams", "clip"],
            4,
            "nowhere.pt: no such file",
        ),
        (["--src", "{src}", "--slowfast-weights", "k600", "--streams", "slowfast"], 4, "k600"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_a_code(
    arguments: list[str],
    code: int,
    words: str,
    src: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [argument.format(src=src, tmp=tmp_path) for argument in arguments]
    if "--out" not in filled:
        filled += ["--out", str(tmp_path / "c.zarr")]
    assert call(filled, monkeypatch) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert any(part in err for part in words.split("|")), err
    assert not (tmp_path / "c.zarr").exists()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("precision", PRECISIONS),
        ("runtime", RUNTIMES),
        *((name, words) for name, words in CHOICES.items()),
        ("gpu_engine", ("graph", "eager", "compile")),
        ("device", ("auto", "cpu", "cuda", "all")),
    ],
)
def test_help_names_every_value(name: str, values: tuple[str, ...]) -> None:
    for command in (extract_command, predict):
        hint = get_type_hints(command, include_extras=True).get(name)
        if hint is not None:
            told = re.findall(r"[\w-]+", hint.__metadata__[0].help)
            assert not {*values} - {*told}, (command.__name__, told)


@pytest.mark.parametrize("arguments", [["--nonsense"], [], ["--src", "x", "--workers", "two"]])
def test_what_typer_refuses_ends_with_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(arguments, monkeypatch) == 2
    captured = capsys.readouterr()
    assert "Usage" in captured.err and "Traceback" not in captured.err


def test_a_cache_that_is_none_is_named(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr" / "thesis.txt").write_text("years of work")
    code = call(
        ["--src", src, "--out", tmp_path / "c.zarr", "--weights", "random", "--streams", "clip"], monkeypatch
    )
    assert code == 3
    assert "c.zarr" in capsys.readouterr().err
    assert (tmp_path / "c.zarr" / "thesis.txt").read_text() == "years of work"
