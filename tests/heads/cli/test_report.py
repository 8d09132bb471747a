from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import onepass
from heads.cli.train import main

Run = Callable[..., str]


def ended_with(words: tuple[object, ...]) -> int:
    """train-head or onepass in this process: the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(word) for word in words])
        try:
            main() if words[0] == "train-head" else onepass.main()
        except SystemExit as stopped:
            return int(stopped.code or 0)
    return 0


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs train-head or onepass; gives what was printed, or the error with its exit code in front."""

    def call(*words: object) -> str:
        code = ended_with(words)
        said = capsys.readouterr()
        return f"{code} {said.err}" if code else said.out

    return call


@pytest.fixture(scope="module")
def head(toy_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained head. Read-only by agreement."""
    out = tmp_path_factory.mktemp("report") / "h"
    quick = ("--no-cv", "--epochs", 2, "--batch-size", 8, "--set", "n_resamples=20", "--device", "cpu")
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.MonkeyPatch.context() as patch:
        patch.setattr("heads.report.outputs.training_figures", lambda *_: ())  # they are not looked at here
        assert ended_with(("train-head", "--features", toy_path, "--out", out, *quick)) == 0
    assert "report.html" in said.getvalue()
    assert said.getvalue().count("* best so far") == 1  # beside the header, where the mark is explained
    return out


def test_train_head_with_pictures_and_tensorboard(run: Run, toy_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    quick = (
        "--no-cv",
        "--features",
        toy_path,
        "--epochs",
        2,
        "--set",
        "n_resamples=0",
        "--out",
        tmp_path / "h",
    )
    run("train-head", *quick, "--src", tmp_path, "--tensorboard", tmp_path / "runs")
    assert list((tmp_path / "runs").glob("events.*"))
    assert "the file is not under --src" in (tmp_path / "h" / "report.html").read_text()
    said = run("train-head", *quick, "--src", tmp_path / "absent")
    assert said.startswith("2 error: --src")


def test_predict_writes_the_score_over_time(run: Run, head: Path, toy_path: Path, tmp_path: Path) -> None:
    words = ("onepass", "predict", toy_path, "--head", head, "--out", tmp_path / "scores.csv")
    said = run(*words, "--timeline", tmp_path / "t.csv")
    assert "windows of 60 videos; sliding: probability" in said
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == 60
    said = run(
        *(*words, "--timeline", tmp_path / "t.json"),
        *("--timeline-method", "sliding", "--timeline-window", 3),
    )
    assert "sliding: probability" in said
    assert json.loads((tmp_path / "t.json").read_text())["window"] == "3 s around a token"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--timeline", "t.txt"), ".csv or .json"),
        (("--timeline", "t.csv", "--timeline-method", "guess"), "must be sliding or attention"),
        (
            ("--timeline", "t.csv", "--timeline-method", "attention", "--timeline-window", 2),
            "takes no window",
        ),
        (("--timeline", "t.csv", "--timeline-method", "sliding", "--timeline-window", 0), "above 0"),
    ],
)
def test_timelines_that_cannot_be(
    run: Run, head: Path, toy_path: Path, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    said = run("onepass", "predict", toy_path, "--head", head, "--out", tmp_path / "s.csv", *words)
    assert said.startswith("2 error: ")
    assert message in said
    assert not (tmp_path / "s.csv").exists()


def test_the_commands_of_a_trained_head(run: Run, head: Path, toy_path: Path) -> None:
    said = run("onepass", "threshold", "--head", head, "--features", toy_path, "--resamples", 10)
    assert "stored in the head" in said
