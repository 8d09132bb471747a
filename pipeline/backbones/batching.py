"""Batches form across videos: windows of any video fill one buffer, a full buffer is one forward pass, features go to the CPU.

The last, partly filled batch is run at full size, so a token's value never depends on what it ran beside: a resumed run
equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import DeviceError
from pipeline.backbones.base import Backbone, Pending
from pipeline.backbones.busy import BusyTime
from pipeline.backbones.launch import POLL_SECONDS, make_launcher

TokenKey = tuple[int, int, int]
"""(video number, attempt, token index)."""


@dataclass(slots=True)
class _Launched:
    keys: list[TokenKey]
    pending: Pending
    buffer: int
    tickets: list[int]


class StreamRunner:
    """Runs one backbone over the windows it is given; one buffer more than batches under way, so that one can fill.

    clocks: run while this runner does, beside its own; several runners may share one.
    """

    def __init__(self, backbone: Backbone, *, device: torch.device, clocks: Sequence[BusyTime] = ()) -> None:
        self.busy = BusyTime()
        self._clocks = [self.busy, *clocks]
        self._launcher = make_launcher(backbone, device)
        self._batch_size = backbone.batching.batch_size
        plan = backbone.plan
        shape = (self._batch_size, *plan.token_shape)
        dtype = torch.from_numpy(np.empty(0, plan.token_dtype)).dtype
        count = self._launcher.in_flight + (self._launcher.in_flight > 1)
        self._buffers = [self._launcher.buffer(shape, dtype) for _ in range(count)]
        self._free = list(range(1, count))
        self._filling = 0
        self._keys: list[TokenKey] = []
        self._ready: deque[tuple[TokenKey, NDArray[np.float32]]] = deque()
        self._launched: list[_Launched] = []
        self.n_tokens = 0

    def add(self, number: int, attempt: int, first: int, frames: NDArray[Any]) -> Callable[[], bool] | None:
        """Take consecutive windows ([count, T, H, W, C]) of one video.

        None: they were copied. Else what says whether they have been read, and until then they must not change.
        """
        taken, read = 0, None
        while taken < len(frames):
            at = len(self._keys)
            count = min(len(frames) - taken, self._batch_size - at)
            read = self._launcher.fill(self._buffers[self._filling], at, frames[taken : taken + count])
            self._keys += [(number, attempt, first + taken + index) for index in range(count)]
            taken += count
            if len(self._keys) == self._batch_size:
                self._run()
        return read

    @property
    def room(self) -> int:
        """Windows until the batch that fills is whole."""
        return self._batch_size - len(self._keys)

    @property
    def is_empty(self) -> bool:
        """Whether no window waits for others."""
        return not self._keys

    @property
    def n_under_way(self) -> int:
        """Batches that were started and are not done."""
        self._collect_done()
        return len(self._launched)

    def flush(self) -> None:
        """Run what waits, whatever its size, and wait for all of it."""
        if self._keys:
            self._run()
        while self._launched:
            self._wait_for_one()

    def close(self) -> None:
        """Wait for what is under way and drop it: the model reads this runner's memory, and serves another one after it.

        A device that is in trouble was reported where it was used, and is not waited for.
        """
        while self._launched:
            with contextlib.suppress(DeviceError):
                self._launched.pop().pending.features()

    def results(self) -> Iterator[tuple[TokenKey, NDArray[np.float32]]]:
        """Features that are on the CPU by now: (key, float32 [D])."""
        self._collect_done()
        while self._ready:
            yield self._ready.popleft()

    def _run(self) -> None:
        keys, self._keys = self._keys, []
        self.n_tokens += len(keys)
        while len(self._launched) >= self._launcher.in_flight:
            self._wait_for_one()
        now = time.perf_counter()
        tickets = [clock.begin(now) for clock in self._clocks]
        pending = self._launcher.launch(self._buffers[self._filling])
        self._launched.append(_Launched(keys, pending, self._filling, tickets))
        if self._launcher.in_flight == 1:
            self._wait_for_one()
        self._filling = self._free.pop()

    def _wait_for_one(self) -> None:
        """Until at least one batch is done."""
        while not self._collect_done():
            self._launched[0].pending.poll(POLL_SECONDS)

    def _collect_done(self) -> bool:
        done = [item for item in self._launched if item.pending.poll()]
        for item in done:
            self._launched.remove(item)
            features = item.pending.features()
            for clock, ticket in zip(self._clocks, item.tickets, strict=True):
                clock.end(ticket, item.pending.ended_seconds)
            self._free.append(item.buffer)
            self._ready.extend((key, features[index]) for index, key in enumerate(item.keys))
        return bool(done)
