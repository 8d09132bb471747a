"""Heads of every kind, trained: by gradient (`heads.training.batched`), by regression, or one a stream and then together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from cache.errors import HeadError
from heads.data.tokens import (
    Channel,
    MemoryTokens,
    TokenBatch,
    TokenSource,
    absent_videos,
    scoring_batches,
)
from heads.models.ensemble import HeadEnsemble, is_late, member_parts
from heads.models.model import HeadModel, ModelConfig
from heads.models.regression import log_losses, mean_logits
from heads.models.statistics import STATISTICS
from heads.scoring.calibration import fit_temperature
from heads.training.batched import FitJob, fit_together
from heads.training.config import TrainConfig
from heads.training.device import device_trouble
from heads.training.epochs import EpochRow, FitResult, epoch_row
from heads.training.logistic import as_head, fit_blocks, no_groups, pooled_inputs, statistics_blocks
from heads.training.losses import HeadLoss

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
OnEpoch = Callable[[int, EpochRow], None]


def fit_jobs(
    tokens: TokenSource,
    labels: npt.NDArray[np.int8],
    jobs: Sequence[FitJob],
    *,
    stream_dims: tuple[int, ...],
    groups: Sequence[str] | None = None,
    device: torch.device | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[FitResult | HeadError]:
    """Train jobs of one architecture and join; a job whose loss stops being finite has its HeadError as result.

    groups: source group of every video, [V], which a regression keeps apart where it chooses its strength; None is
    each video its own. The global random state is left as it was. Other arguments as `heads.training.batched.fit_together`.
    """
    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []), device_trouble(device):
        return _fit_jobs(tokens, labels, jobs, stream_dims, groups, device, on_epoch)


def _fit_jobs(
    tokens: TokenSource,
    labels: npt.NDArray[np.int8],
    jobs: Sequence[FitJob],
    stream_dims: tuple[int, ...],
    groups: Sequence[str] | None,
    device: torch.device | None,
    on_epoch: OnEpoch | None,
) -> list[FitResult | HeadError]:
    model = jobs[0].config.model
    if model.architecture == "logistic":
        names = list(no_groups(len(labels))) if groups is None else groups
        return _fit_logistic(tokens, labels, jobs, stream_dims, names, on_epoch)
    if is_late(model, stream_dims):
        return _fit_late(tokens, labels, jobs, stream_dims, device, on_epoch)
    if model.pooling in STATISTICS:
        return _fit_pooled(tokens, labels, jobs, stream_dims, device, on_epoch)
    found = fit_together(tokens, labels, jobs, stream_dims=stream_dims, device=device, on_epoch=on_epoch)
    return list(found)


def _fit_logistic(
    tokens: TokenSource,
    labels: npt.NDArray[np.int8],
    jobs: Sequence[FitJob],
    stream_dims: tuple[int, ...],
    groups: Sequence[str],
    on_epoch: OnEpoch | None,
) -> list[FitResult | HeadError]:
    tables: dict[ModelConfig, list[Float]] = {}
    results: list[FitResult | HeadError] = []
    for number, job in enumerate(jobs):
        model = job.config.model
        if model not in tables:
            tables[model] = statistics_blocks(model, stream_dims, tokens)
        blocks = tables[model]
        regressions = fit_blocks(blocks, labels, job.train, groups=groups, seed=job.config.seed)
        logits = mean_logits(regressions, blocks)
        loss = float(log_losses(logits[job.train], labels[job.train]).mean())
        row = only_row(job, loss, logits[job.val], labels)
        if on_epoch is not None:
            on_epoch(number, row)
        results.append(FitResult(as_head(model, stream_dims, regressions), (row,), 1, 1.0, "fp64"))
    return results


def only_row(job: FitJob, train_loss: float, val_logits: Float, labels: npt.NDArray[np.int8]) -> EpochRow:
    """The one line of history of a head that has no epochs of its own."""
    loss = HeadLoss(job.config.loss, pos_weight=1.0)
    row = epoch_row(1, 0.0, train_loss, val_logits, labels[job.val], loss, job.config, job.negative_hours)
    return replace(row, best=True)


def _fit_pooled(
    tokens: TokenSource,
    labels: npt.NDArray[np.int8],
    jobs: Sequence[FitJob],
    stream_dims: tuple[int, ...],
    device: torch.device | None,
    on_epoch: OnEpoch | None,
) -> list[FitResult | HeadError]:
    """Heads of the inputs' statistics, which no step changes: each video is one token, pooled once."""
    results: list[FitResult | HeadError] = []
    for number, job in enumerate(jobs):
        model = HeadModel(job.config.model, stream_dims)
        table = torch.from_numpy(pooled_inputs(model, tokens)).float()
        n, width = table.shape
        own = replace(job.config.model, pool="mean", delta="off", scaling="standard", join=None)
        (found,) = fit_together(
            MemoryTokens(
                (Channel(table, torch.zeros(n), torch.arange(n), torch.ones(n, dtype=torch.int64)),)
            ),
            labels,
            [replace(job, config=replace(job.config, model=own))],
            stream_dims=(width,),
            device=device,
            on_epoch=None if on_epoch is None else partial(_numbered, on_epoch, number),
        )
        if isinstance(found, FitResult):
            weights = found.model.state_dict()
            state = model.state_dict()
            state |= {name: value for name, value in weights.items() if name in state}
            state |= {f"standardise.{part}": weights[f"scalings.0.{part}"] for part in ("mean", "std")}
            model.load_state_dict(state)
            found = replace(found, model=model.eval())
        results.append(found)
    return results


