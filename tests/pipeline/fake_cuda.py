"""A CUDA device that is none: every tensor lives in plain memory, and work is done only once somebody has waited long enough.

`fake_cuda(monkeypatch)` puts stand-ins in the place of torch's streams and events and maps the device "cuda" to the CPU, so
that launcher, runner, pool and flow take their CUDA path. An event's `query` says no a few times; a copy happens when its
event has said yes or when a pass waits for it, and not before: frames that are changed or given back too early show in the
features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda")
CPU = torch.device("cpu")


@dataclass
class FakeDevice:
    """What was asked of the device. slow: queries that an event answers with no. budget_bytes: memory there is. pins: blocks of

    host memory that it can read by itself.
    """

    slow: int = 3
    budget_bytes: int = 1 << 40
    pins: int = 1 << 40
    last_error: str = ""
    """Of a call that failed: the next work is blamed for it, once."""
    streams: list[FakeStream] = field(default_factory=list)
    current: FakeStream | None = None
    registered: set[int] = field(default_factory=set)
    ever_registered: int = 0
    hangs: bool = False
    hanging: set[str] = field(default_factory=set)
    """Of several, those that do not answer."""


@dataclass(eq=False)
class FakeStream:
    """Work in order."""

    device: FakeDevice
    on: str = ""
    queue: list[Callable[[], None] | FakeEvent] = field(default_factory=list)

    def wait_stream(self, other: FakeStream) -> None:
        other.run()

    def wait_event(self, event: FakeEvent) -> None:
        event.force()

    def run(self, until: FakeEvent | None = None) -> None:
        while self.queue:
            item = self.queue.pop(0)
            if isinstance(item, FakeEvent):
                item.done = True
                if item is until:
                    return
            else:
                item()


class FakeEvent:
    """Done after `device.slow` queries, when all that was queued before it is done too."""

    def __init__(self, device: FakeDevice) -> None:
        self._device, self._queries, self._stream = device, 0, FakeStream(device)
        self.done = False

    def record(self, stream: FakeStream) -> None:
        self._stream = stream
        stream.queue.append(self)

    def force(self) -> None:
        if not self.done:
            self._stream.run(until=self)

    def query(self) -> bool:
        self._queries += 1
        hangs = self._device.hangs or self._stream.on in self._device.hanging
        if not self.done and not hangs and self._queries > self._device.slow:
            self.force()
        return self.done

    def elapsed_time(self, _later: FakeEvent) -> float:
        return 0.5


class _AsCpu(TorchFunctionMode):
    """Tensors asked for on "cuda" are made in plain memory; copies that need not be waited for are queued."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        on_device = "device" in kwargs and torch.device(kwargs["device"]).type == "cuda"
        if on_device:
            kwargs["device"] = CPU
            if said := self._device.last_error:
                self._device.last_error = ""
                raise RuntimeError(f"CUDA error: {said}")
        kwargs.pop("pin_memory", None)
        if function is torch.Tensor.copy_ and kwargs.pop("non_blocking", False):
            target, source = args
            assert self._device.current is not None, "a copy that nobody waits for, on no stream"
            self._device.current.queue.append(lambda: target.copy_(source))
            return target
        made = function(*args, **kwargs)
        if on_device and isinstance(made, torch.Tensor):
            self._device.budget_bytes -= made.nbytes
            if self._device.budget_bytes < 0:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory (a stand-in)")
        return made


class _Cudart:
    def __init__(self, device: FakeDevice) -> None:
        self._device = device

    def cudaHostRegister(self, address: int, _bytes: int, _flags: int) -> int:
        assert address not in self._device.registered, "the same memory was pinned twice"
        if self._device.ever_registered >= self._device.pins:
            self._device.last_error = "operation not supported"
            return 801
        self._device.registered.add(address)
        self._device.ever_registered += 1
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        self._device.registered.remove(address)
        return 0


@contextlib.contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[FakeDevice]:
    """A device with these settings, for the code that runs inside."""
    from pipeline.backbones import launch

    device = FakeDevice(**settings)

    def new_stream(*on: Any) -> FakeStream:
        device.streams.append(FakeStream(device, str(on[0]) if on else ""))
        return device.streams[-1]

    @contextlib.contextmanager
    def on(stream: FakeStream) -> Iterator[None]:
        before, device.current = device.current, stream
        try:
            yield
        finally:
            device.current = before

    default = FakeStream(device)
    monkeypatch.setattr(torch.cuda, "Stream", new_stream)
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: FakeEvent(device))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda *_: default)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: _Cudart(device))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a stand-in")
    monkeypatch.setattr(launch, "_STREAMS", {})
    with _AsCpu(device):
        yield device
