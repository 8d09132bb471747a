"""The logistic head: a regression on each statistic of each stream's tokens, their logits averaged; one Linear.

Shape legend: B videos in a batch, V videos, D columns of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from heads.data.tokens import TokenSource, scoring_batches
from heads.models.ensemble import HeadEnsemble, is_late, member_parts
from heads.models.model import HeadModel, ModelConfig, TokenModel
from heads.models.regression import Float, Int, Labels, Regression, fit_regression
from heads.models.threads import one_thread


@one_thread()
@torch.no_grad()
def pooled_inputs(model: HeadModel, tokens: TokenSource, videos: Int | None = None) -> Float:
    """What `model.standardise` reads of each video: float64 [V, D], zero rows for videos not asked for."""
    rows = torch.arange(tokens.n_videos) if videos is None else torch.from_numpy(videos)
    found: Float | None = None
    for places in scoring_batches(tokens.lengths[rows], torch.arange(len(rows))):
        channels = tokens.batch(rows[places])
        masks = [channel.mask for channel in channels]
        scaled = [s(c.values, c.mask) for s, c in zip(model.input_scalings(), channels, strict=True)]
        pooled = model.pooled(scaled, masks).double().numpy()
        if found is None:
            found = np.zeros((len(rows), pooled.shape[1]))
        found[places.numpy()] = pooled
    assert found is not None
    return found


def statistics_blocks(config: ModelConfig, stream_dims: tuple[int, ...], tokens: TokenSource) -> list[Float]:
    """One block a channel and statistic, float64 [V, D] each, in the order of the head's columns."""
    pooled = pooled_inputs(HeadModel(replace(config, absent=False), stream_dims), tokens)
    return [pooled[:, columns] for columns in block_columns(config, tokens.dims)]


def block_columns(config: ModelConfig, channel_dims: Sequence[int]) -> list[slice]:
    """Where each block lies among the head's columns."""
    widened = 2 if config.delta == "beside" else 1
    statistics = 2 if config.pooling == "mean-std" else 1
    widths = [widened * dim for dim in channel_dims for _ in range(statistics)]
    ends = np.cumsum(widths)
    return [slice(int(end) - width, int(end)) for end, width in zip(ends, widths, strict=True)]


def fit_blocks(
    blocks: Sequence[Float], labels: Labels, rows: Int, *, groups: Sequence[str], seed: int
) -> list[Regression]:
    """A regression a block."""
    return [fit_regression(block, labels, rows, groups=groups, seed=seed) for block in blocks]


@torch.no_grad()
def as_head(
    config: ModelConfig, stream_dims: tuple[int, ...], regressions: Sequence[Regression]
) -> TokenModel:
    """The regressions as one head, in eval mode: the mean of their logits is one Linear of all columns, of one stream or, where

    none may be absent, of all.
    """
    if is_late(config, stream_dims):
        together = HeadEnsemble(config, stream_dims)
        share = len(regressions) // len(stream_dims)
        for place, (own, dims) in enumerate(member_parts(config, stream_dims)):
            member = as_head(own, dims, regressions[place * share : (place + 1) * share])
            together.heads()[place].load_state_dict(member.state_dict())
        return together.eval()
    model = HeadModel(config, stream_dims)
    n = len(regressions)
    joined = {
        name: np.concatenate([getattr(one, name) for one in regressions])
        for name in ("mean", "std", "weights")
    }
    assert model.standardise is not None
    assert isinstance(model.classifier, torch.nn.Linear)
    model.standardise.mean.copy_(torch.from_numpy(joined["mean"]))
    model.standardise.std.copy_(torch.from_numpy(joined["std"]))
    model.classifier.weight.copy_(torch.from_numpy(joined["weights"])[None] / n)
    model.classifier.bias.fill_(sum(one.intercept for one in regressions) / n)
    return model.eval()


def no_groups(n: int) -> npt.NDArray[np.str_]:
    """Every video a source group of its own, for callers that know none."""
    return np.arange(n).astype(str)
