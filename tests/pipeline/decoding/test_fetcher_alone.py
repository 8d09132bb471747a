"""The fetcher without a run: scratch is bounded, a full disk is waited for, the end comes at once."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.errors import InputError, StorageFull
from cache.objects import store as store_module
from pipeline.decoding.fetching import Fetcher, FetchSettings
from pipeline.decoding.remote_file import RemoteFile
from pipeline.decoding.scratch import OBJECTS_PREFIX
from pipeline.decoding.worker import Failed, Task
from tests.objects import BUCKET, Server, emptied
from tests.objects import serve as serve


@pytest.fixture
def server(serve: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty bucket; nothing is left in scratch at the end."""
    yield emptied(serve, monkeypatch)
    assert not list(Path(tempfile.gettempdir()).glob(f"{OBJECTS_PREFIX}{os.getpid()}-*"))


def wanted(server: Server, sizes: list[int]) -> list[tuple[Task, RemoteFile | None]]:
    pairs: list[tuple[Task, RemoteFile | None]] = []
    for number, size in enumerate(sizes):
        server.put(f"n/{number}.mp4", bytes([number]) * size)
        pairs.append((Task(number, "", "pyav"), RemoteFile(f"s3://{BUCKET}/n/{number}.mp4")))
    return pairs


def next_of(tasks: Iterator[Task | Failed | None]) -> Task:
    """The next that is ready."""
    until = time.monotonic() + 20
    for task in tasks:
        if isinstance(task, Task):
            return task
        assert task is None and time.monotonic() < until
        time.sleep(0.002)
    raise AssertionError("no more tasks")


def test_scratch_is_bounded_and_a_file_over_the_bound_is_alone(server: Server, tmp_path: Path) -> None:
    sizes = [300, 300, 300, 5000, 300, 0, 300]
    with Fetcher(FetchSettings(tmp_path, most_bytes=700), workers=1) as fetcher:
        tasks = fetcher.tasks(wanted(server, sizes))
        seen, most = set(), 0
        for _ in sizes:
            task = next_of(tasks)
            (folder,) = tmp_path.glob("onepass-objects-*")
            for _ in range(20):
                held = sum(path.stat().st_size for path in folder.glob("*.mp4"))
                assert held <= 700 or held == 5000
                time.sleep(0.001)
            most = max(most, held)
            assert Path(task.path).read_bytes() == bytes([task.number]) * sizes[task.number]
            fetcher.told(Failed(task.number, "too-short", ""))
            assert not Path(task.path).exists()
            seen.add(task.number)
        assert seen == set(range(len(sizes))) and most in (600, 5000)
        assert next(tasks, "end") == "end"
    assert not list(tmp_path.glob("onepass-objects-*"))


def test_a_full_disk_waits_for_room_and_ends_where_there_is_none(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [1000]
    opened = Path.open

    class Disk(io.BytesIO):
        def __init__(self, path: Path) -> None:
            super().__init__()
            self._path = path

        def write(self, data: Any) -> int:
            used = 0
            for path in self._path.parent.glob("*.mp4"):
                with contextlib.suppress(FileNotFoundError):  # another thread's may just have gone
                    used += path.stat().st_size
            if used + len(data) > room[0]:
                raise OSError(errno.ENOSPC, "No space left on device", str(self._path))
            with opened(self._path, "ab") as file:
                return file.write(data)

    def fake(path: Path, mode: str = "r", **options: Any) -> Any:
        return Disk(path) if mode == "wb" and "objects" in str(path) else opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", fake)
    with Fetcher(FetchSettings(tmp_path), workers=1) as fetcher:
        tasks = fetcher.tasks(wanted(server, [600, 600, 600]))
        for _ in range(3):
            fetcher.told(Failed(next_of(tasks).number, "too-short", ""))
    room[0] = 500
    with (
        Fetcher(FetchSettings(tmp_path), workers=1) as fetcher,
        pytest.raises(StorageFull, match="--scratch"),
    ):
        next_of(fetcher.tasks(wanted(server, [600])))
    with (
        Fetcher(FetchSettings(tmp_path / "none"), workers=1) as fetcher,
        pytest.raises(InputError, match="--scratch"),
    ):
        next_of(fetcher.tasks(wanted(server, [600])))


def test_the_end_of_a_run_does_not_wait_for_retries(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FIRST_WAIT_SECONDS", 60.0)
    monkeypatch.setattr(store_module, "LONGEST_WAIT_SECONDS", 60.0)
    pairs = wanted(server, [10] * 30)
    server.faults["n/0.mp4"] += ["503"] * 9
    began = time.monotonic()
    with Fetcher(FetchSettings(), workers=1) as fetcher:
        next_of(fetcher.tasks(pairs))
    assert time.monotonic() - began < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch"]
