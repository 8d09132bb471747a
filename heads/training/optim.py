"""How a head is trained: learning rate over time, clipping, precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cache.errors import InputError

Precision = Literal["auto", "fp32", "bf16"]
CLIP_EPS = 1e-6
"""Added to the norm, as `torch.nn.utils.clip_grad_norm_` does."""


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """AdamW and what surrounds it.

    epochs: passes over train, [1, 10,000]. batch_size: [2, 65,536] videos. lr: the highest rate, (0, 1].
    weight_decay: of matrices, [0, 1]. schedule: cosine to 0 or constant, after a warm-up. warmup_share: of
    all steps, those of a rising rate, [0, 0.5]. clip_norm: gradient norm is clipped to it; None is off.
    ema_decay: (0, 1), averaged weights are scored and kept, with a warm-up of the decay; None is off.
    patience: epochs without a better selection metric on val before stopping; None is off. sampler: shuffle,
    or balanced (both classes equally likely, with replacement). precision: of training's matrix products,
    auto is fp32; scoring is always float32. Raises InputError for values out of range.
    """

    epochs: int = 40
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_share: float = 0.1
    clip_norm: float | None = 1.0
    ema_decay: float | None = 0.98
    patience: int | None = 15
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.epochs <= 10_000:
            raise InputError(f"epochs must be between 1 and 10,000, got {self.epochs}")
        if not 2 <= self.batch_size <= 65_536:
            raise InputError(
                f"batch_size must be between 2 and 65,536 (BatchNorm needs two), got {self.batch_size}"
            )
        if not 0.0 < self.lr <= 1.0:
            raise InputError(f"lr must be above 0 and at most 1, got {self.lr}")
        if not 0.0 <= self.weight_decay <= 1.0:
            raise InputError(f"weight_decay must be in [0, 1], got {self.weight_decay}")
        if self.schedule not in ("cosine", "constant"):
            raise InputError(f"schedule must be cosine or constant, got '{self.schedule}'")
        if not 0.0 <= self.warmup_share <= 0.5:
            raise InputError(f"warmup_share must be in [0, 0.5], got {self.warmup_share}")
        if self.clip_norm is not None and not 0.0 < self.clip_norm < float("inf"):
            raise InputError(f"clip_norm must be above 0, or off, got {self.clip_norm}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise InputError(f"ema_decay must be between 0 and 1, or off, got {self.ema_decay}")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience must be 1 or more, or off, got {self.patience}")
        if self.sampler not in ("shuffle", "balanced"):
            raise InputError(f"sampler must be shuffle or balanced, got '{self.sampler}'")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise InputError(f"precision must be auto, fp32 or bf16, got '{self.precision}'")


def lr_factor(step: int, *, n_steps: int, config: OptimConfig) -> float:
    """Share of the learning rate at `step` (0 to n_steps - 1): linear warm-up, then cosine or constant."""
    warmup = round(n_steps * config.warmup_share)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """All parameters of one head as optimiser groups; weight decay on matrices only, not on biases, norms and
    embeddings of one row.
    """
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "lr": config.lr, "weight_decay": config.weight_decay},
        {"params": others, "lr": config.lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def clip_divisor(parameters: Sequence[Tensor], clip_norm: float) -> Tensor:
    """What gradients are divided by so that their joint norm is at most `clip_norm`: a scalar, 1 or more.

    `torch.nn.utils.clip_grad_norm_` multiplies by the inverse of this in a pass of its own over all gradients; here the
    optimiser's kernel divides while it reads them.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    divisor: Tensor = ((norm + CLIP_EPS) / clip_norm).clamp_(min=1.0)
    return divisor
