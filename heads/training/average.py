"""Averaged weights: an exponential moving average whose decay warms up."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class AveragedWeights:
    """Exponential moving average of a model's parameters (Polyak and Juditsky 1992; the warm-up is TensorFlow's
    `ExponentialMovingAverage` with `num_updates`: decay min(decay, (1 + n) / (10 + n)) at update n).

    decay: (0, 1). `update` after every optimiser step; `model` is a model of its own with the averaged parameters. Buffers
    are the followed model's at the time `model` is read.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._followed, self._decay = model, decay
        self._model = deepcopy(model).requires_grad_(False)
        self._new = [p.detach() for p in model.parameters()]
        self._old: list[Tensor] = list(self._model.parameters())
        self._n_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now; the first time they are the average."""
        n = self._n_updates
        weight = 1.0 if n == 0 else 1 - min(self._decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(self._old, self._new, weight)
        self._n_updates += 1

    @property
    def model(self) -> nn.Module:
        """The model with averaged parameters."""
        with torch.no_grad():
            for own, other in zip(self._model.buffers(), self._followed.buffers(), strict=True):
                own.copy_(other)
        return self._model
