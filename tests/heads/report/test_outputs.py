from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path

import pytest

from cache.errors import StorageFull
from cache.reader import Cache
from cache.stores import files
from heads.report.outputs import WRITTEN, write_training
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
    hits = sum(row["label"] == row["decision"] == "Fight" for row in val)
    metrics = json.loads((tmp_path / "h" / "metrics.json").read_text())
    assert hits == metrics["head"]["val"]["metrics"]["true_positives"]
    for row in rows:
        assert (float(row["probability"]) >= head.info.threshold.threshold) == (row["decision"] == "Fight")
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


@pytest.mark.usefixtures("without_figures")
def test_a_head_never_stands_beside_the_numbers_of_another(
    toy_cache: Cache, quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while figures are drawn, which takes longer than all else here: the new head has no metrics then."""
    folder = tmp_path / "h"
    first = train_head(toy_cache, quick, cv=2)
    write_training(first, folder)
    (folder / "notes.txt").write_text("mine")
    second = train_head(toy_cache, quick.updated({"seed": 5}))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("heads.report.outputs.training_figures", killed)
    with pytest.raises(KeyboardInterrupt):
        write_training(second, folder)
    monkeypatch.undo()
    assert TrainedHead.load(folder).info.config.seed == 5
    assert sorted(p.name for p in folder.iterdir()) == ["head.json", "head.safetensors", "notes.txt"]


def test_what_may_be_stale_is_all_that_is_written(
    toy_cache: Cache, quick: TrainConfig, tmp_path: Path
) -> None:
    written = write_training(train_head(toy_cache, quick, cv=2), tmp_path / "h")
    assert {path.name for path in written.values()} - {"h"} == set(WRITTEN)


def test_a_disk_that_fills_up_after_the_head_is_told_as_that(
    toy_cache: Cache, quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is not lost."""
    head = train_head(toy_cache, quick.updated({"epochs": 1, "n_resamples": 0}))
    real = files.replace

    def replace(path: Path, data: bytes, **options: bool) -> None:
        if path.name == "roc_curve.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data, **options)

    monkeypatch.setattr(files, "replace", replace)
    with pytest.raises(StorageFull, match=r"The head itself is written whole; roc_curve.png and what comes"):
        write_training(head, tmp_path / "h")
    assert len(TrainedHead.load(tmp_path / "h").predict(toy_cache)) == 60
    assert not (tmp_path / "h" / "report.html").exists()
