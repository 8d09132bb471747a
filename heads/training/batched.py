"""Heads that train together: batches are gathered, scaled and cast once for all heads that read them alike,
losses are summed, and one optimiser holds parameter groups for each head.

Heads may differ in model, learning rate, loss, dropout, seed, fold or anything else; each keeps its own weights,
BatchNorm statistics, dropout stream, clipping, average and best epoch. So a head comes out the same, bit for bit,
whoever it trained with, and `heads.training.fit.fit` is this with one head.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache.errors import HeadError
from heads.data.tokens import MAX_TOKENS_PER_BATCH, TokenSource
from heads.models.model import HeadModel, only_multiplies_tokens
from heads.models.scaling import InputScaling, fit_scaling
from heads.training.adamw import AdamW
from heads.training.average import AveragedWeights
from heads.training.config import TrainConfig
from heads.training.epochs import EpochRow, FitResult, epoch_row, selection_score
from heads.training.feed import ScaledBatch, ScaledTokens, epoch_batches
from heads.training.losses import HeadLoss, positive_weight
from heads.training.optim import clip_divisor, lr_factor, parameter_groups

MOST_HEADS = 8
"""Heads that train together at most; beyond it nothing is gained, and more is lost when a sweep is killed."""

PACK_BYTES = 1024**3
BYTES_A_PARAMETER = 24
"""Weights, gradients, two moments, averaged and best weights in float32: heads that train together take a GiB
together at most, though one always trains.
"""

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


def heads_together(*, batch_size: int, longest: int, n_parameters: int) -> int:
    """How many heads fit beside each other, from 1 to MOST_HEADS.

    batch_size: videos a step. longest: most tokens of a video. n_parameters: of the largest head.
    """
    by_batches = MAX_TOKENS_PER_BATCH // max(1, batch_size * longest)
    by_weights = PACK_BYTES // (BYTES_A_PARAMETER * max(1, n_parameters))
    return max(1, min(MOST_HEADS, by_batches, by_weights))


@dataclass(frozen=True, slots=True, eq=False)
class FitJob:
    """One head to train on rows `train`, its epoch chosen on rows `val`.

    negative_hours: duration of val's negatives, for thresholds by false alarms.
    """

    config: TrainConfig
    train: Int
    val: Int
    negative_hours: float | None = None


def fit_together(
    tokens: TokenSource,
    labels: npt.NDArray[np.int8],
    jobs: Sequence[FitJob],
    *,
    stream_dims: tuple[int, ...],
    device: torch.device | None = None,
    on_epoch: Callable[[int, EpochRow], None] | None = None,
) -> list[FitResult | HeadError]:
    """Train all jobs in lock step; a job whose loss stops being finite has its HeadError as result.

    labels: int8 [V], 0 or 1 in all parts. on_epoch gets the job's number. All jobs read the channels of
    `tokens`. The global random state is left as it was.
    """
    device = device or torch.device("cpu")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        pack = _Pack(tokens, labels, jobs, stream_dims, device)
        while any(head.active for head in pack.heads):
            pack.train_epoch()
            for number, row in pack.score_epoch():
                if on_epoch is not None:
                    on_epoch(number, row)
    return [head.result() for head in pack.heads]


class _Feed:
    """One order of batches over one training set, and the heads that follow it."""

    def __init__(self, job: FitJob, tokens: ScaledTokens, lengths: Tensor, targets: Tensor) -> None:
        self.tokens, self.val = tokens, job.val
        self.heads: list[_Head] = []
        self.batches: list[Tensor] = []
        self._config, self._lengths, self._targets = job.config, lengths, targets
        self._rows = torch.from_numpy(job.train)
        self._generator = torch.Generator().manual_seed(job.config.seed)
        self.steps_per_epoch = len(epoch_batches(lengths, self._rows, targets, job.config, torch.Generator()))

    @property
    def active(self) -> list[_Head]:
        return [head for head in self.heads if head.active]

    def draw(self) -> None:
        """Draw the batches of the next epoch."""
        self.batches = epoch_batches(self._lengths, self._rows, self._targets, self._config, self._generator)


class _Head:
    """One head in training: its weights, loss, randomness, history and best epoch."""

    def __init__(
        self,
        job: FitJob,
        labels: npt.NDArray[np.int8],
        stream_dims: tuple[int, ...],
        device: torch.device,
    ) -> None:
        self.job, self.config, self._device = job, job.config, device
        optim = job.config.optim
        _seed(job.config.seed, device)
        self.model = HeadModel(job.config.model, stream_dims)
        self._random = _random_state(device)
        n_positive = int((labels[job.train] == 1).sum())
        self.pos_weight = positive_weight(
            job.config.loss,
            n_negative=len(job.train) - n_positive,
            n_positive=n_positive,
            balanced_batches=optim.sampler == "balanced",
        )
        self.loss = HeadLoss(job.config.loss, pos_weight=self.pos_weight).to(device)
        self.bf16 = optim.precision == "bf16"
        self.dtype = (
            torch.bfloat16 if self.bf16 and only_multiplies_tokens(job.config.model) else torch.float32
        )
        self.history: list[EpochRow] = []
        self.error: HeadError | None = None
        self.best_epoch = 0
        self._best: tuple[float, float] | None = None
        self._best_weights: dict[str, Tensor] = {}
        self._total = torch.zeros((), dtype=torch.float64)
        self._seen = self._step = 0

    def start(self, scalings: Sequence[InputScaling], *, n_steps: int) -> None:
        """Take over fitted scalings, move to the device and make the optimiser's groups."""
        for own, fitted in zip(self.model.input_scalings(), scalings, strict=True):
            own.load_state_dict(fitted.state_dict())
        self.model.to(self._device)
        decay = self.config.optim.ema_decay
        self._average = AveragedWeights(self.model, decay) if decay is not None else None
        self._parameters = list(self.model.parameters())
        self._n_steps = n_steps
        self.groups = parameter_groups(self.model, self.config.optim)

    @property
    def active(self) -> bool:
        optim = self.config.optim
        if self.error is not None or len(self.history) >= optim.epochs:
            return False
        return optim.patience is None or len(self.history) - self.best_epoch < optim.patience

    @property
    def lr(self) -> float:
        return float(self.groups[0]["lr"])

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        _set_random_state(self._random, self._device)
        yield
        self._random = _random_state(self._device)

    def step_loss(self, batch: ScaledBatch, targets_B: Tensor) -> Tensor:
        """The loss of this step's batch; sets the learning rate of the step."""
        optim = self.config.optim
        factor = lr_factor(min(self._step, self._n_steps - 1), n_steps=self._n_steps, config=optim)
        for group in self.groups:
            group["lr"] = optim.lr * factor
        with self._own_randomness(), torch.autocast(self._device.type, torch.bfloat16, enabled=self.bf16):
            logits_B = self.model.forward_scaled(batch.values, batch.masks, batch.times)
        value: Tensor = self.loss(logits_B.float(), targets_B)
        self._total += value.detach().double().cpu() * len(targets_B)
        self._seen += len(targets_B)
        return value

    def clip(self) -> None:
        if self.config.optim.clip_norm is not None:
            divisor = clip_divisor(self._parameters, self.config.optim.clip_norm)
            for group in self.groups:
                group["divisor"] = divisor

    def after_step(self) -> None:
        if self._average is not None:
            self._average.update()
        self._step += 1

    @property
    def scored(self) -> HeadModel:
        """The weights that are scored and kept: the averaged ones where there are such."""
        model = self._average.model if self._average is not None else self.model
        assert isinstance(model, HeadModel)
        return model

    def end_epoch(self, logits: Float, labels: npt.NDArray[np.int8], seconds: float) -> EpochRow | None:
        """Add a line to the history; None, and the error kept, when the loss is not finite."""
        epoch = len(self.history) + 1
        train_loss = float(self._total) / self._seen
        self._total.zero_()
        self._seen = 0
        try:
            if not np.isfinite(train_loss):
                raise HeadError(f"the loss is {train_loss} in epoch {epoch}; lower --lr or scale the inputs")
            hours = self.job.negative_hours
            row = epoch_row(epoch, self.lr, train_loss, logits, labels, self.loss, self.config, hours)
        except HeadError as error:
            self.error = error
            return None
        score = selection_score(row, self.config.selection)
        improved = self._best is None or score > self._best
        row = replace(row, best=improved, seconds=seconds)
        self.history.append(row)
        if improved:
            self._best, self.best_epoch = score, epoch
            self._best_weights = {k: v.detach().cpu().clone() for k, v in self.scored.state_dict().items()}
        return row

    def result(self) -> FitResult | HeadError:
        if self.error is not None:
            return self.error
        model = self.model.cpu()
        model.load_state_dict(self._best_weights)
        precision = "bf16" if self.bf16 else "fp32"
        return FitResult(model.eval(), tuple(self.history), self.best_epoch, self.pos_weight, precision)


