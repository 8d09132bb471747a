from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cache.reader import Cache
from heads.report.outputs import write_training
from heads.train import train_head
from heads.trained.head import TrainedHead
from heads.training.config import TrainConfig


def test_everything_lies_beside_the_head(toy_cache: Cache, quick: TrainConfig, tmp_path: Path) -> None:
    head = train_head(toy_cache, quick)
    written = write_training(head, tmp_path / "h")
    assert all(path.exists() for path in written.values())
    assert sorted(p.name for p in (tmp_path / "h").iterdir()) == [
        "confusion_matrix.png",
        "head.json",
        "head.safetensors",
        "history.csv",
        "history.png",
        "metrics.json",
        "pr_curve.png",
        "predictions.csv",
        "reliability.png",
        "report.html",
        "roc_curve.png",
        "threshold_curve.png",
    ]
    with (tmp_path / "h" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "label", "split", "probability", "decision"]
    assert len(rows) == 60
    val = [row for row in rows if row["split"] == "val"]
    hits = sum(row["label"] == row["decision"] == "1" for row in val)
    metrics = json.loads((tmp_path / "h" / "metrics.json").read_text())
    assert hits == metrics["head"]["val"]["metrics"]["true_positives"]
    for row in rows:
        assert (float(row["probability"]) >= head.info.threshold.threshold) == (row["decision"] == "1")
    assert metrics["chosen_on"] == "val"
    assert metrics["scored_once_on"] is None
    assert metrics["weights"].startswith("clip: random")
    assert "mean-pooled on val" in metrics["floors"]
    with (tmp_path / "h" / "history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in history] == [1, 2, 3, 4]

    loaded = TrainedHead.load(tmp_path / "h")
    with pytest.raises(ValueError, match="fresh training"):
        write_training(loaded, tmp_path / "again")
