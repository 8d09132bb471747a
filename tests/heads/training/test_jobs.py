from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.reader import Cache
from heads.data.dataset import HeadDataset, load_dataset
from heads.data.splits import Split, choose_split
from heads.data.tokens import TokenSource
from heads.models.ensemble import HeadEnsemble
from heads.scoring.metrics import auroc
from heads.train import train_on
from heads.trained.export import compare_with_torch, export_onnx
from heads.trained.head import TrainedHead
from heads.trained.timeline import own_window_seconds, score_over_time
from heads.training.batched import FitJob
from heads.training.config import TrainConfig
from heads.training.epochs import FitResult
from heads.training.fit import predict_logits
from heads.training.jobs import fit_jobs, one_channel

NEW: list[dict[str, object]] = [
    {"model": "logistic"},
    {"model": "logistic", "pool": "range", "delta": "beside"},
    {"model": "logistic", "pool": "mean", "join": "grid"},
    {"model": "mlp", "pool": "mean-std", "depth": 0, "join": "late"},
    {"model": "mlp", "pool": "std", "width": 16},
    {"model": "linear", "pool": "range"},
    {"delta": "beside", "join": "late"},
    {"delta": "instead"},
    {"model": "transformer", "width": 16, "n_heads": 2, "feedforward": 32, "delta": "beside"},
    {"model": "fusion", "width": 16, "depth": 1, "delta": "instead"},
]
SOME = [
    one if number % 3 == 0 else pytest.param(one, marks=pytest.mark.slow) for number, one in enumerate(NEW)
]
"""A logistic one, one by stream, one over time and one that attends; the others are slow tests."""


def recipe(settings: dict[str, object]) -> TrainConfig:
    config = TrainConfig(n_resamples=0)
    if settings.get("model") != "logistic":
        config = config.updated({"epochs": 3, "batch_size": 8})
    return config.updated(settings)


def loaded(cache: Cache, config: TrainConfig) -> tuple[HeadDataset, Split]:
    data = load_dataset(cache, separate_streams=config.model.separate_streams)
    return data, choose_split(data.labels, data.splits, data.groups)


def train(data: HeadDataset, jobs: list[FitJob]) -> list[FitResult]:
    found = fit_jobs(data.tokens, data.labels, jobs, stream_dims=data.stream_dims, groups=data.groups)
    assert all(isinstance(one, FitResult) for one in found)
    return [one for one in found if isinstance(one, FitResult)]


def state(result: FitResult) -> dict[str, torch.Tensor]:
    return dict(result.model.state_dict())


@pytest.mark.parametrize("settings", SOME)
def test_a_head_is_the_same_whoever_it_trains_with(toy_cache: Cache, settings: dict[str, object]) -> None:
    config = recipe(settings)
    data, split = loaded(toy_cache, config)
    half = split.train[::2]
    jobs = [FitJob(config, split.train, split.val), FitJob(replace(config, seed=1), half, split.val)]
    together = train(data, jobs)
    for job, found in zip(jobs, together, strict=True):
        (alone,) = train(data, [job])
        assert all(
            torch.equal(a, b) for a, b in zip(state(alone).values(), state(found).values(), strict=True)
        )
        assert [replace(row, seconds=0) for row in alone.history] == [
            replace(row, seconds=0) for row in found.history
        ]


@pytest.mark.parametrize("settings", SOME)
def test_one_file_one_timeline(toy_cache: Cache, settings: dict[str, object], tmp_path: Path) -> None:
    config = recipe(settings)
    data, split = loaded(toy_cache, config)
    head = train_on(data, split, config)
    head.save(tmp_path)
    again = TrainedHead.load(tmp_path)
    expected = head.predict(toy_cache).probabilities
    np.testing.assert_array_equal(again.predict(toy_cache).probabilities, expected)
    by_id = dict(
        zip(data.ids, head.probabilities(head.logits(data.tokens, np.arange(len(data)))), strict=True)
    )
    np.testing.assert_allclose([by_id[str(i)] for i in toy_cache.videos.id], expected, atol=1e-5)

    reads_change = config.model.reads_change
    assert own_window_seconds(head) == (np.median(data.durations[split.train]) if reads_change else None)
    for timeline, probability in zip(score_over_time(again, toy_cache), expected, strict=True):
        assert timeline.probability == pytest.approx(probability, abs=1e-5)
        assert np.isfinite(timeline.scores).all()


@pytest.mark.slow
@pytest.mark.parametrize("settings", NEW[0:1] + NEW[2:4] + NEW[6:7] + NEW[8:9])
def test_one_onnx_graph(toy_cache: Cache, settings: dict[str, object], tmp_path: Path) -> None:
    config = recipe(settings)
    head = TrainedHead.load(train_on(*loaded(toy_cache, config), config).save(tmp_path))
    assert compare_with_torch(head, export_onnx(head, tmp_path / "head.onnx")).n_shapes == 5


def test_a_late_head_is_a_head_a_stream(toy_cache: Cache) -> None:
    config = recipe({"delta": "beside", "join": "late"})
    data, split = loaded(toy_cache, config)
    (found,) = train(data, [FitJob(config, split.train, split.val)])
    assert isinstance(found.model, HeadEnsemble)
    rows = np.arange(len(data))
    each = []
    for channel, dim in enumerate(data.stream_dims):
        own = replace(config, model=replace(config.model, join=None))
        source: TokenSource = one_channel(data.tokens, channel)
        (alone,) = fit_jobs(source, data.labels, [FitJob(own, split.train, split.val)], stream_dims=(dim,))
        assert isinstance(alone, FitResult)
        each.append(predict_logits(alone.model, source, rows))
    weights = found.model.weights.numpy()
    np.testing.assert_allclose(predict_logits(found.model, data.tokens, rows), weights @ each, atol=1e-4)
    assert weights.tolist() != [0.5, 0.5]  # val gave each stream a temperature


def test_pooled_inputs_are_those_of_the_head(toy_cache: Cache) -> None:
    """Trained on pooled tables, the head scores tokens alike: its history's last AUROC is that of its own logits."""
    config = recipe({"model": "mlp", "pool": "mean-std", "width": 16, "selection": "last"})
    data, split = loaded(toy_cache, config)
    (found,) = train(data, [FitJob(config, split.train, np.sort(split.val))])
    val = np.sort(split.val)
    logits = predict_logits(found.model, data.tokens, val)
    assert found.best_epoch == len(found.history) == 3
    assert auroc(data.labels[val], logits) == pytest.approx(found.history[-1].auroc)
