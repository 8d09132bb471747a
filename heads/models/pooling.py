"""From tokens to one vector a video. Every pool looks at real tokens only.

Shape legend: B videos, T tokens (padded), D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from heads.models.statistics import STATISTICS, statistic_pool

Pool = Literal["mean", "attention", "cls", "max", "std", "range", "mean-std"]
POOLS: tuple[Pool, ...] = ("mean", "attention", "cls", "max", *STATISTICS)


def weighted_sum(x_BTD: Tensor, weights_BT: Tensor) -> Tensor:
    """Sum of each video's tokens by weight, [B, D].

    As rows times matrices: `einsum` multiplies matrices by columns, which took 14 times as long on a CPU, and 7 times in the
    gradient.
    """
    return torch.bmm(weights_BT[:, None], x_BTD).squeeze(1)


def mean_pool(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over real tokens, [B, D]."""
    return weighted_sum(x_BTD, mask_BT.to(x_BTD.dtype) / mask_BT.sum(dim=1, keepdim=True))


def max_pool(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Largest value of each feature over real tokens, [B, D]."""
    return x_BTD.masked_fill(~mask_BT[:, :, None], float("-inf")).amax(dim=1)


class AttentionPool(nn.Module):
    """Gated attention (Ilse, Tomczak and Welling 2018, equation 9): weights sum to 1 over a video's real
    tokens.
    """

    def __init__(self, dim: int, *, hidden: int = 128) -> None:
        super().__init__()
        self.value = nn.Linear(dim, hidden)
        self.gate = nn.Linear(dim, hidden)
        self.score = nn.Linear(hidden, 1)

    def weights(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Attention weights [B, T], 0 in padding."""
        hidden_BTH = torch.tanh(self.value(x_BTD)) * torch.sigmoid(self.gate(x_BTD))
        scores_BT: Tensor = self.score(hidden_BTH).squeeze(-1)
        return scores_BT.float().masked_fill(~mask_BT, float("-inf")).softmax(dim=1)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Weighted mean, [B, D]."""
        return weighted_sum(x_BTD, self.weights(x_BTD, mask_BT).to(x_BTD.dtype))


class TokenPool(nn.Module):
    """One of the pools by name; `cls` takes the first token, which an encoder has put there."""

    def __init__(self, kind: Pool, dim: int, *, hidden: int = 128) -> None:
        super().__init__()
        self.kind = kind
        self.attention = AttentionPool(dim, hidden=hidden) if kind == "attention" else None

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, D]."""
        if self.attention is not None:
            pooled: Tensor = self.attention(x_BTD, mask_BT)
            return pooled
        if self.kind == "cls":
            return x_BTD[:, 0]
        if self.kind in STATISTICS:
            return statistic_pool(self.kind, x_BTD, mask_BT)
        return max_pool(x_BTD, mask_BT) if self.kind == "max" else mean_pool(x_BTD, mask_BT)
