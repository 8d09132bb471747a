"""Train one head, and score videos with one. What trains it is in `heads.training.jobs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch

from cache.errors import HeadError
from heads.data.tokens import TokenSource, scoring_batches
from heads.models.model import TokenModel
from heads.models.threads import one_thread
from heads.training.batched import FitJob
from heads.training.config import TrainConfig
from heads.training.epochs import EpochRow, FitResult, selection_score
from heads.training.jobs import fit_jobs

__all__ = ["EpochRow", "FitResult", "fit", "predict_logits", "selection_score"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


def fit(
    tokens: TokenSource,
    labels: npt.NDArray[np.int8],
    *,
    train: Int,
    val: Int,
    stream_dims: tuple[int, ...],
    config: TrainConfig,
    device: torch.device | None = None,
    on_epoch: Callable[[EpochRow], None] | None = None,
    negative_hours: float | None = None,
    groups: Sequence[str] | None = None,
) -> FitResult:
    """Train on rows `train`, choose the epoch on rows `val`; nothing else of `labels` is looked at.

    labels: int8 [V], 0 or 1 in both parts. negative_hours: duration of val's negatives, for thresholds by
    false alarms. groups: source group of every video, [V]. The global random state is left as it was. Raises
    HeadError when the loss stops being finite.
    """
    (result,) = fit_jobs(
        tokens,
        labels,
        [FitJob(config, train, val, negative_hours)],
        stream_dims=stream_dims,
        groups=groups,
        device=device,
        on_epoch=None if on_epoch is None else lambda _, row: on_epoch(row),
    )
    if isinstance(result, HeadError):
        raise result
    return result


@torch.no_grad()
def predict_logits(model: TokenModel, tokens: TokenSource, videos: Int) -> Float:
    """Logits of `videos` (int64 [M]) in the order given: float64 [M], computed in float32, eval mode, on the CPU.

    The model's mode is left as it was.
    """
    was_training = model.training
    model.eval()
    logits = np.empty(len(videos), dtype=np.float64)
    with one_thread() if model.pools_first else nullcontext():
        for places in scoring_batches(tokens.lengths[torch.from_numpy(videos)], torch.arange(len(videos))):
            channels = tokens.batch(torch.from_numpy(videos)[places])
            logits[places.numpy()] = model.logits(channels).double().numpy()
    model.train(was_training)
    return logits
