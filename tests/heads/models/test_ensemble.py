from __future__ import annotations

import pytest
import torch

from heads.models.ensemble import HeadEnsemble, build_model, count_parameters, is_late
from heads.models.model import HeadModel, ModelConfig

LATE = ModelConfig(delta="beside", join="late")
POOLED_FIRST = ModelConfig("mlp", pool="mean-std", join="late", scaling="l2")
DIMS = (6, 4)


def tokens(dims: tuple[int, ...]) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Two videos of three tokens a channel, the last of the second one padding."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(2, 3, dim, generator=generator) for dim in dims]
    mask = torch.tensor([[True, True, True], [True, True, False]])
    return values, [mask] * len(dims), [torch.zeros(2, 3)] * len(dims)


@pytest.mark.parametrize(
    ("config", "dims"),
    [(LATE, DIMS), (ModelConfig(), (10,)), (POOLED_FIRST, DIMS), (ModelConfig("mlp", pool="std"), (10,))],
)
@torch.no_grad()
def test_an_ensemble_is_the_weighted_sum_of_its_members(config: ModelConfig, dims: tuple[int, ...]) -> None:
    streams = DIMS if config.join == "late" else (4, 6)
    model = HeadEnsemble(config, streams, n_folds=3).eval()
    for head in model.heads():
        if head.standardise is not None:
            head.standardise.mean.normal_()
    values, masks, times = tokens(dims)
    each = model.member_logits(values, masks, times)
    assert len(each) == 3 * len(dims)
    torch.testing.assert_close(model(values, masks, times), each.mean(dim=0))
    weights = [float(i) for i in range(len(each))]
    model.set_weights(weights)
    torch.testing.assert_close(model(values, masks, times), torch.tensor(weights) @ each)
    for i, head in enumerate(model.heads()):
        own = i % len(dims)
        expected = head([values[own]], [masks[own]], [times[own]])
        torch.testing.assert_close(each[i], expected)


def test_late_is_one_head_a_stream_where_there_are_several() -> None:
    assert is_late(LATE, DIMS)
    assert not is_late(LATE, (6,))
    assert not is_late(ModelConfig(architecture="logistic"), DIMS)
    assert isinstance(build_model(LATE, (6,)), HeadModel)
    assert isinstance(build_model(LATE, (6,), n_folds=2), HeadEnsemble)
    model = build_model(LATE, DIMS, n_folds=2)
    assert isinstance(model, HeadEnsemble)
    assert [head.stream_dims for head in model.heads()] == [(6,), (4,), (6,), (4,)]
    assert [scaling.stream_dims for scaling in model.input_scalings()] == [(6,), (4,)]


def test_parameters_are_counted_without_making_a_head() -> None:
    assert count_parameters(LATE, DIMS) == HeadEnsemble(LATE, DIMS).n_parameters
    logistic = ModelConfig(architecture="logistic")
    assert count_parameters(logistic, DIMS) == 2 * sum(DIMS) + 1
