"""A frozen network as a stream: whatever its library, the same way from prepared frames to features, batched and compiled.

A kind gives the network itself, its constants, and how its library runs it plainly; what is here makes it fast and says how it
was made. Shapes: B batch, T frames, H W pixels, C channels, D feature width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones.base import DTYPES, library_versions
from pipeline.backbones.engine import Engine
from pipeline.backbones.kind import Machine, Settled, identity
from pipeline.backbones.runtime import runtime_libraries
from pipeline.backbones.weights import WeightsRecord
from pipeline.decoding.frames import RgbFrame

Layout = Literal["BCHW", "BCTHW", "BTCHW", "prepared"]
"""Of pixels; `prepared`: the module takes what the decode workers hand over, float32, as it is."""
FRAME_BATCH, WINDOW_BATCH = (16, 128), (1, 8)
"""Frames and windows a forward pass, on a CPU and on CUDA; `--batch` sets another."""


@dataclass(frozen=True, slots=True)
class Network:
    """A frozen network, float32, eval mode, on the CPU.

    module: pixels (normalised with `mean` and `std` of values 0 to 1) in `layout` to features [B, D]. plainly: one window of
    decoded frames through the library's own preprocessing to features [D]. feature: what is taken, in words. libraries: whose
    versions can change it. fields: what else the fingerprint holds. faster: changes a copy of the module without changing what
    it computes beyond rounding. batch: windows a pass, on a CPU and on CUDA.
    """

    module: torch.nn.Module
    plainly: Callable[[Sequence[RgbFrame]], torch.Tensor]
    weights: WeightsRecord
    layout: Layout
    mean: tuple[float, ...]
    std: tuple[float, ...]
    feature: str
    libraries: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    faster: Callable[[torch.nn.Module], torch.nn.Module] = lambda module: module
    batch: tuple[int, int] | None = None


class NetworkBackbone:
    """A `Backbone` made of a `Network`."""

    def __init__(self, settled: Settled, network: Network, machine: Machine) -> None:
        self._settled, self._network, self._machine = settled, network, machine
        choice = settled.choice
        self.name, self.plan = choice.name, settled.plan
        self.note = settled.note
        device = machine.device
        std = torch.tensor(network.std, dtype=torch.float32, device=device)
        mean = torch.tensor(network.mean, dtype=torch.float32, device=device)
        self._scale, self._shift = 1 / (255 * self.plan.frames.levels * std), -mean / std
        module = network.faster(copy.deepcopy(network.module))
        if machine.runtime == "openvino":
            self._dtype = torch.float32  # the compiler lowers it
            self._module = module
        else:
            self._dtype = DTYPES[machine.precision]
            ranks = {parameter.dim() for parameter in module.parameters()} & {4, 5}
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            memory = formats[ranks.pop()] if len(ranks) == 1 else torch.preserve_format
            self._module = module.to(device, self._dtype).to(memory_format=memory)
            if device.type != "cpu":
                _bring_along(self._module, device)
            if device.type == "cpu" and self._dtype != torch.float32:
                _pool_in_float32(self._module)
        shape, blank_dtype = self.plan.token_shape, torch.from_numpy(np.empty(0, self.plan.token_dtype)).dtype
        batch = network.batch or (WINDOW_BATCH if self.plan.sampling.window > 1 else FRAME_BATCH)
        self._engine = Engine(
            self._forward,
            lambda n: torch.zeros(n, *shape, dtype=blank_dtype, device=device),
            batch_size=machine.batch_size or batch[device.type == "cuda"],
            device=device,
            precision=machine.precision,
            runtime=machine.runtime,
            name=choice.name,
            weights_key=f"{choice.kind}:{choice.model} {network.weights.digest} {network.fields} {settled.preprocessing}",
            gpu_engine=machine.gpu_engine,
        )
        self.batching, self.queue = self._engine.batching, self._engine.queue
        self.dim = self._engine.feature_width()

    def embed(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """Prepared frames [B, T, H, W, C] to float32 [B, D]; OpenVINO takes whole batches of the batching's size only."""
        return self._engine(frames_BTHWC)

    def _forward(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        layout = self._network.layout
        if layout == "prepared":
            heard: torch.Tensor = self._module(frames_BTHWC)
            return heard.to(torch.float32)
        frames = frames_BTHWC[:, 0] if layout == "BCHW" else frames_BTHWC
        pixels = (frames.to(torch.float32) * self._scale + self._shift).to(self._dtype)
        order = {"BCHW": (0, 3, 1, 2), "BCTHW": (0, 4, 1, 2, 3), "BTCHW": (0, 1, 4, 2, 3)}[layout]
        features: torch.Tensor = self._module(pixels.permute(order))  # channels-last in memory
        return features.to(torch.float32)

    @torch.inference_mode()
    def embed_plainly(self, frames: Sequence[RgbFrame]) -> NDArray[np.float32]:
        """One window of decoded frames through the library's own preprocessing and the float32 network."""
        features: NDArray[np.float32] = self._network.plainly(frames).float().numpy()
        return features

    def fingerprint(self) -> dict[str, Any]:
        """All that can change a feature."""
        settled, network, machine = self._settled, self._network, self._machine
        libraries = (*runtime_libraries(machine.runtime), *network.libraries)
        return {
            **identity(settled),
            "weights": network.weights.as_fields(),
            **network.fields,
            "preprocessing": dict(settled.preprocessing),
            "sampling": dict(settled.sampling),
            "feature": network.feature,
            "precision": machine.precision,
            "runtime": machine.runtime,
            "libraries": library_versions(*libraries),
        }


def _bring_along(module: torch.nn.Module, device: torch.device) -> None:
    """In place: tensors that are neither parameters nor buffers, which `Module.to` leaves on the host (VideoMAE's positions)."""
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, torch.Tensor):
                setattr(part, name, value.to(device))


class _Float32Pool(torch.nn.Module):
    """A pool that computes in float32 whatever it is given."""

    def __init__(self, pool: torch.nn.Module) -> None:
        super().__init__()
        self._pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self._pool(x.to(torch.float32))
        return pooled.to(x.dtype)


def _pool_in_float32(module: torch.nn.Module) -> None:
    """In place: torch has no avg_pool3d for bfloat16 on a CPU."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.AvgPool3d):
                setattr(parent, name, _Float32Pool(child))
