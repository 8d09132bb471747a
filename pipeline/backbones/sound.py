"""What the decode workers measured of sound, as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones.base import Batching, library_versions
from pipeline.backbones.kind import Settled, identity
from pipeline.backbones.motion import NO_WEIGHTS
from pipeline.backbones.weights import WeightsRecord
from pipeline.decoding.logmel import TOKEN_WIDTH, patch_statistics


class LogMelBackbone:
    """Hands on what the workers measured; a `Backbone`."""

    queue = None
    dim = TOKEN_WIDTH

    def __init__(self, settled: Settled) -> None:
        self._settled = settled
        self.name, self.plan, self.note = settled.choice.name, settled.plan, settled.note
        self.batching = Batching(1)

    def embed(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """float32 [B, D], what the workers measured, in memory of its own."""
        return frames_BTHWC.clone()

    def embed_plainly(self, frames: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """One window of mono samples, measured here."""
        (samples,) = frames
        return patch_statistics(samples)

    def fingerprint(self) -> dict[str, Any]:
        """All that can change a number."""
        return {
            **identity(self._settled),
            "weights": WeightsRecord(NO_WEIGHTS, "").as_fields(),
            "preprocessing": dict(self._settled.preprocessing),
            "sampling": dict(self._settled.sampling),
            "feature": "log-mel bands: mean, standard deviation and mean absolute change; level, flatness, sign changes",
            "precision": "fp32",
            "runtime": "numpy",
            "libraries": library_versions("av", "numpy"),
        }
