from __future__ import annotations

import numpy as np
import pytest
import torch

from cache.errors import HeadError
from cache.reader import Cache
from heads.data.dataset import HeadDataset, load_dataset
from heads.data.splits import FoldConfig, choose_split, fold_splits
from heads.training.batched import MOST_HEADS, FitJob, fit_together, heads_together
from heads.training.config import TrainConfig
from heads.training.epochs import EpochRow, FitResult
from heads.training.fit import fit
from heads.training.losses import HeadLoss

VARIANTS: list[dict[str, object]] = [
    {},
    {"lr": 1e-2},
    {"loss": "focal", "label_smoothing": 0.1},
    {"dropout": 0.4},
    {"pos_weight": 3.0, "clip_norm": "off"},
    {"ema_decay": "off", "weight_decay": 0.3},
    {"seed": 7},
    {"sampler": "balanced"},
    {"batch_size": 5},
    {"epochs": 2},
    {"patience": 1},
    {"model": "mlp", "depth": 2},
    {"model": "linear", "pool": "max"},
    {"model": "transformer", "scaling": "l2"},
]


def load(cache: Cache) -> HeadDataset:
    return load_dataset(cache, separate_streams=False)


def alone(data: HeadDataset, job: FitJob) -> FitResult:
    return fit(
        data.tokens,
        data.labels,
        train=job.train,
        val=job.val,
        stream_dims=data.stream_dims,
        config=job.config,
    )


def same(one: FitResult | HeadError, other: FitResult | HeadError) -> None:
    """Bit for bit the same weights, running statistics and history."""
    assert isinstance(one, FitResult)
    assert isinstance(other, FitResult)
    a, b = one.model.state_dict(), other.model.state_dict()
    assert list(a) == list(b)
    assert [name for name in a if not a[name].equal(b[name])] == []
    assert one.best_epoch == other.best_epoch
    timeless = [[{**row.as_dict(), "seconds": 0} for row in result.history] for result in (one, other)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_heads_trained_together_equal_heads_trained_alone(
    toy_cache: Cache, quick: TrainConfig, precision: str
) -> None:
    data = load(toy_cache)
    split = choose_split(data.labels, data.splits, data.groups)
    jobs = [
        FitJob(quick.updated({"precision": precision, **variant}), split.train, split.val)
        for variant in VARIANTS
    ]
    together = fit_together(data.tokens, data.labels, jobs, stream_dims=data.stream_dims)
    for job, result in zip(jobs, together, strict=True):
        same(result, alone(data, job))


def test_folds_and_seeds_train_together(toy_cache: Cache, quick: TrainConfig) -> None:
    data = load(toy_cache)
    jobs = [
        FitJob(quick.updated({"seed": seed}), split.train, split.val)
        for split in fold_splits(data.labels, data.groups, config=FoldConfig(k=3))
        for seed in (0, 1)
    ]
    together = fit_together(data.tokens, data.labels, jobs, stream_dims=data.stream_dims)
    for job, result in zip(jobs, together, strict=True):
        same(result, alone(data, job))


def test_fusion_heads_train_together(toy_cache: Cache, quick: TrainConfig) -> None:
    data = load_dataset(toy_cache, separate_streams=True)
    split = choose_split(data.labels, data.splits, data.groups)
    base = quick.updated({"model": "fusion", "width": 8, "epochs": 2})
    jobs = [FitJob(base.updated({"lr": lr}), split.train, split.val) for lr in (1e-3, 1e-2)]
    for job, result in zip(
        jobs, fit_together(data.tokens, data.labels, jobs, stream_dims=data.stream_dims), strict=True
    ):
        same(result, alone(data, job))


def test_a_head_that_explodes_harms_no_other(
    toy_cache: Cache, quick: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exploding(HeadLoss):
        def forward(self, logits_B: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
            loss = super().forward(logits_B, labels_B)
            return loss * float("inf") if self.config.label_smoothing == 0.25 else loss

    data = load(toy_cache)
    split = choose_split(data.labels, data.splits, data.groups)
    jobs = [
        FitJob(quick.updated({"label_smoothing": smoothing}), split.train, split.val)
        for smoothing in (0.0, 0.25, 0.1)
    ]
    monkeypatch.setattr("heads.training.batched.HeadLoss", Exploding)
    together = fit_together(data.tokens, data.labels, jobs, stream_dims=data.stream_dims)
    assert isinstance(together[1], HeadError)
    assert "lower --lr" in str(together[1])
    monkeypatch.undo()
    same(together[0], alone(data, jobs[0]))
    same(together[2], alone(data, jobs[2]))


def test_epochs_are_reported_by_job_and_the_seed_is_left_alone(
    toy_cache: Cache, quick: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("a GPU's generator was seeded"))
    data = load(toy_cache)
    split = choose_split(data.labels, data.splits, data.groups)
    jobs = [FitJob(quick.updated({"epochs": n}), split.train, split.val) for n in (1, 3)]
    seen: list[tuple[int, EpochRow]] = []
    before = torch.random.get_rng_state()
    fit_together(
        data.tokens,
        data.labels,
        jobs,
        stream_dims=data.stream_dims,
        on_epoch=lambda number, row: seen.append((number, row)),
    )
    assert before.equal(torch.random.get_rng_state())
    assert [(number, row.epoch) for number, row in seen] == [(0, 1), (1, 1), (1, 2), (1, 3)]
    assert np.isfinite([row.seconds for _, row in seen]).all()


def test_how_many_fit_together() -> None:
    assert heads_together(batch_size=8, longest=5, n_parameters=1000) == MOST_HEADS
    assert heads_together(batch_size=8, longest=2000, n_parameters=1000) == 4
    assert heads_together(batch_size=8, longest=100_000, n_parameters=1000) == 1
    assert heads_together(batch_size=8, longest=5, n_parameters=10_000_000) == 4
    assert heads_together(batch_size=8, longest=5, n_parameters=10**9) == 1