def _numbered(on_epoch: OnEpoch, number: int, _: int, row: EpochRow) -> None:
    on_epoch(number, row)


def _fit_late(
    tokens: TokenSource,
    labels: npt.NDArray[np.int8],
    jobs: Sequence[FitJob],
    stream_dims: tuple[int, ...],
    device: torch.device | None,
    on_epoch: OnEpoch | None,
) -> list[FitResult | HeadError]:
    by_stream = []
    for channel, dim in enumerate(stream_dims):
        source = one_channel(tokens, channel)
        own = [replace(job, config=_of_one_stream(job.config, stream_dims)) for job in jobs]
        if jobs[0].config.model.absent:
            here = ~absent_videos(source)
            own = [_where(job, here, labels) for job in own]
        by_stream.append(fit_jobs(source, labels, own, stream_dims=(dim,), device=device, on_epoch=on_epoch))
    return [
        _together(tokens, labels, job, stream_dims, [found[number] for found in by_stream])
        for number, job in enumerate(jobs)
    ]


def _of_one_stream(config: TrainConfig, stream_dims: tuple[int, ...]) -> TrainConfig:
    return replace(config, model=member_parts(config.model, stream_dims)[0][0])


def _where(job: FitJob, here: npt.NDArray[np.bool_], labels: npt.NDArray[np.int8]) -> FitJob:
    """The job on the videos that have the stream; its history is that of two training videos where val lacks a class."""
    train, val = job.train[here[job.train]], job.val[here[job.val]]
    if len(np.unique(labels[train])) < 2:
        raise HeadError(
            f"a stream is there in {len(train)} of {len(job.train)} videos to train on, which are not of both classes; leave it "
            "out with --streams"
        )
    if len(np.unique(labels[val])) < 2:
        val = np.sort(np.array([train[labels[train] == label][0] for label in (0, 1)]))
    return replace(job, train=train, val=val)


def _together(
    tokens: TokenSource,
    labels: npt.NDArray[np.int8],
    job: FitJob,
    stream_dims: tuple[int, ...],
    found: Sequence[FitResult | HeadError],
) -> FitResult | HeadError:
    members: list[FitResult] = []
    for one in found:
        if isinstance(one, HeadError):
            return one
        members.append(one)
    model = HeadEnsemble(job.config.model, stream_dims)
    for own, member in zip(model.heads(), members, strict=True):
        own.load_state_dict(member.model.state_dict())
    model.eval()
    logits = member_logits(model, tokens, job.val)
    weights = np.full(len(members), 1.0 / len(members))
    if job.config.selection != "last" and job.config.calibration == "temperature":
        weights = calibrated_weights(logits, labels[job.val])
        model.set_weights(weights.tolist())
    train_loss = float(np.mean([one.history[one.best_epoch - 1].train_loss for one in members]))
    row = only_row(job, train_loss, weighted_sum(weights, logits), labels)
    first = members[0]
    return FitResult(model, (row,), 1, first.pos_weight, first.precision)


def calibrated_weights(logits: Float, labels: npt.NDArray[np.int8]) -> Float:
    """What each member's logit (float64 [S, M], of held-out videos) counts: the mean after a temperature each."""
    here = ~np.isnan(logits)
    temperatures = [
        fit_temperature(one[own], labels[own]).temperature for one, own in zip(logits, here, strict=True)
    ]
    return 1.0 / (np.array(temperatures) * len(temperatures))


def weighted_sum(weights: Float, logits: Float) -> Float:
    """float64 [M] of `logits` [S, M]: as `HeadEnsemble.forward`, NaN where a stream is not there."""
    here = ~np.isnan(logits)
    if here.all():
        return weights @ logits
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Float = weights @ np.where(here, logits, 0.0) * len(logits) / here.sum(axis=0)
    return found


@torch.no_grad()
def member_logits(model: HeadEnsemble, tokens: TokenSource, videos: Int) -> Float:
    """Each member's own logits of `videos` (int64 [M]): float64 [S, M]."""
    rows = torch.from_numpy(videos)
    found = np.empty((len(model.members), len(videos)))
    for places in scoring_batches(tokens.lengths[rows], torch.arange(len(rows))):
        batch = tokens.batch(rows[places])
        logits = model.member_logits(
            [c.values for c in batch], [c.mask for c in batch], [c.times for c in batch]
        )
        found[:, places.numpy()] = logits.double().numpy()
    return found


def one_channel(tokens: TokenSource, channel: int) -> TokenSource:
    """The same videos with one of their channels."""
    if isinstance(tokens, MemoryTokens):
        return MemoryTokens((tokens.channels[channel],))
    return _OneChannel(tokens, channel)


class _OneChannel:
    """One channel of a source that reads from disk; batches are cut by the lengths of all channels."""

    def __init__(self, tokens: TokenSource, channel: int) -> None:
        self._tokens, self._channel = tokens, channel

    @property
    def n_videos(self) -> int:
        return self._tokens.n_videos

    @property
    def dims(self) -> tuple[int, ...]:
        return (self._tokens.dims[self._channel],)

    @property
    def lengths(self) -> torch.Tensor:
        return self._tokens.lengths

    def batch(self, videos: torch.Tensor) -> tuple[TokenBatch, ...]:
        return (self._tokens.batch(videos)[self._channel],)
