"""Scores against words: a row a video, and what labels say of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cache.reader import Cache, open_cache
from heads.report.zero_shot import COLUMNS, score_table, summary_lines
from tests.heads.synthetic import toy_videos, write_cache


def test_a_row_a_video_and_measures_of_both_scores(toy_cache: Cache) -> None:
    labels = toy_cache.videos.label.astype(np.float64)
    right, wrong = 4 * labels - 2, 2 - 4 * labels
    rows = score_table(toy_cache, "clip", right, wrong).decode().splitlines()
    assert rows[0] == ",".join(COLUMNS) and len(rows) == 1 + len(toy_cache)
    first = rows[1].split(",")
    assert first[0] == toy_cache.videos.id[0] and float(first[2]) == right[0]
    assert first[-1] == "clip: random (seed 0)"
    assert float(first[4]) == 1 / (1 + np.exp(-right[0]))
    said = summary_lines(toy_cache, "clip", right, wrong)
    assert "RANDOM weights" in said[0]
    assert said[-2].startswith("mean over tokens: AUROC 1.000") and "F1 1.000" in said[-2]
    assert said[-1].startswith("highest token: AUROC 0.000") and "F1 0.000" in said[-1]


def test_without_labels_nothing_is_measured(tmp_path: Path) -> None:
    videos = [video for video in toy_videos(8) if video.row.label == 1]
    with open_cache(write_cache(tmp_path / "a.zarr", videos)) as cache:
        said = summary_lines(cache, "clip", np.zeros(len(cache)), np.zeros(len(cache)))
    assert "not known" in said[-1] and not any("AUROC" in line for line in said)
