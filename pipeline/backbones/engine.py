"""A frozen forward pass made ready for its runtime: batched as measures best here, compiled where OpenVINO runs it.

Shapes: B batch, T frames, H W pixels, C channels, D feature width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch

from pipeline.backbones.base import (
    Batching,
    GpuEngine,
    Precision,
    device_name,
    exact_float32,
    memory_full,
)
from pipeline.backbones.calibrate import Run, Say, best_batching, candidates
from pipeline.backbones.graph import GraphedForward
from pipeline.backbones.runtime import Forward, OpenVinoModel, Runtime, run_side_by_side

Blank = Callable[[int], torch.Tensor]


class Engine:
    """Callable: prepared frames [B, T, H, W, C] on the device to float32 [B, D] there.

    forward: the same, in plain torch. blank: frames of zeros for a batch size. sizes: of batches, the default first.
    name: of model and input shape, for what was measured. weights_key: what tells one compiled model from another.
    batch_size: one that the user asked for; nothing is measured then. gpu_engine: on CUDA, whole batches as a recorded graph.
    OpenVINO takes whole batches of the batching's size only, and runs them beside the caller through `queue`.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor],
        blank: Blank,
        *,
        sizes: Sequence[int],
        device: torch.device,
        precision: Precision,
        runtime: Runtime,
        name: str,
        weights_key: str,
        calibrate: Say | None,
        batch_size: int | None = None,
        gpu_engine: GpuEngine = "graph",
    ) -> None:
        self._forward, self._blank = forward, blank
        self._precision, self._runtime, self._weights_key = precision, runtime, weights_key
        self.queue: OpenVinoModel | None = None
        self._graph: GraphedForward | None = None
        if batch_size is not None:
            self.batching = candidates([batch_size], runtime=runtime)[0]
        else:
            self.batching = best_batching(
                candidates(sizes, runtime=runtime),
                self._measured,
                key=f"{name} {precision} {runtime} {device_name(device)}",
                measure=calibrate,
            )
        if runtime == "openvino":
            self.queue = self._compile(self.batching)
        elif device.type == "cuda" and gpu_engine == "graph":
            self._graph = self._recorded(name, device)

    @torch.inference_mode()
    def __call__(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """Features of one batch, waited for."""
        if self.queue is not None:
            return self.queue(frames_BTHWC.numpy())
        if self._graph is not None and frames_BTHWC.shape == self._graph.shape:
            return self._graph(frames_BTHWC)
        with self._exactly():
            return self._forward(frames_BTHWC)

    def _exactly(self) -> contextlib.AbstractContextManager[None]:
        return exact_float32() if self._precision == "fp32" else contextlib.nullcontext()

    @torch.inference_mode()
    def _recorded(self, name: str, device: torch.device) -> GraphedForward:
        try:
            with torch.cuda.device(device), self._exactly():
                return GraphedForward(self._forward, self._blank(self.batching.batch_size))
        except torch.cuda.OutOfMemoryError as error:
            raise memory_full(name.split()[0], self.batching.batch_size) from error

    def feature_width(self) -> int:
        """D, found by a forward pass of zeros."""
        return int(self(self._blank(1 if self.queue is None else self.batching.batch_size)).shape[1])

    def _compile(self, batching: Batching) -> OpenVinoModel:
        return OpenVinoModel(
            lambda: Forward(self._forward),
            self._blank(batching.batch_size),
            precision=self._precision,
            key=self._weights_key,
            n_streams=batching.n_streams,
        )

    def _measured(self, batching: Batching) -> Run:
        frames = self._blank(batching.batch_size)
        if self._runtime == "openvino":
            return run_side_by_side(self._compile(batching), frames.numpy())
        return lambda: self(frames).cpu()
