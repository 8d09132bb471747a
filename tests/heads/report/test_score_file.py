from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from cache.reader import open_cache
from heads.report.score_file import score_rows, write_scores
from heads.train import train_head
from heads.training.config import TrainConfig
from tests.heads.synthetic import features, toy_videos, write_cache


def test_scores_have_the_label_where_it_is_known(quick: TrainConfig, tmp_path: Path) -> None:
    unknown = features(900, label=-1, rng=np.random.default_rng(0), source="new")
    with open_cache(write_cache(tmp_path / "c.zarr", [*toy_videos(), unknown])) as cache:
        head = train_head(cache, quick.updated({"epochs": 1, "model": "linear"}))
        write_scores(tmp_path / "s.csv", score_rows(head.predict(cache), cache, path="c"))
        labels = dict(zip(cache.videos.id, cache.videos.label_name, strict=True))
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"Fight", "NonFight", ""}
    assert all(row["label"] == labels[row["id"]] for row in rows)
