"""The training loop: epochs of length-bucketed batches, scored on val, the best epoch kept.

Shape legend: B videos in a batch, V videos of a part.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cache.errors import HeadError
from heads.calibration import probabilities
from heads.config import Selection, TrainConfig
from heads.data import TokenBatch, TokenSource, scoring_batches, training_batches
from heads.losses import HeadLoss, balanced_sample, positive_weight
from heads.metrics import auroc, average_precision
from heads.model import HeadModel
from heads.optim import averaged, lr_factor, make_optimizer, uses_bf16
from heads.scaling import fit_scaling
from heads.thresholds import choose_threshold

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One line of the history. train_loss is the mean over the epoch; everything else is on val.

    threshold, precision, recall and f1 are those of the best threshold of this epoch; precision is None when
    nothing is flagged. best: better in the selection metric than all epochs before.
    """

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    threshold: float
    precision: float | None
    recall: float
    f1: float
    auroc: float | None
    average_precision: float | None
    degenerate: bool
    best: bool
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """model: in eval mode, with the best epoch's weights, on the CPU. best_epoch counts from 1.

    pos_weight: what the loss used. precision: of training's matrix products, fp32 or bf16.
    """

    model: HeadModel
    history: tuple[EpochRow, ...]
    best_epoch: int
    pos_weight: float
    precision: str


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
) -> FitResult:
    """Train on rows `train`, choose the epoch on rows `val`; nothing else of `labels` is looked at.

    labels: int8 [V], 0 or 1 in both parts. negative_hours: duration of val's negatives, for thresholds by
    false alarms. The global random state is left as it was. Raises HeadError when the loss stops being
    finite.
    """
    device = device or torch.device("cpu")
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(config.seed)
        return _fit(tokens, labels, train, val, stream_dims, config, device, on_epoch, negative_hours)


def _fit(
    tokens: TokenSource,
    labels: npt.NDArray[np.int8],
    train: Int,
    val: Int,
    stream_dims: tuple[int, ...],
    config: TrainConfig,
    device: torch.device,
    on_epoch: Callable[[EpochRow], None] | None,
    negative_hours: float | None,
) -> FitResult:
    optim = config.optim
    model = HeadModel(config.model, stream_dims)
    train_rows = torch.from_numpy(train)
    fit_scaling(model.input_scalings(), tokens, train_rows)
    model.to(device)
    n_positive = int((labels[train] == 1).sum())
    weight = positive_weight(
        config.loss,
        n_negative=len(train) - n_positive,
        n_positive=n_positive,
        balanced_batches=optim.sampler == "balanced",
    )
    loss = HeadLoss(config.loss, pos_weight=weight).to(device)
    optimizer = make_optimizer(model, optim)
    average = averaged(model, optim.ema_decay) if optim.ema_decay is not None else None
    bf16 = uses_bf16(optim.precision, width=max(tokens.dims), device=device)
    targets = torch.from_numpy(labels.astype(np.float32))
    generator = torch.Generator().manual_seed(config.seed)
    lengths = tokens.lengths
    history: list[EpochRow] = []
    best: tuple[float, float] | None = None
    best_weights: dict[str, Tensor] = {}
    best_epoch = step = 0
    n_steps = optim.epochs * len(epoch_batches(lengths, train_rows, targets, config, torch.Generator()))
    for epoch in range(1, optim.epochs + 1):
        started = time.perf_counter()
        batches = epoch_batches(lengths, train_rows, targets, config, generator)
        model.train()
        total = torch.zeros((), dtype=torch.float64)
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = optim.lr * lr_factor(min(step, n_steps - 1), n_steps=n_steps, config=optim)
            channels = [channel.to(device) for channel in tokens.batch(batch)]
            value = train_step(
                model, loss, optimizer, channels, targets[batch].to(device), bf16, optim.clip_norm
            )
            total += value.double().cpu() * len(batch)
            if average is not None:
                average.update_parameters(model)
            step += 1
        train_loss = float(total) / sum(map(len, batches))
        if not np.isfinite(train_loss):
            raise HeadError(f"the loss is {train_loss} in epoch {epoch}; lower --lr or scale the inputs")
        scored = average.module if average is not None else model
        assert isinstance(scored, HeadModel)
        logits = predict_logits(scored, tokens, val, device=device)
        row = epoch_row(
            epoch,
            optimizer.param_groups[0]["lr"],
            train_loss,
            logits,
            labels[val],
            loss,
            config,
            negative_hours,
        )
        score = selection_score(row, config.selection)
        improved = best is None or score > best
        row = replace(row, best=improved, seconds=time.perf_counter() - started)
        history.append(row)
        if improved:
            best, best_epoch = score, epoch
            best_weights = {k: v.detach().cpu().clone() for k, v in scored.state_dict().items()}
        if on_epoch is not None:
            on_epoch(row)
        if optim.patience is not None and epoch - best_epoch >= optim.patience:
            break
    model = model.cpu()
    model.load_state_dict(best_weights)
    model.eval()
    return FitResult(model, tuple(history), best_epoch, weight, "bf16" if bf16 else "fp32")


