"""Parts of the decode worker that need no process of their own; the rest is in test_pool."""

from __future__ import annotations

import hashlib
import multiprocessing
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decoding import worker
from pipeline.decoding.decode import StreamPlan, decode_video
from pipeline.decoding.frames import FramePlan
from pipeline.decoding.noise import noise_text
from pipeline.decoding.sampling import Sampling, token_spans
from pipeline.decoding.worker import (
    Heartbeat,
    SlotWriter,
    Task,
    Tokens,
    WorkerSettings,
    file_digest,
)
from tests.pipeline.fakes import PLANS, ListedFrames
from tests.pipeline.pools import run_pool, settings_for
from tests.pipeline.trees import lock_folder
from tests.videos import flip_bytes, write_video

pytestmark = pytest.mark.usefixtures("forked_workers")


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    content = bytes(range(256)) * 40_000  # more than one chunk
    path.write_bytes(content)
    pulse = [0.0]
    assert (
        file_digest(str(path), Heartbeat(pulse))
        == f"blake2b:{hashlib.blake2b(content, digest_size=20).hexdigest()}"
    )
    assert pulse[0] > 0  # reading a large file is a sign of life
    with pytest.raises(FileNotFoundError):
        file_digest(str(tmp_path / "nowhere"))


def test_noise_becomes_one_short_line() -> None:
    raw = b"\n".join(
        [
            b"[h264 @ 0x55d01] error while decoding MB 3 4",
            b"[h264 @ 0x66e02] error while decoding MB 3 4",  # the same, another address
            b"  ",
            b"\xff\xfe not text",
            *(f"line {n}".encode() for n in range(9)),
        ]
    )
    assert noise_text(raw) == "line 4; line 5; line 6; line 7; line 8"
    assert noise_text(raw.split(b"line")[0]) == "[h264] error while decoding MB 3 4; \ufffd\ufffd not text"
    assert noise_text(b"") == ""


class Parent:
    """The other end of a worker's pipe: copies slots as the pool does, at once or late."""

    def __init__(self, connection: Connection, memory: Any, worker_settings: WorkerSettings) -> None:
        self._connection, self._memory, self._settings = connection, memory, worker_settings
        self.levels: dict[int, list[list[int]]] = {n: [] for n in range(len(worker_settings.plans))}
        self.held: list[int] = []

    def take(self) -> None:
        """Every slot that was handed over."""
        while self._connection.poll():
            message = self._connection.recv()
            assert isinstance(message, Tokens)
            plan = self._settings.plans[message.stream]
            start = message.slot * self._settings.slot_bytes
            raw = np.frombuffer(self._memory, np.uint8)[start : start + message.count * plan.token_bytes]
            frames = raw.view(plan.frames.dtype).reshape(
                message.count, plan.sampling.window, *plan.frames.shape
            )
            scale = 1 if plan.frames.recipe == "pil-bicubic" else 128
            assert message.first == len(self.levels[message.stream])
            self.levels[message.stream] += (frames[..., 0, 0, 0] // scale).tolist()
            self.held.append(message.slot)

    def answer(self) -> None:
        while self.held:
            self._connection.send(self.held.pop())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.integers(3, 5), st.integers(1, 6), st.integers(1, 4), st.data())
def test_slots_carry_every_window_in_order(
    n_frames: int, n_slots: int, per_slot: int, window: int, data: st.DataObject
) -> None:
    """Whatever the slots' size and number: nothing is lost, repeated, or waited for in vain."""
    stride = data.draw(st.integers(1, window))
    plans = (
        StreamPlan("a", Sampling(fps=7.0), FramePlan("pil-bicubic", 2)),
        StreamPlan("b", Sampling(fps=10.0, window=window, stride=stride), FramePlan("linear-fixed", 2)),
    )
    slot_bytes = max(plan.token_bytes for plan in plans) * per_slot
    worker_settings = WorkerSettings(plans, max_error_share=0.2, slot_bytes=slot_bytes, n_slots=n_slots)
    ours, theirs = multiprocessing.Pipe()
    memory = bytearray(slot_bytes * n_slots)
    slots = SlotWriter(theirs, memory, worker_settings, Heartbeat([0.0]))
    parent = Parent(ours, memory, worker_settings)

    def emit(stream: int, frames: Sequence[Any]) -> None:
        if data.draw(st.booleans()) or len(slots._free) <= 1:
            parent.take()
            parent.answer()
        if not slots._free and not theirs.poll():
            slots.flush()  # as the worker would before it waits
            parent.take()
            parent.answer()
        slots.emit(stream, frames)

    source = ListedFrames([n / 10 for n in range(n_frames)])
    slots.start(0)
    video = decode_video(source, plans, emit=emit, beat=lambda _: None)
    slots.flush()
    parent.take()
    ours.close()
    theirs.close()
    for number, plan in enumerate(plans):
        assert len(parent.levels[number]) == len(token_spans(video.duration_seconds, plan.sampling))
    flat = [level for levels in parent.levels[0] for level in levels]
    assert flat == sorted(flat) and flat[0] == 0


