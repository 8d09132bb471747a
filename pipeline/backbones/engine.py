"""A frozen forward pass made ready for its runtime: batched, compiled where OpenVINO runs it, recorded where CUDA does.

Shapes: B batch, T frames, H W pixels, C channels, D feature width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from cache.errors import DeviceError
from pipeline.backbones.base import Batching, GpuEngine, Precision, exact_float32, memory_full
from pipeline.backbones.compiled import compiled
from pipeline.backbones.graph import GraphedForward, NotRecorded
from pipeline.backbones.runtime import Forward, OpenVinoModel, Runtime

Blank = Callable[[int], torch.Tensor]
MOST_STREAMS = 8
"""Passes side by side at most: each holds a batch and a model's activations."""


def batching_for(batch_size: int, *, runtime: Runtime) -> Batching:
    """OpenVINO runs a pass a core, side by side (docs/performance.md says what that gains); torch one pass on all cores."""
    return Batching(batch_size, min(torch.get_num_threads(), MOST_STREAMS) if runtime == "openvino" else 1)


class Engine:
    """Callable: prepared frames [B, T, H, W, C] on the device to float32 [B, D] there.

    forward: the same, in plain torch. blank: frames of zeros for a batch size. name: of the stream, for messages.
    weights_key: what tells one compiled model from another. gpu_engine: on CUDA, whole batches as a recorded graph; a compiled
    pass is always recorded. What is recorded runs whole batches only: fewer windows are padded.
    OpenVINO takes whole batches of the batching's size only, and runs them beside the caller through `queue`.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor],
        blank: Blank,
        *,
        batch_size: int,
        device: torch.device,
        precision: Precision,
        runtime: Runtime,
        name: str,
        weights_key: str,
        gpu_engine: GpuEngine = "graph",
    ) -> None:
        self._forward, self._blank = forward, blank
        self._precision, self._device = precision, device
        self.queue: OpenVinoModel | None = None
        self._graph: GraphedForward | None = None
        self.batching = batching_for(batch_size, runtime=runtime)
        if runtime == "openvino":
            self.queue = OpenVinoModel(
                lambda: Forward(forward),
                blank(batch_size),
                precision=precision,
                key=weights_key,
                n_streams=self.batching.n_streams,
            )
        elif runtime == "compile" or (device.type == "cuda" and gpu_engine == "graph"):
            self._graph = self._recorded(name, device, compile_it=runtime == "compile")

    @torch.inference_mode()
    def __call__(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """Features of one batch, waited for."""
        if self.queue is not None:
            return self.queue(frames_BTHWC.numpy())
        if self._graph is not None:
            return torch.cat([self._whole(part) for part in torch.split(frames_BTHWC, self._graph.shape[0])])
        with self._surroundings():
            return self._forward(frames_BTHWC)

    def _whole(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """Of a whole batch or less."""
        assert self._graph is not None
        if frames_BTHWC.shape == self._graph.shape:
            return self._graph(frames_BTHWC)
        padded = self._blank(self._graph.shape[0])
        padded[: len(frames_BTHWC)] = frames_BTHWC
        return self._graph(padded)[: len(frames_BTHWC)]

    @contextlib.contextmanager
    def _surroundings(self) -> Iterator[None]:
        """float32 that is float32; and what a network makes of itself, such as positions, is made on the device: a copy from the

        host cannot be recorded.
        """
        with contextlib.ExitStack() as stack:
            if self._precision == "fp32":
                stack.enter_context(exact_float32())
            if self._device.type != "cpu":
                stack.enter_context(self._device)
            yield

    @torch.inference_mode()
    def _recorded(self, name: str, device: torch.device, *, compile_it: bool) -> GraphedForward:
        blank = self._blank(self.batching.batch_size)
        try:
            with torch.cuda.device(device), self._surroundings():
                forward = self._forward
                if compile_it:
                    forward = compiled(forward, blank, name=name, precision=self._precision)
                return GraphedForward(forward, blank)
        except torch.cuda.OutOfMemoryError as error:
            raise memory_full(name, self.batching.batch_size) from error
        except NotRecorded as error:
            raise DeviceError(
                f"{name} cannot be recorded with torch {torch.__version__} on {device} ({error}): use --gpu-engine eager, whose "
                "features have the same bits"
            ) from error

    def feature_width(self) -> int:
        """D, found by a forward pass of zeros."""
        return int(self(self._blank(1 if self.queue is None else self.batching.batch_size)).shape[1])