class _Pack:
    """The heads, the feeds that they follow, and the optimiser that holds a few groups for each."""

    def __init__(
        self,
        tokens: TokenSource,
        labels: npt.NDArray[np.int8],
        jobs: Sequence[FitJob],
        stream_dims: tuple[int, ...],
        device: torch.device,
    ) -> None:
        self._labels, self._device = labels, device
        self._targets = torch.from_numpy(labels.astype(np.float32))
        lengths = tokens.lengths
        fitted: dict[tuple[object, ...], list[InputScaling]] = {}
        scaled: dict[tuple[object, ...], ScaledTokens] = {}
        feeds: dict[tuple[object, ...], _Feed] = {}
        self.heads = [_Head(job, labels, stream_dims, device) for job in jobs]
        for head in self.heads:
            job, optim = head.job, head.config.optim
            scaling_key = (head.config.model.scaling, job.train.tobytes())
            if scaling_key not in fitted:
                fitted[scaling_key] = deepcopy(head.model.input_scalings())
                fit_scaling(fitted[scaling_key], tokens, torch.from_numpy(job.train))
            tokens_key = (*scaling_key, job.val.tobytes(), head.dtype)
            if tokens_key not in scaled:
                scaled[tokens_key] = ScaledTokens(
                    tokens, fitted[scaling_key], dtype=head.dtype, device=device
                )
            feed_key = (*tokens_key, job.config.seed, optim.batch_size, optim.sampler)
            if feed_key not in feeds:
                feeds[feed_key] = _Feed(job, scaled[tokens_key], lengths, self._targets)
            feeds[feed_key].heads.append(head)
            head.start(fitted[scaling_key], n_steps=optim.epochs * feeds[feed_key].steps_per_epoch)
        self._feeds = list(feeds.values())
        self._optimizer = AdamW([group for head in self.heads for group in head.groups])

    def train_epoch(self) -> None:
        """One epoch of every active head."""
        self._started = time.perf_counter()
        feeds = [feed for feed in self._feeds if feed.active]
        for feed in feeds:
            feed.draw()
            for head in feed.active:
                head.model.train()
        for step in range(max(len(feed.batches) for feed in feeds)):
            self._optimizer.zero_grad()
            stepping: list[_Head] = []
            losses: list[Tensor] = []
            for feed in feeds:
                if step >= len(feed.batches):
                    continue
                videos = feed.batches[step]
                batch, targets_B = feed.tokens.training_batch(videos), self._targets[videos].to(self._device)
                for head in feed.active:
                    losses.append(head.step_loss(batch, targets_B))
                    stepping.append(head)
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            for head in stepping:
                head.clip()
            self._optimizer.step()
            for head in stepping:
                head.after_step()

    @torch.no_grad()
    def score_epoch(self) -> list[tuple[int, EpochRow]]:
        """The new line of every active head's history, with the head's number."""
        active = [(feed, head) for feed in self._feeds for head in feed.active]
        logits = {id(head): np.empty(len(feed.val)) for feed, head in active}
        models = {id(head): head.scored.eval() for _, head in active}
        for feed in self._feeds:
            for places, batch in feed.tokens.scoring(feed.val) if feed.active else ():
                for head in feed.active:
                    found = models[id(head)].forward_scaled(batch.values, batch.masks, batch.times)
                    logits[id(head)][places.numpy()] = found.double().cpu().numpy()
        seconds = (time.perf_counter() - self._started) / len(active)
        rows = []
        for feed, head in active:
            row = head.end_epoch(logits[id(head)], self._labels[feed.val], seconds)
            if row is not None:
                rows.append((self.heads.index(head), row))
        return rows


def _seed(seed: int, device: torch.device) -> None:
    """What `torch.manual_seed` does, for the processor and this device: it would seed every GPU, which nobody puts back."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _random_state(device: torch.device) -> tuple[Tensor, ...]:
    states = (torch.get_rng_state(),)
    return (*states, torch.cuda.get_rng_state(device)) if device.type == "cuda" else states


def _set_random_state(states: tuple[Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