def test_an_abandoned_attempt_gives_its_slots_back() -> None:
    worker_settings = WorkerSettings(PLANS, max_error_share=0.2, slot_bytes=10_000, n_slots=3)
    _ours, theirs = multiprocessing.Pipe()
    slots = SlotWriter(theirs, bytearray(30_000), worker_settings, Heartbeat([0.0]))
    window = [np.zeros((8, 8, 3), np.uint8)]
    for number in range(5):
        slots.start(number)
        slots.emit(0, window)  # never flushed
        assert len(slots._free) == 2
    slots.start(5)
    assert sorted(slots._free) == [0, 1, 2]


def test_tasks_and_slot_answers_may_come_mixed() -> None:
    worker_settings = WorkerSettings(PLANS, max_error_share=0.2, slot_bytes=10_000, n_slots=3)
    ours, theirs = multiprocessing.Pipe()
    slots = SlotWriter(theirs, bytearray(30_000), worker_settings, Heartbeat([0.0]))
    slots._free.clear()
    for item in (2, 0, Task(7, "x.mp4", "pyav"), 1, None):
        ours.send(item)
    task = slots.collect()
    assert task is not None and task.number == 7
    assert slots._free == [2, 0]
    assert slots.collect() is None
    assert slots._free == [2, 0, 1]


def test_limits_reject_with_their_reason(tmp_path: Path) -> None:
    flipped = flip_bytes(write_video(tmp_path / "flipped.mp4", seconds=3), share=0.05, seed=1)
    short = write_video(tmp_path / "short.mp4", seconds=0.5)
    strict = run_pool([flipped, short], "pyav", worker=settings_for(max_error_share=0.0, min_seconds=1.0))
    assert [outcome.reason for outcome in strict.outcomes] == ["decode-errors", "too-short"]
    assert "errors in" in strict.outcomes[0].detail
    assert strict.outcomes[0].end.digest.startswith("blake2b:")  # type: ignore[union-attr]
    kind = run_pool([flipped, short], "pyav", worker=settings_for(max_error_share=1.0))
    assert kind.outcomes[0].finished.video.n_errors > 0
    assert kind.outcomes[1].finished.video.duration_seconds == pytest.approx(0.5)


def test_a_file_with_its_known_digest_is_not_decoded(tmp_path: Path) -> None:
    from pipeline.decoding.pool import DecodePool, PoolSettings
    from pipeline.decoding.worker import Finished, Unchanged

    path = write_video(tmp_path / "a.mp4", seconds=0.3)
    known = file_digest(str(path))
    with DecodePool(PoolSettings(workers=1), worker_settings=settings_for()) as pool:
        same = list(pool.run([Task(0, str(path), "pyav", known_digest=known)]))
        status = path.stat()
        assert same == [Unchanged(0, known, (status.st_size, status.st_mtime_ns))]
        path.write_bytes(path.read_bytes() + b"\0")
        assert isinstance(list(pool.run([Task(0, str(path), "pyav", known_digest=known)]))[-1], Finished)


def test_a_worker_imports_neither_torch_nor_a_model() -> None:
    code = "import sys, pipeline.decoding.worker, pipeline.decoding.probe; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "torchvision", "open_clip", "pytorchvideo", "zarr", "h5py", "pipeline.backbones.base"}
    assert not heavy & set(loaded.split())


@pytest.mark.skipif(not Path("/proc/sys").is_dir(), reason="needs a folder of 0 bytes")
@pytest.mark.parametrize("probe", [False, True])
def test_a_folder_of_0_bytes_is_no_empty_file(probe: bool) -> None:
    """Some network file systems give every folder 0 bytes."""
    assert Path("/proc/sys").stat().st_size == 0
    (ended,) = run_pool([Path("/proc/sys")], probe=probe).outcomes
    assert (ended.reason, ended.detail) == ("unreadable-file", "cannot be read: Is a directory")


def test_a_folder_that_cannot_be_listed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_folder(monkeypatch, "locked")
    (tmp_path / "locked").mkdir()
    task, nothing = Task(0, str(tmp_path / "locked"), "pyav"), None
    message = worker._run(task, nothing, settings_for(), nothing, nothing, nothing)  # type: ignore[arg-type]
    assert (message.reason, message.detail) == ("unreadable-file", "cannot be read: Permission denied")  # type: ignore[union-attr]
