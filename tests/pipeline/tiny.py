"""Backbones small enough to run thousands of tokens in a test: a fixed random projection of the prepared frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones.base import Batching
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import RgbFrame, prepare_frame
from tests.pipeline.fakes import PLANS


class TinyBackbone:
    """tanh of an affine function of the mean frame of the window; the matrix follows from the seed."""

    def __init__(self, plan: StreamPlan, *, dim: int = 8, batch_size: int = 4, seed: int = 0) -> None:
        self.name = plan.name
        self.plan = plan
        self.dim = dim
        self.batch_size = batch_size
        self.queue = None
        self.note = ""
        self.batching = Batching(batch_size)
        self.seed = seed
        self.batches: list[int] = []
        side = plan.frames.size
        generator = torch.Generator().manual_seed(seed)
        self._matrix = torch.randn(side * side * 3, dim, generator=generator) / side

    @property
    def scale(self) -> float:
        return 255.0 if self.plan.frames.recipe == "pil-bicubic" else 255.0 * 128

    def fingerprint(self) -> dict[str, Any]:
        return {
            "stream": self.name,
            "model": f"tiny-{self.dim}",
            "weights": {"tag": "random", "seed": self.seed, "digest": f"sha256:{self.seed:064x}"},
            "sampling": dataclasses.asdict(self.plan.sampling),
            "precision": "fp32",
            "runtime": "torch",
            "libraries": {"torch": "2"},
        }

    def embed(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        assert frames_BTHWC.shape == (self.batch_size, self.plan.sampling.window, *self.plan.frames.shape)
        self.batches.append(len(frames_BTHWC))
        mean_BP = (frames_BTHWC.float() / self.scale).mean(1).flatten(1)
        return torch.tanh(mean_BP @ self._matrix + self._matrix[0])

    def embed_plainly(self, frames: Sequence[RgbFrame]) -> NDArray[np.float32]:
        prepared = np.stack([prepare_frame(frame, self.plan.frames) for frame in frames])
        mean_P = (torch.from_numpy(prepared).float() / self.scale).mean(0).flatten()
        return torch.tanh(mean_P @ self._matrix + self._matrix[0]).numpy()


def tiny_backbones(*names: str, **changes: Any) -> dict[str, TinyBackbone]:
    """By stream name, for the plans of `fakes.PLANS`; all of them where none is named."""
    return {
        plan.name: TinyBackbone(replace(plan), **changes) for plan in PLANS if not names or plan.name in names
    }
