from __future__ import annotations

import torch

from heads.data.tokens import Channel, MemoryTokens
from heads.models.scaling import InputScaling, fit_scaling


def tokens(values: torch.Tensor, lengths: list[int]) -> MemoryTokens:
    ends = torch.tensor(lengths).cumsum(0)
    return MemoryTokens(
        (
            Channel(
                values, torch.arange(len(values)).float(), ends - torch.tensor(lengths), torch.tensor(lengths)
            ),
        )
    )


def test_standard_is_fitted_on_real_tokens_of_the_given_videos_only() -> None:
    torch.manual_seed(0)
    values = torch.randn(30, 4) * torch.tensor([1.0, 5.0, 0.1, 0.0]) + torch.tensor([0.0, 300.0, -2.0, 7.0])
    values[20:] = 1e4  # videos that must not be looked at
    source = tokens(values, [3, 9, 8, 10])
    scaling = InputScaling("standard", (4,))
    fit_scaling([scaling], source, torch.tensor([0, 1, 2]))
    train = values[:20].double()
    torch.testing.assert_close(scaling.mean, train.mean(0).float())
    torch.testing.assert_close(scaling.std[:3], train.std(0, correction=0).float()[:3], rtol=1e-4, atol=0)
    assert scaling.std[3] == 1, "a constant column is left alone"


def test_l2_scales_each_stream_on_its_own() -> None:
    x = torch.tensor([[[3.0, 4.0, 0.0, 5.0]]])
    out = InputScaling("l2", (2, 2))(x, torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(out, torch.tensor([[[0.6, 0.8, 0.0, 1.0]]]))


def test_padding_is_zeroed_whatever_stands_there() -> None:
    x = torch.tensor([[[1.0], [float("nan")]]])
    mask = torch.tensor([[True, False]])
    for kind in ("none", "l2", "standard"):
        assert InputScaling(kind, (1,))(x, mask)[0, 1] == 0
