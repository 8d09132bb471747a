"""Blocks of shared memory that a device reads without the processor, each as long as anything reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pipeline.decoding.shared_block import SharedBlock

Pin = Callable[[Any], Callable[[], None] | None]
"""Pins a block of shared memory (a memoryview): a device reads it without the processor. The answer undoes it; None: refused."""


class PinnedBlocks:
    """A block stays mapped until its pinning is undone: a device goes on reading the pages that were there, also for what is

    mapped at the same address next.
    """

    def __init__(self, pin: Pin | None) -> None:
        self._pin = pin
        self._held: list[tuple[SharedBlock, Callable[[], None] | None]] = []
        self.n_refused = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, memory: SharedBlock) -> None:
        """Pin a block, where there is a device."""
        if self._pin is not None:
            undo = self._pin(memory.view)
            self.n_refused += undo is None
            self._held.append((memory, undo))

    def keep(self, used: Iterable[SharedBlock]) -> None:
        """Undo all others."""
        used, before = list(used), self._held
        self._held = [item for item in before if any(item[0] is memory for memory in used)]
        for item in before:
            if item not in self._held and (undo := item[1]) is not None:
                undo()
