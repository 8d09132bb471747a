"""Several heads as one: the weighted sum of their logits. Made of one head a stream (join late), of the heads of
several folds, or of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from heads.models.model import HeadModel, ModelConfig, TokenModel
from heads.models.scaling import InputScaling


class HeadEnsemble(TokenModel):
    """`n_folds` times one head of all channels, or, with `late`, one head a channel.

    weights: buffer, float32 [M], what each member's logit counts; equal and of sum 1 until `set_weights`. Members
    are laid fold by fold, in a fold stream by stream.
    """

    weights: Tensor

    def __init__(self, config: ModelConfig, stream_dims: tuple[int, ...], *, n_folds: int = 1) -> None:
        super().__init__()
        self.config, self.stream_dims = config, stream_dims
        self.late = is_late(config, stream_dims)
        self.members = nn.ModuleList(
            HeadModel(own, dims) for _ in range(n_folds) for own, dims in member_parts(config, stream_dims)
        )
        self.register_buffer("weights", torch.full((len(self.members),), 1.0 / len(self.members)))

    def heads(self) -> list[HeadModel]:
        """The members."""
        return [head for head in self.members if isinstance(head, HeadModel)]

    def input_scalings(self) -> list[InputScaling]:
        """The scaling of each channel, of the first fold's heads."""
        first = self.heads()[: len(self.stream_dims) if self.late else 1]
        return [scaling for head in first for scaling in head.input_scalings()]

    @property
    def pools_first(self) -> bool:
        """As its members, which are alike."""
        return self.heads()[0].pools_first

    @torch.no_grad()
    def set_weights(self, weights: Sequence[float]) -> None:
        """What each member's logit counts."""
        self.weights.copy_(torch.tensor(list(weights)))

    def member_logits(
        self, values: Sequence[Tensor], masks: Sequence[Tensor], times: Sequence[Tensor]
    ) -> Tensor:
        """Each member's own logit, float32 [M, B]. Nothing fitted lies before the pool of heads that pool first, so that
        those of all folds pool once.
        """
        n_channels = len(values)
        pooled: dict[int, Tensor] = {}
        found = []
        for i, head in enumerate(self.heads()):
            place = i % n_channels if self.late else 0
            own = slice(place, place + 1) if self.late else slice(None)
            if not head.pools_first:
                found.append(head(values[own], masks[own], times[own]))
                continue
            if place not in pooled:
                scaled = [s(x, m) for s, x, m in zip(head.scalings, values[own], masks[own], strict=True)]
                pooled[place] = head.pooled(scaled, masks[own])
            found.append(head.from_pooled(pooled[place]))
        return torch.stack(found)

    def forward(self, values: Sequence[Tensor], masks: Sequence[Tensor], times: Sequence[Tensor]) -> Tensor:
        """Logits, float32 [B]; arguments as `HeadModel.forward`. Late, a stream that is not there has no say."""
        found = self.weights[:, None] * self.member_logits(values, masks, times)
        if not (self.late and self.config.absent):
            return found.sum(dim=0)
        here_SB = torch.stack([~x[:, 0, 0].isnan() for x in values])
        here_MB = here_SB.repeat(len(self.members) // len(values), 1)
        total_B = torch.where(here_MB, found, torch.zeros_like(found)).sum(dim=0)
        return total_B * len(values) / here_SB.sum(dim=0)


def is_late(config: ModelConfig, stream_dims: Sequence[int]) -> bool:
    """Whether streams are read by one head each. A late logistic head is one, its logits are a sum over streams, unless a
    video may lack one.
    """
    if config.architecture == "logistic" and not config.absent:
        return False
    return config.joining == "late" and len(stream_dims) > 1


def member_parts(
    config: ModelConfig, stream_dims: tuple[int, ...]
) -> list[tuple[ModelConfig, tuple[int, ...]]]:
    """Config and stream widths of the heads that one fold trains: one, or one a stream."""
    if not is_late(config, stream_dims):
        return [(config, stream_dims)]
    return [(replace(config, join=None, absent=False), (dim,)) for dim in stream_dims]


def build_model(config: ModelConfig, stream_dims: tuple[int, ...], *, n_folds: int = 1) -> TokenModel:
    """The module that a config means; n_folds: heads of folds whose mean it is."""
    if n_folds == 1 and not is_late(config, stream_dims):
        return HeadModel(config, stream_dims)
    return HeadEnsemble(config, stream_dims, n_folds=n_folds)


def count_parameters(config: ModelConfig, stream_dims: tuple[int, ...]) -> int:
    """`n_parameters` of a head that is not made: shapes alone, nothing is allocated."""
    with torch.device("meta"):
        return build_model(config, stream_dims).n_parameters
