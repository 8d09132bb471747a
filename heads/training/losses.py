"""Losses over logits, and what they do about imbalance.

Shape legend: B videos.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cache.errors import InputError

LossKind = Literal["bce", "focal"]


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Binary cross-entropy or focal loss.

    kind: bce or focal. pos_weight: "auto" is negatives / positives of the training videos (for bce; off for focal, whose alpha
    does this), "off" is 1, or a number in (0, 10,000]. focal_alpha: weight of positives in (0, 1), negatives
    get 1 - alpha; None is off. focal_gamma: how far easy videos count less, [0, 10]; 0.25 and 2.0 are of Lin et al. 2017.
    label_smoothing: [0, 0.5); targets become y (1 - s) + s / 2. Raises InputError for values out of range.
    """

    kind: LossKind = "bce"
    pos_weight: float | Literal["auto", "off"] = "auto"
    focal_alpha: float | None = 0.25
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("bce", "focal"):
            raise InputError(f"loss must be bce or focal, got '{self.kind}'")
        if isinstance(self.pos_weight, str):
            if self.pos_weight not in ("auto", "off"):
                raise InputError(f"pos_weight must be auto, off or a number, got '{self.pos_weight}'")
        elif not 0.0 < self.pos_weight <= 10_000.0:
            raise InputError(f"pos_weight must be above 0 and at most 10,000, got {self.pos_weight}")
        if self.focal_alpha is not None and not 0.0 < self.focal_alpha < 1.0:
            raise InputError(f"focal_alpha must be between 0 and 1, or off, got {self.focal_alpha}")
        if not 0.0 <= self.focal_gamma <= 10.0:
            raise InputError(f"focal_gamma must be in [0, 10], got {self.focal_gamma}")
        if not 0.0 <= self.label_smoothing < 0.5:
            raise InputError(f"label_smoothing must be in [0, 0.5), got {self.label_smoothing}")


def positive_weight(
    config: LossConfig, *, n_negative: int, n_positive: int, balanced_batches: bool = False
) -> float:
    """The weight of positives: for auto, n_negative / n_positive (893 and 2,393 give 0.3732).

    A balanced sampler already shows both classes equally, so auto is 1 there. Raises InputError for
    auto with a single class.
    """
    if not isinstance(config.pos_weight, str):
        return float(config.pos_weight)
    if config.pos_weight == "off" or config.kind == "focal" or balanced_batches:
        return 1.0
    if n_positive < 1 or n_negative < 1:
        raise InputError(f"pos_weight auto needs both classes; train has {n_negative} against {n_positive}")
    return n_negative / n_positive


class HeadLoss(nn.Module):
    """Mean loss of a batch; `per_video` gives it before the mean. pos_weight: finite and positive."""

    def __init__(self, config: LossConfig, *, pos_weight: float) -> None:
        super().__init__()
        if not (math.isfinite(pos_weight) and pos_weight > 0):
            raise InputError(f"pos_weight must be finite and positive, got {pos_weight}")
        self.config = config
        self.cross_entropy = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(pos_weight), reduction="none")

    def per_video(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """float32 [B]. labels_B: 0.0 or 1.0."""
        config = self.config
        targets_B = labels_B * (1 - config.label_smoothing) + config.label_smoothing / 2
        loss_B: Tensor = self.cross_entropy(logits_B, targets_B)
        if config.kind == "focal":
            probability_B = logits_B.sigmoid()
            true_class_B = probability_B * labels_B + (1 - probability_B) * (1 - labels_B)
            loss_B = loss_B * (1 - true_class_B) ** config.focal_gamma
            if config.focal_alpha is not None:
                loss_B = loss_B * (config.focal_alpha * labels_B + (1 - config.focal_alpha) * (1 - labels_B))
        return loss_B

    def forward(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """Scalar."""
        return self.per_video(logits_B, labels_B).mean()


def balanced_sample(labels: Tensor, *, generator: torch.Generator) -> Tensor:
    """As many draws with replacement as there are videos, both classes equally likely: int64 [M] into
    `labels` [M].
    """
    counts = torch.bincount(labels.long(), minlength=2).clamp(min=1)
    return torch.multinomial(1.0 / counts[labels.long()].double(), len(labels), True, generator=generator)
