"""The main job through the installed commands: extract, verify, convert, train-head, predict, inspect."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cache.reader import open_cache
from pipeline.demo_videos import make_demo_tree

BIN = Path(sys.executable).parent


def run(*arguments: str | Path, code: int = 0) -> str:
    """Run a command of this environment; returns what it printed."""
    command = [str(BIN / str(arguments[0])), *map(str, arguments[1:])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_main_job(tmp_path: Path) -> None:
    videos = make_demo_tree(tmp_path / "videos", videos_per_class_train=4, videos_per_class_val=3, seed=1)
    cache, head, report = tmp_path / "v1.zarr", tmp_path / "head", tmp_path / "report.json"
    options = ("--streams", "image,motion", "--runtime", "torch", "--max-rejects", "0.5")
    printed = run("extract", "--src", videos, "--out", cache, *options, "--report", report)
    assert "weights    image efficientnet-lite0, motion none" in printed
    assert "adds up" in printed
    counts = json.loads(report.read_text())
    assert (counts["stored"], counts["rejected"], counts["found"]) == (14, 3, 17)

    assert "ok" in run("onepass", "verify", cache, "--src", videos, "--sample", "1")
    converted = tmp_path / "v1.h5"
    run("onepass", "convert", cache, converted)
    facts = json.loads(run("onepass", "inspect", converted, "--json"))
    assert (facts["n_videos"], facts["n_rejects"], facts["random_weights"]) == (14, 3, False)

    printed = run(
        "train-head", "--features", converted, "--out", head, "--model", "mlp", "--no-cv", "--epochs", "3"
    )
    assert "pos_weight" in printed
    assert (head / "confusion_matrix.png").stat().st_size > 0
    for source in (cache, videos / "val"):
        scores = tmp_path / "scores.csv"
        printed = run("onepass", "predict", source, "--head", head, "--out", scores, "--max-rejects", "0.5")
        assert "image: efficientnet-lite0, motion: none" in printed
        with scores.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        with open_cache(cache) as opened:
            expected = len(opened) + 3 if source == cache else 6 + 1
        assert len(rows) == expected
        assert all(bool(row["probability"]) != bool(row["reject_reason"]) for row in rows)


def test_a_missing_head_is_one_line(tmp_path: Path) -> None:
    printed = run("onepass", "predict", tmp_path, "--head", tmp_path / "none", code=4)
    assert printed.startswith("error: ")
    assert len(printed.strip().splitlines()) == 1
