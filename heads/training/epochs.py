"""One line of a training's history, what makes an epoch better than another, and what a training leaves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cache.errors import HeadError
from heads.models.model import TokenModel
from heads.scoring.calibration import probabilities
from heads.scoring.metrics import auroc, average_precision
from heads.scoring.thresholds import choose_threshold
from heads.training.config import Selection, TrainConfig
from heads.training.losses import HeadLoss

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One line of the history. train_loss is the mean over the epoch; everything else is on val.

    threshold, precision, recall and f1 are those of the best threshold of this epoch; precision is None when
    nothing is flagged. best: better in the selection metric than all epochs before. seconds: wall time; of
    heads that train together, each one's share.
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

    model: TokenModel
    history: tuple[EpochRow, ...]
    best_epoch: int
    pos_weight: float
    precision: str


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
    """The line of an epoch from its val logits, float64 [V]. Raises HeadError when they are not finite."""
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
    if selection == "last":
        return (row.epoch, 0.0)
    value = {
        "auroc": row.auroc,
        "average_precision": row.average_precision,
        "f1": row.f1,
        "loss": -row.val_loss,
    }[selection]
    return (float("-inf") if value is None else value, -row.val_loss)
