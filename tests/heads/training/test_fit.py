from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import HeadError
from cache.reader import Cache
from heads.data.dataset import HeadDataset, load_dataset
from heads.data.splits import choose_split
from heads.models.model import ARCHITECTURES, HeadModel
from heads.training.config import FINAL_MODEL_4, TrainConfig
from heads.training.fit import EpochRow, FitResult, fit, predict_logits, selection_score


def run(cache: Cache, config: TrainConfig, **options: object) -> tuple[HeadDataset, FitResult]:
    data = load_dataset(cache, separate_streams=config.model.separate_streams, config=config.data)
    split = choose_split(data.labels, data.splits, data.groups)
    result = fit(
        data.tokens,
        data.labels,
        train=split.train,
        val=split.val,
        stream_dims=data.stream_dims,
        config=config,
        **options,  # type: ignore[arg-type]
    )
    return data, result


def weights(result: FitResult) -> dict[str, torch.Tensor]:
    return result.model.state_dict()


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "logistic"])
def test_every_model_learns_a_planted_signal(toy_cache: Cache, quick: TrainConfig, architecture: str) -> None:
    config = quick.updated(
        {"model": architecture, "epochs": 8, "lr": 3e-2 if architecture == "linear" else 1e-3}
    )
    _, result = run(toy_cache, config)
    best = result.history[result.best_epoch - 1]
    assert best.best
    assert best.auroc is not None
    assert best.auroc > 0.95
    assert not result.model.training


def test_two_runs_give_the_same_weights_and_leave_the_global_seed_alone(
    toy_cache: Cache, quick: TrainConfig
) -> None:
    before = torch.random.get_rng_state()
    _, first = run(toy_cache, quick)
    torch.manual_seed(99)
    _, second = run(toy_cache, quick)
    _, other = run(toy_cache, quick.updated({"seed": 1}))
    assert all(a.equal(b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))
    assert not all(a.equal(b) for a, b in zip(weights(first).values(), weights(other).values(), strict=True))
    torch.random.set_rng_state(before)
    run(toy_cache, quick)
    assert before.equal(torch.random.get_rng_state())


@pytest.mark.parametrize(
    "model",
    [
        {"model": "logistic"},
        {"model": "mlp", "pool": "mean-std", "depth": 0},
        {"model": "attention-pool", "join": "late"},
    ],
)
def test_whatever_is_trained_leaves_the_global_seed_alone(
    toy_cache: Cache, quick: TrainConfig, model: dict[str, object]
) -> None:
    """Regressions, pooled inputs and a head a stream draw their first weights elsewhere."""
    before = torch.random.get_rng_state()
    config = TrainConfig() if model["model"] == "logistic" else quick.updated({"epochs": 1})
    run(toy_cache, config.updated(model))
    assert before.equal(torch.random.get_rng_state())


def test_the_kept_weights_are_those_of_the_best_epoch(toy_cache: Cache, quick: TrainConfig) -> None:
    config = quick.updated({"epochs": 6, "lr": 0.05, "ema_decay": "off"})
    data, result = run(toy_cache, config)
    split = choose_split(data.labels, data.splits, data.groups)
    logits = predict_logits(result.model, data.tokens, split.val)
    from heads.scoring.metrics import auroc

    assert auroc(data.labels[split.val], logits) == pytest.approx(result.history[result.best_epoch - 1].auroc)
    scores = [selection_score(row, "auroc") for row in result.history]
    assert result.best_epoch == scores.index(max(scores)) + 1


def test_val_labels_never_reach_the_weights(toy_cache: Cache, quick: TrainConfig) -> None:
    """With one epoch nothing is selected, so other val labels must give the same weights."""
    config = quick.updated({"epochs": 1})
    data = load_dataset(toy_cache, separate_streams=False)
    split = choose_split(data.labels, data.splits, data.groups)
    flipped = data.labels.copy()
    flipped[split.val] = 1 - flipped[split.val]
    results = [
        fit(data.tokens, y, train=split.train, val=split.val, stream_dims=data.stream_dims, config=config)
        for y in (data.labels, flipped)
    ]
    states = [weights(r) for r in results]
    assert all(states[0][k].equal(states[1][k]) for k in states[0])


def test_a_last_batch_of_one_is_trained_on(toy_cache: Cache, quick: TrainConfig) -> None:
    data = load_dataset(toy_cache, separate_streams=False)
    split = choose_split(data.labels, data.splits, data.groups)
    fit(
        data.tokens,
        data.labels,
        train=split.train[:33],
        val=split.val,
        stream_dims=data.stream_dims,
        config=quick.updated({"batch_size": 4, "epochs": 1}),
    )


def test_early_stopping_and_callbacks(toy_cache: Cache, quick: TrainConfig) -> None:
    seen: list[EpochRow] = []
    config = quick.updated({"epochs": 50, "patience": 2, "selection": "auroc", "lr": 1e-5})
    _, result = run(toy_cache, config, on_epoch=seen.append)
    assert tuple(seen) == result.history
    assert len(seen) == result.best_epoch + 2 < 50


def test_preset_final_model_4_runs_its_recipe(toy_cache: Cache) -> None:
    _, result = run(toy_cache, FINAL_MODEL_4)
    assert len(result.history) == 6
    assert {row.lr for row in result.history} == {3e-4}
    assert all(row.threshold in (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7) for row in result.history)
    best = max(result.history, key=lambda row: (row.f1, -row.val_loss))
    assert result.best_epoch == best.epoch


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "focal", "label_smoothing": 0.1, "sampler": "balanced"},
        {"precision": "bf16", "model": "transformer"},
        {"clip_norm": "off", "schedule": "constant", "selection": "loss"},
    ],
)
def test_combinations_train(toy_cache: Cache, quick: TrainConfig, settings: dict[str, object]) -> None:
    _, result = run(toy_cache, quick.updated(settings))
    assert all(np.isfinite(row.train_loss) for row in result.history)


def test_a_loss_that_explodes_is_an_error(toy_cache: Cache, quick: TrainConfig) -> None:
    data = load_dataset(toy_cache, separate_streams=False)
    split = choose_split(data.labels, data.splits, data.groups)
    channel = data.tokens.channels[0]  # type: ignore[attr-defined]
    broken = replace(channel, values=torch.full_like(channel.values, float("inf")))
    with pytest.raises(HeadError, match="lower --lr or scale the inputs"):
        fit(
            replace(data.tokens, channels=(broken,)),  # type: ignore[type-var]
            data.labels,
            train=split.train,
            val=split.val,
            stream_dims=data.stream_dims,
            config=quick.updated({"scaling": "none"}),
        )


def test_predicting_keeps_order_and_mode(toy_cache: Cache) -> None:
    data = load_dataset(toy_cache, separate_streams=False)
    torch.manual_seed(0)
    model = HeadModel(TrainConfig().model, data.stream_dims).train()
    videos = np.array([9, 3, 50, 3])
    logits = predict_logits(model, data.tokens, videos)
    assert logits.dtype == np.float64
    assert logits[1] == logits[3]
    assert model.training
    np.testing.assert_allclose(
        logits[::-1], predict_logits(model, data.tokens, videos[::-1].copy()), atol=1e-6
    )
