"""Memory that a device reads stays as long as anything reads it, and no longer."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from pipeline.decoding.pinned import PinnedBlocks
from pipeline.decoding.shared_block import SharedBlock


def test_a_block_lives_until_it_is_undone_and_is_undone_once_nothing_reads_it() -> None:
    alive: list[weakref.ref[Any]] = []
    undone: list[int] = []

    def pin(view: Any) -> Any:
        number = len(alive)
        alive.append(weakref.ref(view))

        def undo() -> None:
            assert alive[number]() is not None, "no longer mapped"
            undone.append(number)

        return undo

    blocks = PinnedBlocks(pin)
    used = [SharedBlock(4096) for _ in range(3)]
    for block in used:
        blocks.add(block)
    del block
    blocks.keep(used)
    assert len(blocks) == 3 and not undone
    del used[1]
    gc.collect()
    blocks.keep(used)
    assert undone == [1] and len(blocks) == 2 and alive[1]() is None
    used.clear()
    blocks.keep(())
    assert sorted(undone) == [0, 1, 2] and not len(blocks)


def test_without_a_device_nothing_is_held() -> None:
    blocks = PinnedBlocks(None)
    blocks.add(SharedBlock(4096))
    assert not len(blocks)
