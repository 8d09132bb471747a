"""Input scaling, fitted on training videos and kept among the head's weights.

Each stream's columns are scaled on their own, also where streams are joined into one token.
Shape legend: B videos, T tokens, D width of a channel, S streams in a channel.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from heads.data.tokens import TokenSource, scoring_batches

Scaling = Literal["none", "l2", "standard"]
SCALINGS: tuple[Scaling, ...] = ("none", "l2", "standard")
SMALLEST_STD = 1e-6


class InputScaling(nn.Module):
    """Scales one channel and zeroes its padding.

    `none` leaves values; `l2` gives every stream's part of a token length 1; `standard` subtracts the
    training mean and divides by the training standard deviation, column by column (buffers `mean`, `std`,
    float32 [D]). stream_dims: widths of the streams joined in this channel, int, their sum is D.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kind: Scaling, stream_dims: tuple[int, ...]) -> None:
        super().__init__()
        self.kind = kind
        self.stream_dims = stream_dims
        if kind == "standard":
            self.register_buffer("mean", torch.zeros(sum(stream_dims)))
            self.register_buffer("std", torch.ones(sum(stream_dims)))

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Scaled tokens, float32 [B, T, D]."""
        if self.kind == "l2":
            parts = torch.split(x_BTD, list(self.stream_dims), dim=-1)
            x_BTD = torch.cat([nn.functional.normalize(part, dim=-1) for part in parts], dim=-1)
        elif self.kind == "standard":
            x_BTD = (x_BTD - self.mean) / self.std
        return torch.where(
            mask_BT[:, :, None], x_BTD, 0.0
        )  # half the time of masked_fill, bit for bit the same


@torch.no_grad()
def fit_scaling(scalings: list[InputScaling], tokens: TokenSource, videos: Tensor) -> None:
    """Set mean and std of each channel's `standard` scaling from `videos` (int64 [M], the training videos
    only).

    A column that does not vary keeps std 1. Sums are float64, taken around the first batch's mean.
    """
    if not any(scaling.kind == "standard" for scaling in scalings):
        return
    shifts: list[Tensor] = []
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    counts = [0] * len(scalings)
    for batch in scoring_batches(tokens.lengths, videos):
        for c, channel in enumerate(tokens.batch(batch)):
            real_ND = channel.values[channel.mask].double()
            if len(shifts) == c:
                shifts.append(real_ND.mean(dim=0))
                sums.append(torch.zeros_like(shifts[c]))
                squares.append(torch.zeros_like(shifts[c]))
            centred_ND = real_ND - shifts[c]
            sums[c] += centred_ND.sum(dim=0)
            squares[c] += centred_ND.square().sum(dim=0)
            counts[c] += len(centred_ND)
    for c, scaling in enumerate(scalings):
        offset_D = sums[c] / counts[c]
        std_D = (squares[c] / counts[c] - offset_D.square()).clamp(min=0.0).sqrt()
        scaling.mean.copy_(shifts[c] + offset_D)
        scaling.std.copy_(torch.where(std_D > SMALLEST_STD, std_D, torch.ones_like(std_D)))
