"""Tokens in memory: padded batches with a mask, the ragged store they are cut from, and the order of batches.

Shape legend: B videos in a batch, T tokens (padded), D width of a token, N tokens of all videos, V videos.

A model may read several *channels*: the joined models read one (all streams on one time grid), `fusion` reads
one channel a stream. Every function here carries a tuple of channels, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MAX_TOKENS_PER_BATCH = 65_536
"""Padded tokens in one batch. A batch of longer videos is halved until it fits, so 3 h recordings can be
trained on.
"""

BUCKET_BATCHES = 16
"""Shuffled videos are sorted by length inside windows of this many batches, so that little is padded."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Padded tokens of one channel.

    values: float [B, T, D]; what stands in padding has no meaning.
    mask: bool [B, T], True = real; every video has at least one real token.
    times: float32 [B, T], middle of each token's span in seconds.
    Raises ValueError when shapes or dtypes disagree.
    """

    values: Tensor
    mask: Tensor
    times: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or not self.values.is_floating_point():
            raise ValueError(f"token values must be float [B, T, D], got {_shape(self.values)}")
        if self.mask.dtype != torch.bool or self.mask.shape != self.values.shape[:2]:
            raise ValueError(
                f"the mask of token values {_shape(self.values)} must be bool "
                f"{list(self.values.shape[:2])}, got {_shape(self.mask)}"
            )
        if self.times.shape != self.mask.shape or not self.times.is_floating_point():
            raise ValueError(f"times must be float {list(self.mask.shape)}, got {_shape(self.times)}")
        if not bool(self.mask.any(dim=1).all()):
            raise ValueError("every video of a batch needs at least one real token")

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def __repr__(self) -> str:
        return f"TokenBatch(values={_shape(self.values)}, real={int(self.mask.sum())} tokens)"

    def to(self, device: torch.device) -> TokenBatch:
        """The same batch on `device`."""
        return TokenBatch(self.values.to(device), self.mask.to(device), self.times.to(device))


def as_tensor(array: npt.NDArray[np.generic]) -> Tensor:
    """The array's memory as a tensor; a read-only array is copied, as torch has no read-only tensors."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


@dataclass(frozen=True, slots=True, eq=False)
class Channel:
    """Ragged tokens of one channel: video v owns rows starts[v] : starts[v] + lengths[v].

    values: float16 or float32 [N, D]. times: float32 [N], seconds. starts, lengths: int64 [V], lengths >= 1.
    Videos may lie in any order in `values`. Raises ValueError when shapes disagree.
    """

    values: Tensor
    times: Tensor
    starts: Tensor
    lengths: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.times.shape != self.values.shape[:1]:
            raise ValueError(f"channel values {_shape(self.values)} do not fit times {_shape(self.times)}")
        if self.starts.shape != self.lengths.shape or self.starts.ndim != 1:
            raise ValueError(f"starts {_shape(self.starts)} and lengths {_shape(self.lengths)} differ")
        if len(self.lengths) and int(self.lengths.min()) < 1:
            raise ValueError("every video needs at least one token in every channel")
        if len(self.lengths) and int((self.starts + self.lengths).max()) > len(self.values):
            raise ValueError("a video's tokens lie beyond the end of the channel")

    def take(self, videos: Tensor) -> Channel:
        """The same rows seen as other videos, in another order; values are not copied."""
        return Channel(self.values, self.times, self.starts[videos], self.lengths[videos])

    def batch(self, videos: Tensor, *, dtype: torch.dtype = torch.float32) -> TokenBatch:
        """Batch of `videos` (int64 [B]) in `dtype`, zero in padding."""
        starts, lengths = self.starts[videos], self.lengths[videos]
        steps = torch.arange(int(lengths.max()))
        mask = steps < lengths[:, None]
        rows = torch.where(mask, starts[:, None] + steps, starts[:, None])
        values = self.values.index_select(0, rows.flatten()).view(*mask.shape, -1).to(dtype)
        if not bool(mask.all()):
            values.masked_fill_(~mask[:, :, None], 0.0)
        return TokenBatch(values, mask, self.times[rows])


