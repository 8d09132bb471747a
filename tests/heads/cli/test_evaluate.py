from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from cache.errors import InputError
from cache.reader import open_cache
from heads.cli.evaluate import evaluate_command
from heads.train import train_head
from heads.training.config import TrainConfig
from tests.heads.synthetic import write_cache
from tests.heads.trained.test_evaluation import fresh

app = typer.Typer()
app.command()(evaluate_command)


@pytest.fixture(scope="module")
def folder(toy_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TrainConfig().updated({"epochs": 2, "batch_size": 8, "n_resamples": 0})
    with open_cache(toy_path) as cache:
        return train_head(cache, config).save(tmp_path_factory.mktemp("head") / "h")


@pytest.fixture(scope="module")
def new_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("new") / "new.zarr", fresh())


def evaluate(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in (*words, "--resamples", 20)])


def test_everything_is_printed_and_written(folder: Path, new_path: Path, tmp_path: Path) -> None:
    out, scores = tmp_path / "e", tmp_path / "scores.csv"
    with open_cache(new_path) as cache:
        pairs = zip(cache.videos.id, cache.videos.label, strict=True)
        scores.write_text(
            "id,probability_mean\n" + "".join(f"{i},{0.3 + 0.1 * label}\n" for i, label in pairs)
        )
    result = evaluate(folder, new_path, "--out", out, "--floor-scores", f"zero-shot={scores}")
    assert result.exit_code == 0, result.output
    for words in (
        "zero-shot",
        "unseen: 40 videos, 20 positive",
        "mean-pooled",
        "by source group, the worst first",
        "RANDOM",
    ):
        assert words in result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "confusion_matrix.png",
        "metrics.json",
        "pr_curve.png",
        "predictions.csv",
        "reliability.png",
        "report.html",
        "roc_curve.png",
        "sources.csv",
        "threshold_curve.png",
    ]
    values = json.loads((out / "metrics.json").read_text())
    assert values["part"] == "unseen"
    given = values["floors"]["zero-shot"]["metrics"]  # its threshold is chosen as those of the other floors
    assert (given["auroc"], given["f1"]) == (1.0, 1.0)
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and {row["seen"] for row in rows} == {""}
    hits = sum(row["label"] == row["decision"] == "Fight" for row in rows)
    assert hits == values["head"]["metrics"]["true_positives"]
    page = (out / "report.html").read_text()
    assert "has seen none of these videos" in page and "By source on unseen" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_seen_videos_end_with_one_line_and_seen_is_said_everywhere(
    folder: Path, toy_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e"
    refused = evaluate(folder, toy_path, "--out", out)
    assert isinstance(refused.exception, InputError) and not out.exists()
    assert "60 of 60 videos are its own (36 train, 24 val)" in str(refused.exception)
    taken = evaluate(folder, toy_path, "--out", out, "--seen")
    assert taken.exit_code == 0, taken.output
    assert "SEEN: 60 of 60" in taken.output and "SEEN VIDEOS among them" in taken.output
    assert (out / "report.html").read_text().count("SEEN VIDEOS") > 3
    with (out / "predictions.csv").open(newline="") as file:
        assert {row["seen"] for row in csv.DictReader(file)} == {"train", "val"}


def test_what_cannot_be_is_said_before_anything_is_scored(
    folder: Path, new_path: Path, tmp_path: Path
) -> None:
    for words, message in (
        (("--out", folder), "folder of a head"),
        (("--src", tmp_path / "nowhere"), "--src"),
    ):
        assert message in str(evaluate(folder, new_path, *words).exception)
