"""How the features of a video change: statistics over its tokens, and each token's change from the one before.

Statistics are taken of the inputs themselves: behind an MLP they say little. A video of one token does not change:
its standard deviation, range and changes are 0.
Shape legend: B videos, T tokens (padded), D width, V videos of a source.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Statistic = Literal["std", "range", "mean-std"]
STATISTICS: tuple[Statistic, ...] = ("std", "range", "mean-std")
Delta = Literal["off", "beside", "instead"]
DELTAS: tuple[Delta, ...] = ("off", "beside", "instead")
SMALLEST_STD = 1e-6


def statistic_width(kind: str, dim: int) -> int:
    """Numbers a video that a pool gives for tokens of width `dim`."""
    return 2 * dim if kind == "mean-std" else dim


def statistic_pool(kind: Statistic, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """float32 [B, D], or [B, 2 D] for mean-std (means first), over real tokens; std divides by their number."""
    mask_BT1 = mask_BT[:, :, None]
    x_BTD = x_BTD.float()
    if kind == "range":
        highest = x_BTD.masked_fill(~mask_BT1, float("-inf")).amax(dim=1)
        return highest - x_BTD.masked_fill(~mask_BT1, float("inf")).amin(dim=1)
    count_B1 = mask_BT1.sum(dim=1)
    mean_BD = torch.where(mask_BT1, x_BTD, 0.0).sum(dim=1) / count_B1
    centred_BTD = torch.where(mask_BT1, x_BTD - mean_BD[:, None], 0.0)
    std_BD = (centred_BTD.square().sum(dim=1) / count_B1).sqrt()
    return std_BD if kind == "std" else torch.cat([mean_BD, std_BD], dim=1)


def changes(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """|x_t - x_(t-1)| of real tokens, 0 in padding: [B, T, D].

    The first token has none before it and takes the second's, so that no video seems to begin at rest.
    """
    second_BTD = torch.cat([x_BTD, x_BTD[:, :1]], dim=1)[:, 1:2]  # the first again where T is 1
    has_second_BT = torch.cat([mask_BT, ~mask_BT[:, :1]], dim=1)[:, 1:2]
    before_first_BTD = torch.where(has_second_BT[:, :, None], second_BTD, x_BTD[:, :1])
    before_BTD = torch.cat([before_first_BTD, x_BTD[:, :-1]], dim=1)
    return torch.where(mask_BT[:, :, None], (x_BTD - before_BTD).abs(), 0.0)


def with_changes(delta: Delta, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Tokens as `delta` says: alone, with their changes beside them [B, T, 2 D], or their changes instead."""
    if delta == "off":
        return x_BTD
    changed_BTD = changes(x_BTD, mask_BT)
    return changed_BTD if delta == "instead" else torch.cat([x_BTD, changed_BTD], dim=2)


class Standardise(nn.Module):
    """Subtracts a mean and divides by a standard deviation, column by column; both are buffers, float32 [D]."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    @torch.no_grad()
    def fit(self, x_VD: npt.NDArray[np.float64]) -> None:
        """From the training videos' numbers; a column that does not vary keeps std 1."""
        std_D = x_VD.std(axis=0)
        self.mean.copy_(torch.from_numpy(x_VD.mean(axis=0)))
        self.std.copy_(torch.from_numpy(np.where(std_D > SMALLEST_STD, std_D, 1.0)))

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D]."""
        return (x_BD - self.mean) / self.std