class TokenSource(Protocol):
    """Where batches come from: memory (`MemoryTokens`) or disk (`heads.data.dataset.StreamedTokens`)."""

    @property
    def n_videos(self) -> int:
        """V."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of each channel."""

    @property
    def lengths(self) -> Tensor:
        """Tokens of each video over all channels, int64 [V]."""

    def batch(self, videos: Tensor) -> tuple[TokenBatch, ...]:
        """One float32 batch a channel, of `videos` (int64 [B]) in the order given."""


@dataclass(frozen=True, slots=True, eq=False)
class MemoryTokens:
    """All channels in memory. Raises ValueError when they hold different numbers of videos."""

    channels: tuple[Channel, ...]

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("at least one channel is needed")
        counts = [len(channel.lengths) for channel in self.channels]
        if len(set(counts)) != 1:
            raise ValueError(f"channels hold different numbers of videos: {counts}")

    @property
    def n_videos(self) -> int:
        return len(self.channels[0].lengths)

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(int(channel.values.shape[1]) for channel in self.channels)

    @property
    def lengths(self) -> Tensor:
        return torch.stack([channel.lengths for channel in self.channels]).sum(dim=0)

    def take(self, videos: Tensor) -> MemoryTokens:
        """Chosen videos in the order given, without copying values."""
        return MemoryTokens(tuple(channel.take(videos) for channel in self.channels))

    def batch(self, videos: Tensor) -> tuple[TokenBatch, ...]:
        return tuple(channel.batch(videos) for channel in self.channels)


def training_batches(
    lengths: Tensor,
    order: Tensor,
    *,
    batch_size: int,
    generator: torch.Generator,
    max_tokens: int = MAX_TOKENS_PER_BATCH,
) -> list[Tensor]:
    """Cut a shuffled `order` (int64 [M], indices into `lengths` [V]) into batches of similar length.

    Every index appears as often as in `order`. No batch holds a single video (BatchNorm cannot train on one):
    a remainder of one joins the batch before it. Raises ValueError when `order` holds fewer than two videos.
    """
    if batch_size < 2:
        raise ValueError(f"a training batch needs at least 2 videos, got {batch_size}")
    if len(order) < 2:
        raise ValueError(f"training needs at least 2 videos, got {len(order)}")
    batches: list[Tensor] = []
    for window in torch.split(order, batch_size * BUCKET_BATCHES):
        by_length = window[torch.argsort(lengths[window], stable=True)]
        batches += torch.split(by_length, batch_size)
    if len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = torch.cat([batches[-1], last])
    batches = [part for batch in batches for part in _halved(batch, lengths, max_tokens, smallest=2)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def scoring_batches(
    lengths: Tensor, videos: Tensor, *, batch_size: int = 64, max_tokens: int = MAX_TOKENS_PER_BATCH
) -> list[Tensor]:
    """Cut `videos` (int64 [M]) into batches sorted by length; singles are fine here."""
    by_length = videos[torch.argsort(lengths[videos], stable=True)]
    return [
        part
        for batch in torch.split(by_length, batch_size)
        for part in _halved(batch, lengths, max_tokens, smallest=1)
    ]


def _halved(batch: Tensor, lengths: Tensor, max_tokens: int, *, smallest: int) -> Sequence[Tensor]:
    """Halve until the padded batch fits `max_tokens`, never below `smallest` videos."""
    if len(batch) < 2 * smallest or len(batch) * int(lengths[batch].max()) <= max_tokens:
        return [batch] if len(batch) else []
    middle = len(batch) // 2
    return [
        *_halved(batch[:middle], lengths, max_tokens, smallest=smallest),
        *_halved(batch[middle:], lengths, max_tokens, smallest=smallest),
    ]


def absent_videos(tokens: TokenSource, channel: int = 0) -> npt.NDArray[np.bool_]:
    """bool [V]: videos that lack this channel's stream, as `heads.data.dataset.with_absent` says it."""
    if isinstance(tokens, MemoryTokens):
        own = tokens.channels[channel]
        return np.asarray(own.values[own.starts, 0].isnan().numpy())
    absent = np.zeros(tokens.n_videos, dtype=bool)
    for videos in scoring_batches(tokens.lengths, torch.arange(tokens.n_videos)):
        absent[videos.numpy()] = tokens.batch(videos)[channel].values[:, 0, 0].isnan().numpy()
    return absent
