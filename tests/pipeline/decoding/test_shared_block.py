from __future__ import annotations

import errno
import multiprocessing
import os
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from cache.errors import StorageFull
from pipeline.decoding import shared_block
from pipeline.decoding.shared_block import SharedBlock


def _double(memory: Any, pulse: Any, connection: Connection) -> None:
    memory[0] = 2 * memory[0]
    pulse[0] = 0.5
    connection.send((len(memory), len(pulse)))


def test_a_spawned_process_shares_it() -> None:
    memory, pulse = SharedBlock(5000), SharedBlock(8, "d")
    assert not any(memory.view) and pulse.view[0] == 0.0
    memory.view[0] = 21
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_double, args=(memory, pulse, theirs))
    process.start()
    assert ours.recv() == (5000, 1)
    process.join()
    assert memory.view[0] == 42 and pulse.view[0] == 0.5


def test_room_is_taken_when_it_is_made() -> None:
    block = SharedBlock(1 << 20)
    assert os.fstat(block._descriptor).st_blocks * 512 >= 1 << 20


@pytest.mark.parametrize("fallocate", [True, False])
def test_no_room_anywhere_is_one_line(
    fallocate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shared_block, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if fallocate:
        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    else:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
        monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageFull, match=r"no room for 3 MiB .*--shm-size.*TMPDIR"):
        SharedBlock(3 << 20)
    assert not list(tmp_path.iterdir())


def test_the_temp_folder_helps_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = shared_block._allocate

    def first_is_full(descriptor: int, n_bytes: int) -> None:
        calls.append(n_bytes)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor, n_bytes)

    monkeypatch.setattr(shared_block, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shared_block, "_allocate", first_is_full)
    assert len(SharedBlock(100).view) == 100 and len(calls) == 2


def test_a_file_system_that_cannot_reserve_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    block = SharedBlock((1 << 20) + 7)
    assert len(block.view) == (1 << 20) + 7
    assert os.fstat(block._descriptor).st_blocks * 512 >= 1 << 20