def epoch_batches(
    lengths: Tensor, rows: Tensor, targets: Tensor, config: TrainConfig, generator: torch.Generator
) -> list[Tensor]:
    if config.optim.sampler == "balanced":
        order = rows[balanced_sample(targets[rows], generator=generator)]
    else:
        order = rows[torch.randperm(len(rows), generator=generator)]
    return training_batches(lengths, order, batch_size=config.optim.batch_size, generator=generator)


def train_step(
    model: HeadModel,
    loss: HeadLoss,
    optimizer: torch.optim.Optimizer,
    channels: list[TokenBatch],
    targets_B: Tensor,
    bf16: bool,
    clip_norm: float | None,
) -> Tensor:
    """One optimiser step; returns the batch's loss."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(targets_B.device.type, dtype=torch.bfloat16, enabled=bf16):
        logits_B = model.logits(channels)
    value: Tensor = loss(logits_B.float(), targets_B)
    value.backward()  # type: ignore[no-untyped-call]
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return value.detach()


@torch.no_grad()
def predict_logits(
    model: HeadModel, tokens: TokenSource, videos: Int, *, device: torch.device | None = None
) -> Float:
    """Logits of `videos` (int64 [M]) in the order given: float64 [M], computed in float32, eval mode.

    The model's mode and device are left as they were.
    """
    device = device or torch.device("cpu")
    was_training = model.training
    model.eval()
    logits = np.empty(len(videos), dtype=np.float64)
    for places in scoring_batches(tokens.lengths[torch.from_numpy(videos)], torch.arange(len(videos))):
        channels = [c.to(device) for c in tokens.batch(torch.from_numpy(videos)[places])]
        logits[places.numpy()] = model.logits(channels).double().cpu().numpy()
    model.train(was_training)
    return logits


def epoch_row(
    epoch: int,
    lr: float,
    train_loss: float,
    logits: Float,
    labels: npt.NDArray[np.int8],
    loss: HeadLoss,
    config: TrainConfig,
    negative_hours: float | None,
) -> EpochRow:
    if not np.isfinite(logits).all():
        raise HeadError(f"val scores are not finite in epoch {epoch}; lower --lr or scale the inputs")
    with torch.no_grad():
        device = loss.cross_entropy.pos_weight
        assert device is not None
        val_loss = loss(
            torch.from_numpy(logits).float().to(device.device),
            torch.from_numpy(labels.astype(np.float32)).to(device.device),
        )
    scores = probabilities(logits)
    choice = choose_threshold(labels, scores, config=config.threshold, negative_hours=negative_hours)
    return EpochRow(
        epoch=epoch,
        lr=lr,
        train_loss=train_loss,
        val_loss=float(val_loss),
        threshold=choice.threshold,
        precision=choice.precision,
        recall=choice.recall,
        f1=choice.f1,
        auroc=auroc(labels, logits),
        average_precision=average_precision(labels, logits),
        degenerate=choice.degenerate,
        best=False,
        seconds=0.0,
    )


def selection_score(row: EpochRow, selection: Selection) -> tuple[float, float]:
    """Higher is better; val loss breaks ties, and of equals the earlier epoch stays."""
    value = {
        "auroc": row.auroc,
        "average_precision": row.average_precision,
        "f1": row.f1,
        "loss": -row.val_loss,
    }[selection]
    return (float("-inf") if value is None else value, -row.val_loss)
