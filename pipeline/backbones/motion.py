"""What the decode workers measured, as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones.base import Batching, library_versions
from pipeline.backbones.kind import Settled, identity
from pipeline.backbones.weights import WeightsRecord
from pipeline.decoding.frames import Luma, RgbFrame, prepare_frame
from pipeline.decoding.motion import TOKEN_WIDTH, motion_statistics

NO_WEIGHTS = "none"


class MotionBackbone:
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

    def embed_plainly(self, frames: Sequence[RgbFrame | Luma]) -> NDArray[np.float32]:
        """Six decoded frames, prepared and measured here."""
        return motion_statistics([prepare_frame(frame, self.plan.frames) for frame in frames])

    def fingerprint(self) -> dict[str, Any]:
        """All that can change a number."""
        return {
            **identity(self._settled),
            "weights": WeightsRecord(NO_WEIGHTS, "").as_fields(),
            "preprocessing": dict(self._settled.preprocessing),
            "sampling": dict(self._settled.sampling),
            "feature": "mean and maximum over pairs of statistics of differences and dense flow, logarithms",
            "precision": "fp32",
            "runtime": "opencv",
            "libraries": library_versions("opencv-python"),
        }
