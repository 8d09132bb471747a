from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cache.errors import InputError, OnepassError
from cache.reader import open_cache
from heads.cli.threshold import threshold_command
from heads.train import train_head
from heads.training.config import TrainConfig


@pytest.fixture(scope="module")
def folder(toy_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TrainConfig().updated({"epochs": 3, "batch_size": 8, "n_resamples": 20})
    with open_cache(toy_path) as cache:
        return train_head(cache, config).save(tmp_path_factory.mktemp("head") / "h")


def run(*arguments: object) -> str:
    app = typer.Typer()
    app.command()(threshold_command)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, OnepassError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_without_an_objective_all_are_compared(folder: Path, toy_path: Path) -> None:
    before = (folder / "head.json").read_bytes()
    said = run("--head", folder, "--features", toy_path, "--resamples", 20)
    for words in (
        "stored in the head",
        "coarse grid",
        "F-beta, beta 2",
        "false alarms",
        "24 videos, 12 Fight",
    ):
        assert words in said
    assert "RANDOM backbone weights" in said
    assert "val of the training cache" in said
    assert (folder / "head.json").read_bytes() == before


def test_write_stores_one(folder: Path, toy_path: Path) -> None:
    said = run(
        *("--head", folder, "--features", toy_path, "--resamples", 20),
        *("--objective", "precision-at-recall", "--floor", 1.0, "--write"),
    )
    assert "kept in threshold_history" in said
    values = json.loads((folder / "head.json").read_text())
    assert values["threshold"]["objective"] == "precision-at-recall"
    assert values["metrics"]["val"]["recall"] == 1.0
    assert len(values["threshold_history"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--write",), "--objective"),
        (("--part", "test"), "may not choose"),
        (("--objective", "luck"), "objective must be one of"),
        (("--objective", "f1", "--threshold-grid", "odd"), "grid must be"),
        (("--resamples", -1), "--resamples"),
    ],
)
def test_what_cannot_be_is_said(
    folder: Path, toy_path: Path, arguments: tuple[object, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        run("--head", folder, "--features", toy_path, *arguments)
