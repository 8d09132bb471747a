from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from cache.reader import Cache
from heads.data.dataset import load_dataset
from heads.data.splits import choose_split
from heads.report.show import (
    EPOCH_HEADER,
    LOG_WIDTH,
    epoch_line,
    loss_line,
    make_console,
    show_result,
    show_start,
    show_table,
)
from heads.train import train_head, train_on
from heads.training.config import TrainConfig


def test_what_is_printed_names_split_weights_loss_and_floors(toy_cache: Cache, quick: TrainConfig) -> None:
    data = load_dataset(toy_cache, separate_streams=False)
    split = choose_split(data.labels, data.splits, data.groups)
    out = io.StringIO()
    console = Console(file=out, width=LOG_WIDTH)
    show_start(console, data, split, quick, caches=[Path("cache/v1.zarr")])
    head = train_on(data, split, quick)
    show_result(console, head, {"head": Path("heads-out/x")})
    text = out.getvalue()
    for part in (
        "cache/v1.zarr (toy, 60 videos)",
        "clip: random (seed 0), slowfast: random (seed 0)",
        "36 videos (18 Fight, 18 NonFight) from 18 source groups",
        "pos_weight 1.0000 (18 NonFight / 18 Fight in train)",
        "RANDOM backbone weights",
        "val chose epoch, temperature and threshold",
        "all-positive",
        "metadata-only",
        "mean-pooled",
        "threshold    0.",
        "decides the same",
        "heads-out/x",
    ):
        assert part in text
    assert all(len(line) <= LOG_WIDTH for line in text.splitlines() if "│" in line)


def test_epoch_lines_stand_under_their_header(toy_cache: Cache, quick: TrainConfig) -> None:
    data = load_dataset(toy_cache, separate_streams=False)
    split = choose_split(data.labels, data.splits, data.groups)
    head = train_on(data, split, quick)
    assert head.training is not None
    row = head.training.history[0]
    line = epoch_line(row)
    assert line.endswith("*") or row.degenerate
    assert line[: len(EPOCH_HEADER)].split()[0] == "1"
    assert EPOCH_HEADER.index("AUROC") + 5 == len(EPOCH_HEADER)


def test_loss_line_says_where_its_weight_comes_from(toy_cache: Cache, quick: TrainConfig) -> None:
    data = load_dataset(toy_cache, separate_streams=False)
    split = choose_split(data.labels, data.splits, data.groups)
    focal = loss_line(data, split, quick.updated({"loss": "focal", "label_smoothing": 0.1}))
    assert focal == "focal, pos_weight 1.0000 (auto), gamma 2, alpha 0.25, label smoothing 0.1"
    assert "(given)" in loss_line(data, split, quick.updated({"pos_weight": 2}))
    assert "balanced batches" in loss_line(data, split, quick.updated({"sampler": "balanced"}))


@pytest.mark.parametrize("width", [80, 100, 120, 150])
def test_tables_follow_the_width_of_the_terminal(toy_cache: Cache, quick: TrainConfig, width: int) -> None:
    record = train_head(toy_cache, quick.updated({"epochs": 1})).training
    assert record is not None
    out = io.StringIO()
    floors = [floor for floor in record.floors if floor.part == "val"]
    show_table(Console(file=out, width=width), record.evaluations[0], floors, weights="w")
    said = out.getvalue()
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= width
    assert all(word in said for word in ("AUROC", "metadata-only", "recall"))
    assert f"{record.evaluations[0].metrics.auroc:.3f}" in said


def test_a_log_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "91")
    assert make_console().width == 91
    monkeypatch.delenv("COLUMNS")
    assert make_console().width == LOG_WIDTH
