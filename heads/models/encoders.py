"""What happens to tokens before they are pooled: nothing, a token-wise MLP, or attention between tokens.

Shape legend: B videos, T tokens (padded), D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from heads.models.dropout import Dropout

LONGEST_PERIOD_SECONDS = 3600.0
SHORTEST_PERIOD_SECONDS = 1.0


def largest_head_count(width: int, *, most: int = 16) -> int:
    """Largest divisor of `width` that is at most `most`; 1 for a prime width above it."""
    return max(n for n in range(1, min(most, width) + 1) if width % n == 0)


class TokenMLP(nn.Module):
    """`depth` token-wise layers Linear - ReLU - Dropout of `width`; depth 0 leaves tokens alone."""

    def __init__(self, dim: int, *, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Linear(dim if i == 0 else width, width), nn.ReLU(), Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.dim = width if depth else dim

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, width]."""
        encoded: Tensor = self.layers(x_BTD)
        return encoded


class TemporalConv(nn.Module):
    """`depth` layers of a 1-D convolution over three neighbouring tokens, ReLU, Dropout, of `width`; what lies beyond a video's
    ends is 0, as its padding is.
    """

    def __init__(self, dim: int, *, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(dim if i == 0 else width, width, kernel_size=3, padding=1) for i in range(depth)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, T, width]."""
        for layer in self.layers:
            x_BTD = x_BTD.masked_fill(~mask_BT[:, :, None], 0.0)
            x_BTD = self.dropout(torch.relu(layer(x_BTD.transpose(1, 2)).transpose(1, 2)))
        return x_BTD


class AttentionLayer(nn.Module):
    """What nn.TransformerEncoderLayer computes with its defaults (post-norm, ReLU), for long videos as well.

    torch's own layer writes out every T x T attention matrix when it scores; this one never does. For the
    same reason dropout acts on both residual branches and inside the feed-forward part, but not on attention
    weights.
    """

    def __init__(self, width: int, *, n_heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.grow = nn.Linear(width, feedforward)
        self.shrink = nn.Linear(feedforward, width)
        self.norm_attention = nn.LayerNorm(width)
        self.norm_feedforward = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, T, D]."""
        x_BTD = self.norm_attention(x_BTD + self.dropout(self._attend(x_BTD, mask_BT)))
        hidden_BTF = self.dropout(torch.relu(self.grow(x_BTD)))
        normed: Tensor = self.norm_feedforward(x_BTD + self.dropout(self.shrink(hidden_BTF)))
        return normed

    def _attend(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        qkv = self.qkv(x_BTD).unflatten(-1, (3, self.n_heads, -1))
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(dim=2))
        mixed = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask_BT[:, None, None, :]
        )
        attended: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return attended


class AttentionEncoder(nn.Module):
    """`depth` attention layers over real tokens.

    With `cls`, one learned token is put first; forward returns the tokens and the mask that goes with them.
    """

    def __init__(
        self, width: int, *, depth: int, n_heads: int, feedforward: int, dropout: float, cls: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            AttentionLayer(width, n_heads=n_heads, feedforward=feedforward, dropout=dropout)
            for _ in range(depth)
        )
        self.cls = nn.Parameter(torch.randn(width) * 0.02) if cls else None

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """([B, T, width], bool [B, T]); T is one more with `cls`."""
        if self.cls is not None:
            x_BTD = torch.cat([self.cls.to(x_BTD.dtype).expand(len(x_BTD), 1, -1), x_BTD], dim=1)
            mask_BT = torch.cat([mask_BT.new_ones(len(mask_BT), 1), mask_BT], dim=1)
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask_BT)
        return x_BTD, mask_BT


class TimeEmbedding(nn.Module):
    """Sines and cosines of seconds since the video's first token, then a linear map to `width`.

    Periods run geometrically from 1 s to 1 h. Time counts from the first token, so a window of a long
    recording is seen as a clip of its own would be.
    """

    frequencies: Tensor

    def __init__(self, width: int, *, n_periods: int = 16) -> None:
        super().__init__()
        ratio = LONGEST_PERIOD_SECONDS / SHORTEST_PERIOD_SECONDS
        periods = SHORTEST_PERIOD_SECONDS * ratio ** (torch.arange(n_periods) / (n_periods - 1))
        self.register_buffer("frequencies", 2 * math.pi / periods, persistent=False)
        self.project = nn.Linear(2 * n_periods, width, bias=False)

    def forward(self, times_BT: Tensor, first_B: Tensor) -> Tensor:
        """[B, T, width]. first_B: seconds of each video's first real token."""
        angles = (times_BT - first_B[:, None])[:, :, None] * self.frequencies
        embedded: Tensor = self.project(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return embedded


class StreamFusion(nn.Module):
    """Each stream projected to one width, told apart by a stream and a time embedding, laid one after
    another.
    """

    def __init__(self, dims: tuple[int, ...], *, width: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, width), nn.LayerNorm(width)) for dim in dims
        )
        self.stream_embedding = nn.Parameter(torch.randn(len(dims), width) * 0.02)
        self.time_embedding = TimeEmbedding(width)

    def forward(
        self, values: list[Tensor], masks: list[Tensor], times: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """One [B, T_s, D_s], [B, T_s], [B, T_s] a stream; gives ([B, sum T_s, width], bool [B, sum T_s])."""
        mask_BT = torch.cat(masks, dim=1)
        times_BT = torch.cat(times, dim=1).masked_fill(~mask_BT, float("inf"))
        first_B = times_BT.amin(dim=1)
        parts = [
            project(x_BTD) + embedding + self.time_embedding(t_BT.masked_fill(~m_BT, 0.0), first_B)
            for project, embedding, x_BTD, m_BT, t_BT in zip(
                self.projections, self.stream_embedding, values, masks, times, strict=True
            )
        ]
        return torch.cat(parts, dim=1), mask_BT
