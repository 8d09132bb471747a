"""Copies of one file under other names: no fold, holdout or bootstrap takes them for two recordings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.errors import InputError
from cache.reader import Cache, open_cache
from cache.schema import VideoFeatures
from heads.ablation.grid import make_cells
from heads.ablation.sweep import Sweep
from heads.audit.audit import audit_cache
from heads.audit.probe import probe_cache
from heads.data.dataset import load_dataset
from heads.data.rows import copy_notes, read_rows
from heads.data.splits import FoldConfig, fold_rows
from heads.data.videos import cached_videos
from heads.train import train_head
from heads.trained.evaluation import evaluate_head
from heads.trained.rethreshold import selection_scores
from heads.training.config import TrainConfig
from tests.heads.synthetic import toy_videos, write_cache

NOTE = "40 files are there more than once, in several source groups"


def copies(videos: list[VideoFeatures], *, name: str = "copy") -> list[VideoFeatures]:
    """The same files under other names, each of a source of its own."""
    return [
        replace(
            v,
            row=replace(
                v.row, id=f"{v.row.split}/{name}{n}.mp4", source=f"{name}{n}", split="", label=v.row.label
            ),
        )
        for n, v in enumerate(videos)
    ]


@pytest.fixture(scope="module")
def twice_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 videos that say nothing of their label, each there twice."""
    videos = [replace(v, row=replace(v.row, split="")) for v in toy_videos(40, signal=0.0, seed=2)]
    return write_cache(tmp_path_factory.mktemp("copies") / "c.zarr", [*videos, *copies(videos)])


@pytest.fixture
def twice(twice_path: Path) -> Iterator[Cache]:
    with open_cache(twice_path) as cache:
        yield cache


def test_copies_are_of_one_group_and_keep_their_sources(twice: Cache) -> None:
    rows = read_rows(twice)
    assert len(set(rows.sources)) == 60
    assert len(set(rows.groups)) == 20
    data = load_dataset(twice, separate_streams=True)
    folds = fold_rows(data.labels, data.groups, np.arange(80), config=FoldConfig(k=5), seed=0)
    assert all(len({rows.digests[row] for row in fold}) * 2 == len(fold) for _, fold in folds)
    assert len(set(cached_videos(twice).groups)) == 20
    assert audit_cache(twice, n_resamples=0).n_groups == 20


@pytest.mark.slow
def test_what_copies_would_tell_is_not_told(twice: Cache, tmp_path: Path) -> None:
    config = TrainConfig().updated({"model": "mlp", "pool": "mean-std", "epochs": 15, "batch_size": 8})
    config = config.updated({"lr": 6e-3, "n_resamples": 0})
    head = train_head(twice, config, cv=5)
    assert head.training is not None
    assert head.training.cross_validation is not None
    auroc = head.training.cross_validation.head.metrics.auroc
    assert auroc is not None
    assert auroc < 0.7  # 0.92 where folds part copies
    assert any(note.startswith(NOTE) for note in head.info.notes)
    assert any(note.startswith(NOTE) for note in probe_cache(twice, n_resamples=0).notes)
    cells, _ = make_cells(config, [])
    with Sweep(twice, config, out=tmp_path / "s", n_seeds=1, cv=3) as sweep:
        board = sweep.leaderboard(cells, sweep.train(cells), n_resamples=0)
    assert any(note.startswith(NOTE) for note in board.notes)


def test_a_clip_beside_a_copy_is_seen(tmp_path: Path) -> None:
    """Of a cache in which each own video lies under another name beside a clip of the same recording, nothing is unseen."""
    videos = toy_videos(40)
    config = TrainConfig().updated({"model": "logistic", "n_resamples": 0})
    with open_cache(write_cache(tmp_path / "own.zarr", videos)) as cache:
        head = train_head(cache, config, cv=4)
    others = [
        replace(v, row=replace(v.row, id=f"x{n}.mp4", digest=f"blake2b:x{n}", source=f"copy{n}", split=""))
        for n, v in enumerate(videos)
    ]
    unlabelled = [replace(v, row=replace(v.row, label=-1, label_name="")) for v in copies(videos)]
    with open_cache(write_cache(tmp_path / "other.zarr", [*others, *unlabelled])) as cache:
        with pytest.raises(
            InputError, match="the head has seen these videos: 0 of 40 videos are its own, 40 more"
        ):
            evaluate_head(head, cache, n_resamples=0)
        with pytest.raises(InputError, match="the head has seen"):
            selection_scores(head, cache, part="all")
    with open_cache(write_cache(tmp_path / "alone.zarr", others)) as cache:
        assert evaluate_head(head, cache, n_resamples=0).part == "unseen"


def test_notes_name_copies_apart_and_copies_of_both_labels() -> None:
    ids, digests = ("a", "b", "c", "d"), ("1", "1", "", "")
    labels = np.array([0, 1, 1, 0], dtype=np.int8)
    assert copy_notes(ids, digests, labels, ("s", "s", "t", "u")) == (
        "1 file is there more than once, with both labels (such as a = b); one of them is wrong, see onepass audit",
    )
    (note,) = copy_notes(ids, digests, np.zeros(4, np.int8), ("r", "s", "t", "u"))
    assert note == (
        "1 file is there more than once, in several source groups (such as a = b); these groups count as one, so that no "
        "fold or holdout drawn here parts copies"
    )
    assert copy_notes(ids, ("",) * 4, labels, ("r", "s", "t", "u")) == ()
