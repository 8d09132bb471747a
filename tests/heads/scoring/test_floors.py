from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.reader import Cache, open_cache
from heads.data.dataset import HeadDataset, load_dataset
from heads.data.splits import choose_split
from heads.scoring.evaluate import evaluate
from heads.scoring.floors import (
    NO_METADATA,
    beaten_notes,
    evaluate_floors,
    floor_probabilities,
    missing_floor_notes,
    token_statistics,
)
from heads.scoring.thresholds import ThresholdConfig
from heads.train import train_on
from heads.training.config import TrainConfig
from tests.heads.synthetic import DIMS, features, toy_videos, write_cache


def test_all_positive_f1_is_known_in_closed_form(toy_cache: Cache) -> None:
    data = load_dataset(toy_cache, separate_streams=False)
    split = choose_split(data.labels, data.splits, data.groups)
    floors = {f.name: f for f in evaluate_floors(data, split, config=ThresholdConfig())}
    share = float(data.labels[split.val].mean())
    assert floors["all-positive"].metrics.f1 == pytest.approx(2 * share / (1 + share))
    assert floors["all-positive"].metrics.auroc == 0.5
    mean_pooled = floors["mean-pooled"].metrics.auroc
    assert mean_pooled is not None
    assert mean_pooled > 0.95


def test_a_metadata_shortcut_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    videos = [
        features(
            i,
            label=(i // 2) % 2,
            rng=rng,
            split="train" if i < 40 else "val",
            signal=0.0,
            width=640 if (i // 2) % 2 else 320,
        )
        for i in range(60)
    ]
    with open_cache(write_cache(tmp_path / "c.zarr", videos)) as cache:
        data = load_dataset(cache, separate_streams=True)
    split = choose_split(data.labels, data.splits, data.groups)
    scores = floor_probabilities(data, split.train)["metadata-only"]
    assert ((scores > 0.5) == (data.labels == 1)).all()


@pytest.mark.parametrize("separate", [True, False])
def test_mean_tokens_are_plain_means(toy_cache: Cache, separate: bool) -> None:
    data = load_dataset(toy_cache, separate_streams=separate)
    means = np.split(token_statistics(data.tokens), 2, axis=1)[0]
    assert means.shape == (60, sum(DIMS.values()))
    stored = [str(i) for i in toy_cache.videos.id].index(data.ids[4])
    plain = [toy_cache.tokens(name, stored).values.astype(np.float32).mean(axis=0) for name in DIMS]
    np.testing.assert_allclose(means[4], np.concatenate(plain), atol=1e-3 if not separate else 1e-6)


def test_floors_that_are_not_beaten_are_named() -> None:
    labels = np.array([0, 1, 0, 1], np.int8)
    groups = list("abcd")
    good = evaluate(
        "mean-pooled", "val", labels, np.array([0.1, 0.9, 0.2, 0.8]), threshold=0.5, groups=groups
    )
    bad = evaluate("head", "val", labels, np.array([0.9, 0.1, 0.2, 0.8]), threshold=0.5, groups=groups)
    assert (
        "is no better than the mean-pooled floor on val videos: AUROC 0.250 against 1.000"
        in beaten_notes(bad, (good,))[0]
    )
    elsewhere = evaluate(
        "mean-pooled", "test", labels, np.array([0.1, 0.9, 0.2, 0.8]), threshold=0.5, groups=groups
    )
    assert beaten_notes(bad, (elsewhere,)) == ()


def without_metadata(tmp_path: Path) -> HeadDataset:
    blank = {"width": 0, "height": 0, "fps": 0.0, "duration_seconds": 0.0}
    videos = [replace(video, row=replace(video.row, **blank)) for video in toy_videos(60, signal=0.0)]
    with open_cache(write_cache(tmp_path / "c.zarr", videos)) as cache:
        return load_dataset(cache, separate_streams=False)


def test_without_metadata_there_is_no_floor_of_it_and_a_note(tmp_path: Path, quick: TrainConfig) -> None:
    data = without_metadata(tmp_path)
    split = choose_split(data.labels, data.splits, data.groups)
    config = quick.updated({"model": "linear", "epochs": 1})
    head = train_on(data, split, config, cv=3)
    assert head.info.notes.count(NO_METADATA) == 1
    record = head.training
    assert record is not None and record.cross_validation is not None
    for floors in (record.floors, record.cross_validation.floors):
        assert {floor.name for floor in floors} == {"all-positive", "mean-pooled", "statistics"}
    assert missing_floor_notes(data) == (NO_METADATA,)


def test_columns_that_do_not_vary_in_train_decide_nothing(toy_cache: Cache) -> None:
    data = load_dataset(toy_cache, separate_streams=False)
    split = choose_split(data.labels, data.splits, data.groups)
    metadata = np.zeros_like(data.metadata)
    metadata[split.val, 0] = np.arange(len(split.val))
    found = floor_probabilities(replace(data, metadata=metadata), split.train)["metadata-only"]
    assert (found == 0.5).all()
