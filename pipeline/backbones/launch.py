"""Forward passes on their way: one batch is started, the caller goes on, its features are fetched when they are there.

A launcher knows how many batches may be under way and what memory they are read from. On CUDA a batch leaves through pinned
memory on the backbone's own stream; OpenVINO runs one batch a stream on cores of its own; plain torch on a CPU runs a batch
before `launch` returns.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones.base import Backbone, ForwardQueue, Pending


class Launcher(Protocol):
    """How one backbone's batches get under way."""

    in_flight: int
    """Batches that may be under way at once."""

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Host memory for one batch, zeroed; it must stay untouched while its batch is under way."""
        ...

    def launch(self, frames_BTHWC: torch.Tensor) -> Pending:
        """Start the forward pass of a full buffer."""
        ...


def make_launcher(backbone: Backbone, device: torch.device) -> Launcher:
    """The launcher for a backbone on its device."""
    if device.type == "cuda":
        return CudaLauncher(backbone, device)
    return QueueLauncher(backbone.queue) if backbone.queue is not None else InlineLauncher(backbone)


class Done:
    """A batch that was finished when it was launched."""

    def __init__(self, features: NDArray[np.float32]) -> None:
        self._features = features

    def poll(self, timeout_seconds: float = 0.0) -> bool:
        """True."""
        return True

    def features(self) -> NDArray[np.float32]:
        """float32 [B, D]."""
        return self._features

    @property
    def ended_seconds(self) -> float:
        """Now: nothing ran after the launch."""
        return time.perf_counter()


class InlineLauncher:
    """torch on the CPU, whose own threads take all cores."""

    in_flight = 1

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Plain memory."""
        return torch.zeros(shape, dtype=dtype)

    def launch(self, frames_BTHWC: torch.Tensor) -> Pending:
        """Run it now."""
        return Done(self._backbone.embed(frames_BTHWC).numpy())


class QueueLauncher:
    """A backbone that runs beside the caller (`Backbone.queue`)."""

    def __init__(self, queue: ForwardQueue) -> None:
        self._queue = queue
        self.in_flight = queue.n_streams

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Plain memory."""
        return torch.zeros(shape, dtype=dtype)

    def launch(self, frames_BTHWC: torch.Tensor) -> Pending:
        """Hand it to a free stream."""
        return self._queue.start(frames_BTHWC.numpy())


class CudaLauncher:
    """Pinned buffers and a CUDA stream a backbone. Device memory stays flat: nothing but the batches under way lives there."""

    in_flight = 2

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self._backbone, self._device = backbone, device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Pinned memory, which the device copies from without the processor."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def launch(self, frames_BTHWC: torch.Tensor) -> Pending:
        """Queue copy, forward pass and the copy back on the stream."""
        with torch.cuda.stream(self._stream):
            frames = frames_BTHWC.to(self._device, non_blocking=True)
            features = self._backbone.embed(frames)
            host = torch.empty(features.shape, dtype=torch.float32, pin_memory=True)
            host.copy_(features, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return _OnDevice(host, event)


class _OnDevice:
    def __init__(self, host: torch.Tensor, event: Any) -> None:
        self._host, self._event = host, event
        self.ended_seconds = 0.0

    def poll(self, timeout_seconds: float = 0.0) -> bool:
        if not self._event.query() and timeout_seconds > 0:
            time.sleep(min(timeout_seconds, 0.0005))
        done = bool(self._event.query())
        if done and not self.ended_seconds:
            self.ended_seconds = time.perf_counter()
        return done

    def features(self) -> NDArray[np.float32]:
        self._event.synchronize()
        self.ended_seconds = self.ended_seconds or time.perf_counter()
        found: NDArray[np.float32] = self._host.numpy()
        return found
