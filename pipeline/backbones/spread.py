"""One stream's model on several devices of a machine: whole batches go to whichever is free, one process feeds all.

Windows fill one batch at a time, so that a batch is whole wherever it runs, and a token has the same bits on every device of
one make. One Python thread is enough because it only starts copies and passes: what it costs a window is taking the window
from a decode worker (1.2 ms, docs/gpu.md), which further processes would not save.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones.base import Backbone, ForwardQueue
from pipeline.backbones.batching import StreamRunner, TokenKey
from pipeline.backbones.busy import BusyTime
from pipeline.decoding.frames import RgbFrame


class SpreadBackbone:
    """A `Backbone` that is loaded once a device; asked itself, the first one answers. on: by device, in words."""

    def __init__(self, on: Mapping[str, Backbone]) -> None:
        self.on = dict(on)
        self._first = next(iter(self.on.values()))
        self.name, self.dim, self.plan = self._first.name, self._first.dim, self._first.plan
        self.batching, self.note = self._first.batching, self._first.note
        different = [
            name for name, each in self.on.items() if each.fingerprint() != self._first.fingerprint()
        ]
        assert not different, f"{self.name} is another model on {different}"

    @property
    def queue(self) -> ForwardQueue | None:
        """Of the first."""
        return self._first.queue

    def fingerprint(self) -> dict[str, Any]:
        """The same of all."""
        return self._first.fingerprint()

    def embed(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """On the first device."""
        return self._first.embed(frames_BTHWC)

    def embed_plainly(self, frames: Sequence[RgbFrame]) -> NDArray[np.float32]:
        """The reference, on the CPU."""
        return self._first.embed_plainly(frames)


class SpreadRunner:
    """A `StreamRunner` a device behind the face of one. clocks: run while any of them does."""

    def __init__(self, backbone: SpreadBackbone, *, clocks: Sequence[BusyTime] = ()) -> None:
        self.busy = BusyTime()
        self._runners = {
            device: StreamRunner(each, device=torch.device(device), clocks=(self.busy, *clocks))
            for device, each in backbone.on.items()
        }
        self._order = list(self._runners.values())
        self._filling = self._order[0]

    @property
    def n_tokens(self) -> dict[str, int]:
        """Windows whose pass was begun, by device."""
        return {device: runner.n_tokens for device, runner in self._runners.items()}

    def add(self, number: int, attempt: int, first: int, frames: NDArray[Any]) -> Callable[[], bool] | None:
        """Take consecutive windows of one video, as `StreamRunner.add`."""
        reads = []
        taken = 0
        while taken < len(frames):
            count = min(self._filling.room, len(frames) - taken)
            read = self._filling.add(number, attempt, first + taken, frames[taken : taken + count])
            if read is not None:
                reads.append(read)
            taken += count
            if self._filling.is_empty:
                self._filling = self._freest()
        return (lambda: all(read() for read in reads)) if reads else None

    def _freest(self) -> StreamRunner:
        """The runner with the fewest batches under way, of equals the next in turn."""
        turn = self._order.index(self._filling) + 1
        self._order = self._order[turn:] + self._order[:turn]
        return min(self._order, key=lambda runner: runner.n_under_way)

    def flush(self) -> None:
        """Run what waits and wait for all of it."""
        for runner in self._order:
            runner.flush()

    def close(self) -> None:
        """Wait for what is under way everywhere and drop it."""
        for runner in self._order:
            runner.close()

    def results(self) -> Iterator[tuple[TokenKey, NDArray[np.float32]]]:
        """Features that are on the CPU by now, of any device."""
        for runner in self._order:
            yield from runner.results()


def make_runner(
    backbone: Backbone, *, device: torch.device, clocks: Sequence[BusyTime] = ()
) -> StreamRunner | SpreadRunner:
    """What runs a backbone: on its devices, or on `device`."""
    if isinstance(backbone, SpreadBackbone):
        return SpreadRunner(backbone, clocks=clocks)
    return StreamRunner(backbone, device=device, clocks=clocks)
