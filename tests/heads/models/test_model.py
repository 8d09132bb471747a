from __future__ import annotations

import itertools

import pytest
import torch

from cache.errors import InputError
from heads.data.tokens import TokenBatch
from heads.models.encoders import AttentionLayer
from heads.models.ensemble import count_parameters
from heads.models.model import (
    ARCHITECTURES,
    ATTENDING,
    Architecture,
    Classifier,
    HeadModel,
    ModelConfig,
)
from heads.models.pooling import POOLS, Pool
from heads.models.statistics import STATISTICS

DIMS = (6, 5)
COMBINATIONS = [
    (architecture, pool)
    for architecture, pool in itertools.product(ARCHITECTURES, POOLS)
    if (pool != "cls" or architecture in ATTENDING)
    and (architecture != "attention-pool" or pool == "attention")
    and (architecture != "logistic" or pool != "attention")
    and (architecture in ("mlp", "linear", "logistic") or pool not in STATISTICS)
]


def make(architecture: Architecture, pool: Pool | None = None, **options: object) -> HeadModel:
    torch.manual_seed(0)
    config = ModelConfig(architecture=architecture, pool=pool, **options)  # type: ignore[arg-type]
    return HeadModel(config, DIMS).eval()


def batches(model: HeadModel, lengths: list[int], *, pad: int = 0, fill: float = 0.0) -> list[TokenBatch]:
    """Random tokens, with `pad` further columns of padding that hold `fill`."""
    generator = torch.Generator().manual_seed(1)
    widths = DIMS if model.config.separate_streams else (sum(DIMS),)
    made = []
    for width in widths:
        longest = max(lengths)
        values = torch.randn(len(lengths), longest, width, generator=generator)
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        times = torch.arange(longest).float().expand(len(lengths), -1) + 0.5
        values = torch.cat([values, torch.zeros(len(lengths), pad, width)], dim=1)
        mask = torch.cat([mask, torch.zeros(len(lengths), pad, dtype=torch.bool)], dim=1)
        times = torch.cat([times, torch.zeros(len(lengths), pad)], dim=1)
        values = values.masked_fill(~mask[:, :, None], fill)
        made.append(TokenBatch(values, mask, times.masked_fill(~mask, fill)))
    return made


@pytest.mark.parametrize(("architecture", "pool"), COMBINATIONS)
@torch.no_grad()
def test_padding_never_changes_a_logit(architecture: Architecture, pool: Pool) -> None:
    model = make(architecture, pool, scaling="standard" if architecture == "logistic" else "l2")
    lengths = [4, 1, 2]
    together = model.logits(batches(model, lengths))
    torch.testing.assert_close(model.logits(batches(model, lengths, pad=7, fill=1e4)), together)
    torch.testing.assert_close(model.logits(batches(model, lengths, pad=1, fill=float("nan"))), together)
    for i, length in enumerate(lengths):
        alone = [
            TokenBatch(b.values[i : i + 1, :length], b.mask[i : i + 1, :length], b.times[i : i + 1, :length])
            for b in batches(model, lengths)
        ]
        torch.testing.assert_close(model.logits(alone), together[i : i + 1])


@pytest.mark.parametrize(("architecture", "pool"), COMBINATIONS)
def test_every_parameter_gets_a_gradient(architecture: Architecture, pool: Pool) -> None:
    model = make(architecture, pool).train()
    model.logits(batches(model, [4, 2, 3])).sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert missing == []


def test_classifier_is_the_one_agreed_on() -> None:
    layers = [
        (type(layer).__name__, getattr(layer, "out_features", None), getattr(layer, "p", None))
        for layer in Classifier(7)
    ]
    assert layers == [
        ("Linear", 256, None),
        ("ReLU", None, None),
        ("BatchNorm1d", None, None),
        ("Dropout", None, 0.5),
        ("Linear", 128, None),
        ("ReLU", None, None),
        ("BatchNorm1d", None, None),
        ("Dropout", None, 0.4),
        ("Linear", 1, None),
    ]


def test_transformer_is_as_wide_as_its_input() -> None:
    model = make("transformer")
    assert model.attention is not None
    layer = model.attention.layers[0]
    assert isinstance(layer, AttentionLayer)
    assert layer.out.out_features == 11
    assert layer.n_heads == 11
    assert layer.grow.out_features == 2048
    assert make("transformer", width=8).project is not None


@pytest.mark.slow
def test_lengths_1_and_5000_score() -> None:
    for architecture in ARCHITECTURES:
        model = make(architecture, **({"width": 16, "feedforward": 16} if architecture in ATTENDING else {}))
        for length in (1, 5000):
            with torch.no_grad():
                logits = model.logits(batches(model, [length]))
            assert logits.shape == (1,)
            assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "lstm"},
        {"pool": "sum"},
        {"scaling": "log"},
        {"architecture": "mlp", "pool": "cls"},
        {"architecture": "attention-pool", "pool": "mean"},
        {"architecture": "linear", "depth": 2},
        {"architecture": "linear", "width": 8},
        {"architecture": "mlp", "n_heads": 2},
        {"architecture": "mlp", "feedforward": 64},
        {"architecture": "transformer", "depth": 0},
        {"architecture": "transformer", "width": 0},
        {"dropout": 1.0},
        {"dropout": -0.1},
    ],
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(InputError):
        ModelConfig(**options)  # type: ignore[arg-type]


def test_head_count_must_divide_the_width() -> None:
    with pytest.raises(InputError, match="do not divide"):
        make("transformer", n_heads=4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_are_counted_without_a_model(architecture: Architecture) -> None:
    config = ModelConfig(architecture)
    assert count_parameters(config, (12, 8)) == HeadModel(config, (12, 8)).n_parameters
