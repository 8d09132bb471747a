"""What the decode workers measured, as a stream: no network, no weights, nothing to load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones.base import Batching, library_versions
from pipeline.backbones.kind import Settled, identity
from pipeline.backbones.weights import WeightsRecord

NO_WEIGHTS = "none"


class MeasuredBackbone:
    """Hands on what the workers measured; a `Backbone`.

    plainly: one window (decoded frames, or one array of samples) to features float32 [D]. feature, runtime, libraries: for the
    fingerprint, in words, what computes, and whose versions can change a number.
    """

    queue = None

    def __init__(
        self,
        settled: Settled,
        plainly: Callable[[Sequence[Any]], NDArray[np.float32]],
        *,
        feature: str,
        runtime: str,
        libraries: Sequence[str],
    ) -> None:
        self._settled, self._plainly = settled, plainly
        self._feature, self._runtime, self._libraries = feature, runtime, tuple(libraries)
        self.name, self.plan, self.note = settled.choice.name, settled.plan, settled.note
        self.dim = settled.plan.reduced_width
        self.batching = Batching(1)

    def embed(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """float32 [B, D], what the workers measured, in memory of its own."""
        return frames_BTHWC.clone()

    def embed_plainly(self, frames: Sequence[Any]) -> NDArray[np.float32]:
        """One window, measured here."""
        return self._plainly(frames)

    def fingerprint(self) -> dict[str, Any]:
        """All that can change a number."""
        return {
            **identity(self._settled),
            "weights": WeightsRecord(NO_WEIGHTS, "").as_fields(),
            "preprocessing": dict(self._settled.preprocessing),
            "sampling": dict(self._settled.sampling),
            "feature": self._feature,
            "precision": "fp32",
            "runtime": self._runtime,
            "libraries": library_versions(*self._libraries),
        }
