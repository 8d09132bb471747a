"""A CUDA device that is none: every tensor lives in plain memory, and work is done only once somebody has waited long enough.

`fake_cuda(monkeypatch)` puts stand-ins in the place of torch's streams and events and maps the device "cuda" to the CPU, so
that launcher, runner, pool and flow take their CUDA path. An event's `query` says no a few times; a copy happens when its
event has said yes or when a pass waits for it, and not before: frames that are changed or given back too early show in the
features. A graph records what is done on a stream of its device, and nothing else; what one stream multiplies shares a workspace.
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


@dataclass(eq=False)
class Workspace:
    """What products on one stream write meanwhile. of_graph: made while a graph recorded, so in memory that the graph keeps."""

    of_graph: bool = False


@dataclass
class FakeDevice:
    """What was asked of the device. slow: queries that an event answers with no. budget_bytes: memory there is. pins: blocks of

    host memory that it can read by itself. on: the current device. asked: those that pinning was asked on.
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
    on: str = "cuda:0"
    asked: set[str] = field(default_factory=set)
    recording: FakeGraph | None = None
    default_capture_stream: FakeStream | None = None
    workspaces: dict[FakeStream, Workspace] = field(default_factory=dict)
    hangs: bool = False
    hanging: set[str] = field(default_factory=set)
    """Of several, those that do not answer."""


@dataclass(eq=False)
class FakeStream:
    """Work in order."""

    device: FakeDevice
    on: str = ""
    queue: list[Callable[[], None] | FakeEvent] = field(default_factory=list)
    waited_for: list[FakeStream] = field(default_factory=list)

    def wait_stream(self, other: FakeStream) -> None:
        self.waited_for.append(other)
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


class FakeGraph:
    """What was called while it recorded, called again by a replay, results where they were. Of the device that was current."""

    def __init__(self, device: FakeDevice) -> None:
        self._device, self.on = device, device.on
        self.workspace, self.error_mode = Workspace(), ""
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def note(self, function: Any, args: Any, kwargs: Any, made: Any) -> None:
        self._calls.append((function, args, kwargs, made))

    def replay(self) -> None:
        for function, args, kwargs, made in self._calls:
            again = function(*args, **kwargs)
            if isinstance(made, torch.Tensor) and again is not made:
                made.copy_(again)


class _AsCpu(TorchFunctionMode):
    """Tensors asked for on "cuda" are made in plain memory; copies that need not be waited for are queued."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if recording := self._device.recording:
            made = function(*args, **kwargs)
            recording.note(function, args, kwargs, made)
            return made
        on_device = "device" in kwargs and torch.device(kwargs["device"]).type == "cuda"
        if on_device:
            if isinstance(
                kwargs.get("generator"), torch.Generator
            ):  # one of the processor's; there is no other here
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            kwargs["device"] = CPU
        kwargs.pop("pin_memory", None)
        if function is torch.Tensor.copy_ and kwargs.pop("non_blocking", False):
            target, source = args
            assert self._device.current is not None, "a copy that nobody waits for, on no stream"
            self._device.current.queue.append(lambda: target.copy_(source))
            return target
        if self._device.current is not None or on_device:
            self._launch()
        made = function(*args, **kwargs)
        if on_device and isinstance(made, torch.Tensor):
            self._device.budget_bytes -= made.nbytes
            if self._device.budget_bytes < 0:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory (a stand-in)")
        return made

    def _launch(self) -> None:
        """torch asks for the last error after every kernel, whosever it was."""
        if self._device.last_error:
            said, self._device.last_error = self._device.last_error, ""
            raise RuntimeError(f"CUDA error: {said}\nmore lines")
        if self._device.current is not None:
            self._device.workspaces.setdefault(self._device.current, Workspace())


class _Cudart:
    def __init__(self, device: FakeDevice) -> None:
        self._device = device

    def cudaHostRegister(self, address: int, _bytes: int, _flags: int) -> int:
        assert address not in self._device.registered, "the same memory was pinned twice"
        self._device.asked.add(self._device.on)
        if self._device.ever_registered >= self._device.pins:
            self._device.last_error = "operation not supported"
            return 801
        self._device.registered.add(address)
        self._device.ever_registered += 1
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        self._device.asked.add(self._device.on)
        self._device.registered.remove(address)
        return 0


@contextlib.contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[FakeDevice]:
    """A device with these settings, for the code that runs inside."""
    from pipeline.backbones import launch

    device = FakeDevice(**settings)

    def new_stream(*on: Any) -> FakeStream:
        device.streams.append(FakeStream(device, str(on[0]) if on else device.on))
        return device.streams[-1]

    @contextlib.contextmanager
    def on(stream: FakeStream) -> Iterator[None]:
        with of(stream.on or device.on):
            before, device.current = device.current, stream
            try:
                yield
            finally:
                device.current = before

    @contextlib.contextmanager
    def of(one: Any) -> Iterator[None]:
        before, device.on = device.on, str(one)
        try:
            yield
        finally:
            device.on = before

    @contextlib.contextmanager
    def record(
        graph: FakeGraph, stream: FakeStream | None = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        graph.error_mode = capture_error_mode
        if stream is None:  # as torch.cuda.graph: one for all, of the device that was current first
            device.default_capture_stream = device.default_capture_stream or new_stream()
            stream = device.default_capture_stream
        with on(stream):
            device.recording = graph if stream.on == graph.on else None
            graph.workspace = device.workspaces.setdefault(stream, Workspace(of_graph=True))
            try:
                yield
            except RuntimeError as error:
                raise RuntimeError(
                    "CUDA error: operation failed due to a previous error during capture"
                ) from error
            finally:
                device.recording = None

    default = FakeStream(device)
    monkeypatch.setattr(torch.cuda, "Stream", new_stream)
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: FakeEvent(device))
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "device", of)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda *_: default)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: device.current or default)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: FakeGraph(device))
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", device.workspaces.clear, raising=False)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: _Cudart(device))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a stand-in")
    monkeypatch.setattr(launch, "_STREAMS", {})
    with _AsCpu(device):
        yield device
