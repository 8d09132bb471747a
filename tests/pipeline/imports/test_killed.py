"""`onepass import` under a real kill -9, in the middle of what it writes: the same command, run again, ends the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onepass
from cache.check import check_cache
from cache.errors import CacheNotFound
from cache.reader import open_cache
from cache.stores import files
from tests.cache.builders import read_contents

KILLS = 4


def imported(src: Path, out: Path, stream: str) -> None:
    words = ("import", src, "--stream", stream, "--out", out, "--fps", "30", "--snippet", "16")
    sys.argv = ["onepass", *map(str, words)]
    try:
        onepass.main()
    except SystemExit as ended:
        assert not ended.code, ended.code


def dying(work: Callable[[], None], writes: int) -> None:
    """Do the work in this process, which is killed in write number `writes`, half of it done."""
    write_all, left = files._write_all, writes

    def write(descriptor: int, data: memoryview, offset: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            write_all(descriptor, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        write_all(descriptor, data, offset)

    files._write_all = write  # type: ignore[assignment]
    work()
    os._exit(0)


def code_of(work: Callable[[], None], writes: int) -> int:
    """How a fork of this process ends that dies in that write."""
    child: Any = multiprocessing.get_context("fork").Process(target=dying, args=(work, writes))
    child.start()
    child.join()
    return int(child.exitcode)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_killed_it_is_as_it_was_and_ends_as_it_would(suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("first", "second"):
        for number in range(60):
            path = tmp_path / name / ("Fight" if number % 2 else "NonFight") / f"v{number:02d}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, rng.normal(size=(5, 16)).astype(np.float32))
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    for stream in ("first", "second"):
        src = tmp_path / stream
        before = read_contents(cut) if stream == "second" else None
        killed = 0
        for writes in range(KILLS):
            code = code_of(lambda src=src, stream=stream: imported(src, cut, stream), writes)  # type: ignore[misc]
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
            try:
                assert read_contents(cut) == before
            except CacheNotFound:
                assert before is None
        assert killed > 1, "nothing was killed in the middle of a write"
        imported(src, whole, stream)
        if code:
            imported(src, cut, stream)
        assert read_contents(cut) == read_contents(whole)
    with open_cache(cut) as cache:
        assert not check_cache(cache) and len(cache) == 60 and set(cache.streams) == {"first", "second"}
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("cut")) == [
        f"cut.{suffix}",
        f"cut.{suffix}.lock",
    ]
