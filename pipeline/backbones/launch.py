"""Forward passes on their way: one batch is started, the caller goes on, its features are fetched when they are there.

A launcher knows how many batches may be under way and what memory they are read from. On CUDA windows are copied straight to
the device and batches run on the backbone's own stream; OpenVINO runs one batch a stream on cores of its own; plain torch on
a CPU runs a batch before `launch` returns.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import DeviceError
from pipeline.backbones.base import Backbone, ForwardQueue, Pending, device_trouble, raise_failure

POLL_SECONDS = 0.005
DEVICE_DEADLINE_SECONDS = 120.0
"""No copy or forward pass takes this long; the first one, with its libraries' start, was seen at 5 s."""


class Launcher(Protocol):
    """How one backbone's batches get under way."""

    in_flight: int
    """Batches that may be under way at once."""

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory for one batch, zeroed; it must stay untouched while its batch is under way."""
        ...

    def fill(self, buffer: torch.Tensor, at: int, frames: NDArray[Any]) -> Callable[[], bool] | None:
        """Put windows into a buffer, from place `at` on. None: they were copied; else what says whether they were."""
        ...

    def launch(self, frames_BTHWC: torch.Tensor) -> Pending:
        """Start the forward pass of a full buffer."""
        ...


def make_launcher(backbone: Backbone, device: torch.device) -> Launcher:
    """The launcher for a backbone on its device."""
    if backbone.plan.reduce:
        return InlineLauncher(backbone)  # the worker did the work
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


class _HostMemory:
    """Batches that form in plain memory."""

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Plain memory."""
        return torch.zeros(shape, dtype=dtype)

    def fill(self, buffer: torch.Tensor, at: int, frames: NDArray[Any]) -> None:
        """Copied at once."""
        buffer.numpy()[at : at + len(frames)] = frames


class InlineLauncher(_HostMemory):
    """torch on the CPU, whose own threads take all cores."""

    in_flight = 1

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def launch(self, frames_BTHWC: torch.Tensor) -> Pending:
        """Run it now."""
        return Done(self._backbone.embed(frames_BTHWC).numpy())


class QueueLauncher(_HostMemory):
    """A backbone that runs beside the caller (`Backbone.queue`)."""

    def __init__(self, queue: ForwardQueue) -> None:
        self._queue = queue
        self.in_flight = queue.n_streams

    def launch(self, frames_BTHWC: torch.Tensor) -> Pending:
        """Hand it to a free stream."""
        return self._queue.start(frames_BTHWC.numpy())


class CudaLauncher:
    """Windows go from where the workers left them straight into a batch on the device, copies beside forward passes.

    Two CUDA streams a backbone, one for copies and one for passes, kept for the process, since the allocator keeps memory by
    stream. Device memory stays flat: three batches a backbone live there, one filling and two under way.
    """

    in_flight = 2

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self._backbone, self.device = backbone, device
        self._copies, self._passes = _streams(device, backbone.name)
        self._copied: Any = None
        self._latest_end = 0.0
        for stream in (self._copies, self._passes):
            stream.wait_stream(torch.cuda.default_stream(device))  # weights move there

    def _trouble(self) -> contextlib.AbstractContextManager[None]:
        return device_trouble(self.device, self._backbone.name, self._backbone.batching.batch_size)

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Device memory."""
        with self._trouble(), torch.cuda.stream(self._copies):
            return torch.zeros(shape, dtype=dtype, device=self.device)

    def fill(self, buffer: torch.Tensor, at: int, frames: NDArray[Any]) -> Callable[[], bool]:
        """Queue the copy; the answer says whether it is done."""
        with self._trouble(), torch.cuda.stream(self._copies):
            buffer[at : at + len(frames)].copy_(torch.from_numpy(frames), non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(self._copies)
        return _Copied(self._copied, self.device)

    def launch(self, frames_BTHWC: torch.Tensor) -> Pending:
        """Queue the forward pass behind its copies, and the copy back."""
        with self._trouble(), torch.cuda.stream(self._passes):
            if self._copied is not None:
                self._passes.wait_event(self._copied)
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            began.record(self._passes)
            features = self._backbone.embed(frames_BTHWC)
            host = torch.empty(features.shape, dtype=torch.float32, pin_memory=True)
            host.copy_(features, non_blocking=True)
            ended.record(self._passes)
        return _OnDevice(self, host, began, ended)

    def end_of(self, launched_seconds: float, pass_seconds: float) -> float:
        """When a pass ended, by the device's own measure of it: the host notices late while it waits for frames."""
        self._latest_end = min(time.perf_counter(), max(launched_seconds, self._latest_end) + pass_seconds)
        return self._latest_end


_STREAMS: dict[tuple[str, str], tuple[Any, Any]] = {}


def _streams(device: torch.device, name: str) -> tuple[Any, Any]:
    key = (str(device), name)
    if key not in _STREAMS:
        _STREAMS[key] = (torch.cuda.Stream(device), torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
    return _STREAMS[key]


class _Waiting:
    """Something the device has yet to do, and since when. Raises DeviceError once it takes too long."""

    def __init__(self, event: Any, device: torch.device) -> None:
        self._event, self._device, self._since = event, device, time.perf_counter()

    def done(self) -> bool:
        try:
            if self._event.query():
                return True
        except RuntimeError as error:
            raise_failure(self._device, error)
            raise
        if time.perf_counter() - self._since > DEVICE_DEADLINE_SECONDS:
            raise DeviceError(
                f"the device {self._device} gave no answer for {DEVICE_DEADLINE_SECONDS:.0f} s: see whether nvidia-smi answers "
                "and what the kernel says (dmesg | grep -i xid), then run the same command again"
            )
        return False


class _Copied(_Waiting):
    def __call__(self) -> bool:
        return self.done()


class _OnDevice:
    def __init__(self, launcher: CudaLauncher, host: torch.Tensor, began: Any, ended: Any) -> None:
        self._launcher, self._host = launcher, host
        self._began, self._ended = began, ended
        self._launched_seconds = time.perf_counter()
        self._waiting = _Waiting(ended, launcher.device)
        self.ended_seconds = 0.0

    def poll(self, timeout_seconds: float = 0.0) -> bool:
        done = self._waiting.done()
        if not done and timeout_seconds > 0:
            time.sleep(min(timeout_seconds, 0.0005))
            done = self._waiting.done()
        if done and not self.ended_seconds:
            seconds = self._began.elapsed_time(self._ended) / 1000
            self.ended_seconds = self._launcher.end_of(self._launched_seconds, seconds)
        return done

    def features(self) -> NDArray[np.float32]:
        while not self.poll(POLL_SECONDS):
            pass
        found: NDArray[np.float32] = self._host.numpy()
        return found


PORTABLE = 1
"""cudaHostRegisterPortable: pinned for every device of the process."""


def pin_memory(view: Any, device: torch.device) -> Callable[[], None] | None:
    """Make a block of host memory (a memoryview) one that a CUDA device copies from without the processor.

    The answer undoes it. None: the driver refuses; copies still work, slower, through memory of the driver's own. device: one of
    those that copy; asked on another, CUDA would take memory there too.
    """
    address = np.frombuffer(view, dtype=np.uint8).ctypes.data
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    with torch.cuda.device(device):
        if int(runtime.cudaHostRegister(address, view.nbytes, PORTABLE)) != 0:
            with contextlib.suppress(RuntimeError):
                torch.ones(
                    1, device=device
                )  # a kernel: CUDA keeps the refusal, and the next one is blamed for it
            return None

    def unpin() -> None:
        with torch.cuda.device(device):
            runtime.cudaHostUnregister(address)

    return unpin
