"""Batches form across videos: windows of any video fill one buffer, a full buffer is one forward pass, features go to the CPU.

The last, partly filled batch is run at full size, so a token's value never depends on what it ran beside: a resumed run
equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones.base import Backbone

TokenKey = tuple[int, int, int]
"""(video number, attempt, token index)."""


@dataclass(slots=True)
class _Launched:
    keys: list[TokenKey]
    features: torch.Tensor
    event: Any


class StreamRunner:
    """Runs one backbone over the windows it is given.

    On CUDA two pinned buffers alternate: the copy and the forward pass of one run while the other fills, and device memory stays
    flat, since nothing but the two batches ever lives there.
    """

    def __init__(self, backbone: Backbone, *, device: torch.device) -> None:
        self._backbone = backbone
        self._device = device
        self._cuda = device.type == "cuda"
        plan = backbone.plan
        shape = (backbone.batch_size, plan.sampling.window, *plan.frames.shape)
        dtype = torch.uint8 if plan.frames.dtype == np.uint8 else torch.int16
        count = 2 if self._cuda else 1
        self._buffers = [torch.zeros(shape, dtype=dtype, pin_memory=self._cuda) for _ in range(count)]
        self._views: list[NDArray[Any]] = [buffer.numpy() for buffer in self._buffers]
        self._stream: Any = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._in_use: list[_Launched | None] = [None] * count
        self._turn = 0
        self._keys: list[TokenKey] = []
        self._ready: deque[tuple[TokenKey, NDArray[np.float32]]] = deque()
        self._launched: deque[_Launched] = deque()
        self.busy_seconds = 0.0
        self.n_tokens = 0

    def add(self, number: int, attempt: int, first: int, frames: NDArray[Any]) -> None:
        """Take consecutive windows ([count, T, H, W, C]) of one video; copies them."""
        for index, window in enumerate(frames):
            self._views[self._turn][len(self._keys)] = window
            self._keys.append((number, attempt, first + index))
            if len(self._keys) == self._backbone.batch_size:
                self._run()

    def flush(self) -> None:
        """Run what waits, whatever its size."""
        if self._keys:
            self._run()
        while self._launched:
            self._collect(self._launched.popleft())

    def results(self) -> Iterator[tuple[TokenKey, NDArray[np.float32]]]:
        """Features that are on the CPU by now: (key, float32 [D])."""
        while self._launched and self._launched[0].event.query():
            self._collect(self._launched.popleft())
        while self._ready:
            yield self._ready.popleft()

    def _run(self) -> None:
        began = time.perf_counter()
        keys, self._keys = self._keys, []
        self.n_tokens += len(keys)
        if not self._cuda:
            features = self._backbone.embed(self._buffers[0]).numpy()
            self._ready.extend((key, features[index]) for index, key in enumerate(keys))
        else:
            launched = self._launch(keys)
            self._launched.append(launched)
            self._in_use[self._turn] = launched
            self._turn = (self._turn + 1) % len(self._buffers)
            previous = self._in_use[self._turn]
            if previous is not None:
                previous.event.synchronize()  # the buffer about to be filled must have left for the device
        self.busy_seconds += time.perf_counter() - began

    def _launch(self, keys: list[TokenKey]) -> _Launched:
        with torch.cuda.stream(self._stream):
            frames = self._buffers[self._turn].to(self._device, non_blocking=True)
            features = self._backbone.embed(frames)
            host = torch.empty(features.shape, dtype=torch.float32, pin_memory=True)
            host.copy_(features, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return _Launched(keys, host, event)

    def _collect(self, launched: _Launched) -> None:
        launched.event.synchronize()
        features = launched.features.numpy()
        self._ready.extend((key, features[index]) for index, key in enumerate(launched.keys))
