"""What heads in training read: tokens scaled and cast once, and the order of batches, shared by all that read alike.

Shape legend: B videos in a batch, T tokens (padded), D width of a channel, N tokens of all videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heads.data.tokens import (
    Channel,
    MemoryTokens,
    TokenBatch,
    TokenSource,
    scoring_batches,
    training_batches,
)
from heads.models.scaling import InputScaling
from heads.training.config import TrainConfig
from heads.training.losses import balanced_sample

SCALED_MEMORY_SHARE = 0.4
"""A scaled copy of all tokens may take this share of free memory; above it every batch is scaled on its own."""

SCALING_BYTES = 32 * 1024 * 1024
"""Tokens are scaled in blocks of about this size."""

Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ScaledBatch:
    """One entry a channel, as `HeadModel.forward_scaled` takes them: values [B, T, D], zero in padding."""

    values: list[Tensor]
    masks: list[Tensor]
    times: list[Tensor]


class ScaledTokens:
    """A token source behind input scalings that are already fitted. dtype: of training's batches."""

    def __init__(
        self,
        tokens: TokenSource,
        scalings: Sequence[InputScaling],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._tokens, self._scalings = tokens, list(scalings)
        self._dtype, self._device = dtype, device
        self._scaled: MemoryTokens | None = None
        self._scoring: list[tuple[Tensor, ScaledBatch]] | None = None
        if isinstance(tokens, MemoryTokens):
            sizes = [channel.values.numel() * dtype.itemsize for channel in tokens.channels]
            if sum(sizes) <= SCALED_MEMORY_SHARE * _free_bytes():
                self._scaled = MemoryTokens(
                    tuple(
                        _scaled_channel(channel, scaling, dtype)
                        for channel, scaling in zip(tokens.channels, self._scalings, strict=True)
                    )
                )

    def training_batch(self, videos: Tensor) -> ScaledBatch:
        """`videos`: int64 [B]."""
        if self._scaled is None:
            return self._scale(self._tokens.batch(videos), self._dtype)
        return _as_scaled(
            [channel.batch(videos, dtype=self._dtype).to(self._device) for channel in self._scaled.channels]
        )

    def scoring(self, videos: Int) -> Iterable[tuple[Tensor, ScaledBatch]]:
        """float32 batches that cover `videos`, each with its places; kept for the next epoch where they fit.

        A source of scoring batches serves one list of videos, the val part of its heads.
        """
        if self._scoring is not None:
            return self._scoring
        rows, lengths = torch.from_numpy(videos), self._tokens.lengths
        places = scoring_batches(lengths[rows], torch.arange(len(rows)))
        made = ((p, self._scale(self._tokens.batch(rows[p]), torch.float32)) for p in places)
        padded = sum(len(p) * int(lengths[rows[p]].max()) for p in places)
        if padded * sum(self._tokens.dims) * 4 <= SCALED_MEMORY_SHARE * _free_bytes():
            self._scoring = list(made)
            return self._scoring
        return made

    @torch.no_grad()
    def _scale(self, batches: Sequence[TokenBatch], dtype: torch.dtype) -> ScaledBatch:
        moved = [batch.to(self._device) for batch in batches]
        scalings = [scaling.to(self._device) for scaling in self._scalings]
        return ScaledBatch(
            [s(b.values, b.mask).to(dtype) for s, b in zip(scalings, moved, strict=True)],
            [b.mask for b in moved],
            [b.times for b in moved],
        )


def _as_scaled(batches: Sequence[TokenBatch]) -> ScaledBatch:
    return ScaledBatch([b.values for b in batches], [b.mask for b in batches], [b.times for b in batches])


@torch.no_grad()
def _scaled_channel(channel: Channel, scaling: InputScaling, dtype: torch.dtype) -> Channel:
    if scaling.kind == "none" and channel.values.dtype == dtype:
        return channel
    values_ND = torch.empty(channel.values.shape, dtype=dtype)
    step = max(1, SCALING_BYTES // (4 * max(1, values_ND.shape[1])))
    for start in range(0, len(values_ND), step):
        block_ND = channel.values[start : start + step].float()
        mask = torch.ones(1, len(block_ND), dtype=torch.bool)
        values_ND[start : start + step] = scaling(block_ND[None], mask)[0]
    return Channel(values_ND, channel.times, channel.starts, channel.lengths)


def _free_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def epoch_batches(
    lengths: Tensor, rows: Tensor, targets: Tensor, config: TrainConfig, generator: torch.Generator
) -> list[Tensor]:
    """The batches of one epoch over `rows`, int64 [B] each, drawn as the sampler says."""
    if config.optim.sampler == "balanced":
        order = rows[balanced_sample(targets[rows], generator=generator)]
    else:
        order = rows[torch.randperm(len(rows), generator=generator)]
    return training_batches(lengths, order, batch_size=config.optim.batch_size, generator=generator)
