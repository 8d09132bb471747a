"""`slowfast`: pytorchvideo's slowfast_r50 and slowfast_r101 (8x8), one token a window of 32 frames at 15 a second (64/30 s).

Feature = the pooled, concatenated pathways before dropout and projection, averaged over space and time: 2048 slow + 256 fast.
Constants are those of pytorchvideo's model card and tutorial for SLOWFAST_8x8_R50: short side 256, centre crop 256, /255, mean
0.45, std 0.225, alpha 4. Shapes: B batch, T frames, H W pixels, C channels, D feature width.

The fast path folds BatchNorm into the convolutions, keeps channels last, and takes the two averages of the head (a sliding
7x7 mean, then a mean over its 2x2 positions) as one weighted mean in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.backbones.base import DTYPES, library_versions
from pipeline.backbones.engine import Engine
from pipeline.backbones.folding import fold_batchnorm
from pipeline.backbones.kind import Machine, Settled, identity
from pipeline.backbones.kinds.pytorchvideo import ALPHA, MEAN, N_FRAMES, SIZE, STD, ZOO, published_pixels
from pipeline.backbones.runtime import runtime_libraries
from pipeline.backbones.slowfast_planes import PlanesSlowFast
from pipeline.backbones.weights import WeightsRecord
from pipeline.decoding.frames import FIXED_POINT_SCALE, RgbFrame

CPU_BATCH, CUDA_BATCH = 1, 16
"""Windows a forward pass: on 2 cores batches of 2 are 13 % slower (docs/performance.md), on an H200 batches of 16 are 12 % faster

than of 8 (docs/gpu.md). `--batch` sets another.
"""
POOL = 7
"""Head pool of the published model (made for 224 pixels, an 8x8 map at 256 keeps 2x2 positions)."""


class SlowFastBackbone:
    """Frozen slowfast_r50 or slowfast_r101."""

    def __init__(self, settled: Settled, plain: Any, weights: WeightsRecord, machine: Machine) -> None:
        self._settled, self._plain, self._weights, self._machine = settled, plain, weights, machine
        self.name, self.plan = settled.choice.name, settled.plan
        self.note = settled.note
        device, precision, runtime = machine.device, machine.precision, machine.runtime
        self._dtype = DTYPES[precision]
        fast = fold(copy.deepcopy(plain))
        self._slow_index = slow_frame_index().to(device)
        self.dim = int(fast.blocks[6].proj.in_features)
        self._planes: PlanesSlowFast | None = None
        if runtime == "openvino":
            self._dtype = torch.float32  # the compiler lowers it
            self._blocks = fast.blocks[:5]
        elif device.type == "cuda":
            self._planes = PlanesSlowFast(fast.blocks[:5].to(device=device, dtype=self._dtype))
            self._shift = torch.tensor(-MEAN / STD, device=device)
        else:
            self._blocks = fast.blocks[:5].to(
                device=device, dtype=self._dtype, memory_format=torch.channels_last_3d
            )
        self._engine = Engine(
            self._forward,
            lambda n: torch.zeros(n, N_FRAMES, SIZE, SIZE, 3, dtype=torch.int16, device=device),
            batch_size=machine.batch_size or (CUDA_BATCH if device.type == "cuda" else CPU_BATCH),
            device=device,
            precision=precision,
            runtime=runtime,
            name=self.name,
            weights_key=f"slowfast {weights.digest}",
            gpu_engine=machine.gpu_engine,
        )
        self.batching, self.queue = self._engine.batching, self._engine.queue

    def embed(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """int16 [B, 32, 256, 256, 3], grey level * 128, to float32 [B, 2304]; OpenVINO takes whole batches only."""
        return self._engine(frames_BTHWC)

    def _forward(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        scale = 1 / (FIXED_POINT_SCALE * 255 * STD)
        if self._planes is not None:
            fast_BTHWC = torch.empty(frames_BTHWC.shape, dtype=self._dtype, device=frames_BTHWC.device)
            torch.add(self._shift, frames_BTHWC, alpha=scale, out=fast_BTHWC)
            maps = self._planes(fast_BTHWC[:, self._slow_index], fast_BTHWC)
            return torch.cat([_head_mean(x_BTHWC.permute(0, 4, 1, 2, 3)) for x_BTHWC in maps], dim=1)
        pixels = (frames_BTHWC.to(torch.float32) * scale - MEAN / STD).to(self._dtype)
        pixels_BCTHW = pixels.permute(0, 4, 1, 2, 3)  # channels-last in memory
        pathways = [pixels_BCTHW[:, :, self._slow_index], pixels_BCTHW]
        for block in self._blocks:
            pathways = block(pathways)
        return torch.cat([_head_mean(x_BCTHW) for x_BCTHW in pathways], dim=1)

    @torch.inference_mode()
    def embed_plainly(self, frames: Sequence[RgbFrame]) -> NDArray[np.float32]:
        """32 decoded frames through pytorchvideo's preprocessing in float32 and the published model with its own head pool."""
        video_BCTHW = published_pixels(frames, ZOO[self._settled.choice.model])
        pathways: Any = [video_BCTHW[:, :, slow_frame_index()], video_BCTHW]
        for block in self._plain.blocks[:6]:  # up to and with the pooled, concatenated pathways
            pathways = block(pathways)
        features: NDArray[np.float32] = pathways.mean((2, 3, 4))[0].numpy()
        return features

    def fingerprint(self) -> dict[str, Any]:
        """All that can change a feature."""
        runtime = self._machine.runtime
        return {
            **identity(self._settled),
            "weights": self._weights.as_fields(),
            "preprocessing": dict(self._settled.preprocessing),
            "sampling": dict(self._settled.sampling),
            "feature": "pooled pathways before projection, mean over space and time",
            "precision": self._machine.precision,
            "runtime": runtime,
            "libraries": library_versions(*runtime_libraries(runtime), "pytorchvideo", "opencv-python"),
        }


def slow_frame_index() -> torch.Tensor:
    """Frames of the slow pathway: every alpha-th, spread over the window as pytorchvideo's PackPathway does."""
    return torch.linspace(0, N_FRAMES - 1, N_FRAMES // ALPHA).long()


def fold(model: Any) -> Any:
    """Every BatchNorm3d folded into the convolution before it, in place. Raises AssertionError if one is left."""
    fast_BCTHW = torch.empty(1, 3, N_FRAMES, SIZE, SIZE, device="meta")
    fold_batchnorm(model, [fast_BCTHW[:, :, slow_frame_index().to("meta")], fast_BCTHW])
    assert not any(isinstance(module, nn.BatchNorm3d) for module in model.modules()), (
        "a BatchNorm3d was not folded"
    )
    return model


def _head_mean(x_BCTHW: torch.Tensor) -> torch.Tensor:
    """Mean over the positions of a sliding POOLxPOOL mean and over time, as one weighted mean: float32 [B, C]."""
    mean_BCHW = x_BCTHW.mean(dim=2, dtype=torch.float32)
    height, width = mean_BCHW.shape[2:]
    return torch.einsum(
        "bchw,h,w->bc", mean_BCHW, _pool_weights(height, x_BCTHW), _pool_weights(width, x_BCTHW)
    )


def _pool_weights(length: int, like: torch.Tensor) -> torch.Tensor:
    positions = length - POOL + 1
    counts = torch.zeros(length, dtype=torch.float32, device=like.device)
    for start in range(positions):
        counts[start : start + POOL] += 1
    return counts / (positions * POOL)
