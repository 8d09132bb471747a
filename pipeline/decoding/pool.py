"""The decode pool: workers that run ahead of inference by a bounded number of slots, are watched, and are replaced.

The parent holds one pipe, one block of shared memory (unlinked from the start: a kill leaves nothing behind) and one clock per
worker. A worker that shows no sign of life for the deadline, grows over its memory limit or dies is killed, its video is given
to PyAV once more where another decoder had it, and rejected after that.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from cache.arguments import require_whole
from cache.errors import OnepassError
from cache.process.cores import usable_cores
from cache.process.interrupts import deaf_children
from cache.process.terminal import open_standard_descriptors
from pipeline.decoding import worker
from pipeline.decoding.decoders.base import takes_over
from pipeline.decoding.frames import PreparedFrame
from pipeline.decoding.noise import NOISE_TAIL_BYTES, noise_text
from pipeline.decoding.pinned import Pin, PinnedBlocks
from pipeline.decoding.scratch import NOISE_PREFIX, ScratchFolder
from pipeline.decoding.shared_block import SHARED_MEMORY, SharedBlock
from pipeline.decoding.worker import (
    Failed,
    Finished,
    Message,
    Probed,
    Restarted,
    Task,
    Tokens,
    Unchanged,
    WorkerSettings,
)

WATCH_SECONDS = 0.5
ASLEEP_SECONDS = 5.0
MAX_FALSE_STARTS = 5
UNREADY_SECONDS = 0.01
"""How often it is asked for a task where the next one is not ready."""
LENT_SECONDS = 0.001
"""How often it is asked whether lent frames have been read."""
LENT_DEADLINE_SECONDS = 30.0
"""How long the end waits for frames that are still being read."""
FRAMES_PER_SLOT = 16
MAX_WORKERS = 256
START_ALLOWANCE_SECONDS = 30.0
"""A fresh worker imports its decoders first; a slow disk must not count as a stall."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """workers: processes. deadline_seconds: longest time without a sign of life. slots: windows in flight a worker."""

    workers: int = 2
    slots: int = 3
    deadline_seconds: float = 60.0
    worker_memory_bytes: int = 4 << 30

    def __post_init__(self) -> None:
        require_whole("--workers", self.workers, 1, MAX_WORKERS)
        if self.slots < 2:
            raise ValueError(f"need at least two slots a worker, got {self.slots}")
        if not self.deadline_seconds > 0:
            raise ValueError(f"the deadline must be positive, got {self.deadline_seconds}")


@dataclass(slots=True)
class TokenFrames:
    """Prepared frames [count, window, H, W, C] of consecutive tokens; a view that is valid until the next event,

    or, where whoever took the event sets `read`, until that says that the frames have been read. attempt: how often the decode of
    the video had started over by then.
    """

    number: int
    attempt: int
    stream: int
    first: int
    frames: NDArray[Any]
    read: Callable[[], bool] | None = None


Coming = Task | Failed | None
END = object()
Event = TokenFrames | Restarted | Finished | Unchanged | Probed | Failed


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    pulse: Any
    noise_path: Path
    memory: SharedBlock
    buffer: PreparedFrame
    started_seconds: float
    task: Task | None = None
    assigned_pulse: float = 0.0

    @property
    def began(self) -> bool:
        """Whether the worker gave a sign of life since it got its task."""
        return float(self.pulse[0]) != self.assigned_pulse


@dataclass(frozen=True, slots=True)
class _Lent:
    """A slot whose frames are still being read. Keeps its worker's memory alive."""

    worker: _Worker
    slot: int
    read: Callable[[], bool]


class DecodePool:
    """Context manager. `run(tasks)` gives the events of all tasks, interleaved, until every task has ended.

    pin: applied to every block of memory that frames are read from.
    """

    def __init__(
        self, settings: PoolSettings, *, worker_settings: WorkerSettings, pin: Pin | None = None
    ) -> None:
        self._settings, self._pinned = settings, PinnedBlocks(pin)
        plans = worker_settings.plans
        slot_bytes = max(
            (
                plan.token_bytes * (1 if plan.sampling.window > 1 and not plan.reduce else FRAMES_PER_SLOT)
                for plan in plans
            ),
            default=1,
        )
        # every stream may hold one slot open, and one more must move
        n_slots = max(settings.slots, len(plans) + 1)
        self._worker_settings = replace(worker_settings, slot_bytes=slot_bytes, n_slots=n_slots)
        self._context = multiprocessing.get_context("spawn")
        open_standard_descriptors()
        self._scratch = ScratchFolder(NOISE_PREFIX)
        self._workers: list[_Worker] = []
        self._queue: deque[Task] = deque()
        self._unbegun: deque[Failed] = deque()
        self._unready = False
        self._starts_over: Counter[int] = Counter()
        self._lent: list[_Lent] = []
        self._last_watch = 0.0
        self._false_starts = 0
        self.restarts = 0
        """Workers that had to be replaced."""

    def __enter__(self) -> DecodePool:
        try:
            for index in range(self._settings.workers):
                self._workers.append(self._start(index, None))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def note(self) -> str:
        """What a user should know of where frames pass through; empty where they stay in memory that the device reads."""
        return "; ".join(filter(None, (self._room_note(), self._pin_note())))

    def _room_note(self) -> str:
        beside = [item.memory.folder for item in self._workers if item.memory.folder != SHARED_MEMORY]
        if not beside or not SHARED_MEMORY.is_dir():
            return ""
        return (
            f"{SHARED_MEMORY} has no room for the frames of {len(beside)} of {len(self._workers)} decode workers: they pass "
            f"through {beside[0]}, which may be a disk. {self.shared_bytes >> 20} MiB are needed (in a container: --shm-size="
            f"{(self.shared_bytes >> 20) + 64}m), or fewer --workers"
        )

    def _pin_note(self) -> str:
        if not (n_refused := self._pinned.n_refused):
            return ""
        return (
            f"the driver does not pin the memory of {n_refused} of {len(self._workers)} decode workers: windows reach the device "
            "through this process, which is slower (in a container or a sandbox: is locked memory limited, ulimit -l?)"
        )

    @property
    def shared_bytes(self) -> int:
        """Shared memory that the pool holds, whatever the videos' length."""
        return self._settings.workers * self._worker_settings.slot_bytes * self._worker_settings.n_slots

    def run(self, tasks: Iterable[Coming], *, stop: threading.Event | None = None) -> Iterator[Event]:
        """Decode every task; events of one task come in order and end with Finished, Unchanged, Probed or Failed.

        tasks: also those that failed before a worker could see them, and None where the next one is not ready. Ends early once
        `stop` is set, whatever the workers do.
        """
        source = iter(tasks)
        self._last_watch = time.monotonic()
        while stop is None or not stop.is_set():
            busy = self._assign(source)
            while self._unbegun:
                yield self._unbegun.popleft()
            if not busy:
                if not self._unready:
                    return
                time.sleep(UNREADY_SECONDS)
                self._last_watch = time.monotonic()
                continue
            waitables: list[Any] = [item.connection for item in busy]
            patience = UNREADY_SECONDS if self._unready else WATCH_SECONDS
            ready = wait(waitables, timeout=LENT_SECONDS if self._lent else patience)
            for item in busy:
                if item.connection in ready:
                    yield from self._receive(item, source)
                self._take_back()
            away = time.monotonic() - self._last_watch
            if away >= WATCH_SECONDS:
                self._last_watch = time.monotonic()
                yield from self._watch(away)

    def _next(self, source: Iterator[Coming]) -> Task | None:
        """The next task that is ready; `_unready` says whether there may be one later for a worker that got none."""
        while isinstance(coming := next(source, END), Failed):
            self._unbegun.append(coming)
        self._unready |= coming is None
        return coming if isinstance(coming, Task) else None

    def _assign(self, source: Iterator[Coming]) -> list[_Worker]:
        self._unready = False
        for index, item in enumerate(self._workers):
            if item.task is None:
                task = self._queue.popleft() if self._queue else self._next(source)
                if task is None:
                    continue
                if _resident_bytes(item.process.pid) > self._settings.worker_memory_bytes / 2:
                    # what earlier videos left behind must not count against this one
                    self._stop(item)
                    item = self._workers[index] = self._start(index, item)
                item.task = task
                item.assigned_pulse = max(time.monotonic(), item.started_seconds + START_ALLOWANCE_SECONDS)
                item.pulse[0] = item.assigned_pulse
                with contextlib.suppress(
                    BrokenPipeError, ConnectionResetError
                ):  # seen as a death by the next receive
                    item.connection.send(task)
        return [item for item in self._workers if item.task is not None]

    def _receive(self, item: _Worker, source: Iterator[Coming]) -> Iterator[Event]:
        """All messages that wait in one worker's pipe. Its next task leaves before the caller looks at how the last one ended."""
        while item.task is not None:
            try:
                if not item.connection.poll():
                    return
                message: Message = item.connection.recv()
            except (EOFError, ConnectionResetError, OSError):
                yield from self._lost(item, "decoder-crash", self._obituary(item))
                return
            if isinstance(message, Tokens):
                event = self._view(item, message)
                yield event
                if event.read is None:
                    self._give_slot(item, message.slot)
                else:
                    self._lent.append(_Lent(item, message.slot, event.read))
            else:
                if isinstance(message, Restarted):
                    self._starts_over[message.number] += 1
                else:
                    item.task = None
                    self._starts_over.pop(message.number, None)
                    self._assign(source)
                yield message

    def _give_slot(self, item: _Worker, slot: int) -> None:
        item.pulse[0] = time.monotonic()  # time in which the worker had to wait for this is no stall
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            item.connection.send(slot)

    def _take_back(self) -> None:
        """Give lent slots that have been read to their workers again; a worker that is gone needs none."""
        still = []
        for lent in self._lent:
            if not lent.read():
                still.append(lent)
            elif any(item is lent.worker for item in self._workers):
                self._give_slot(lent.worker, lent.slot)
        self._lent = still
        if len(self._pinned) > len(self._workers):
            self._pinned.keep(item.memory for item in (*self._workers, *(lent.worker for lent in still)))

    def _view(self, item: _Worker, message: Tokens) -> TokenFrames:
        plan = self._worker_settings.plans[message.stream]
        start = message.slot * self._worker_settings.slot_bytes
        raw = item.buffer[start : start + message.count * plan.token_bytes]
        frames = raw.view(plan.token_dtype).reshape(message.count, *plan.token_shape)
        attempt = self._starts_over[message.number]
        return TokenFrames(message.number, attempt, message.stream, message.first, frames)

    def _watch(self, away_seconds: float) -> Iterator[Event]:
        # this process itself stood still (Ctrl-Z, a long step): its workers may have too
        asleep = away_seconds > max(self._settings.deadline_seconds / 2, ASLEEP_SECONDS)
        for lent in self._lent:
            lent.worker.pulse[0] = time.monotonic()  # it may be waiting for a slot that is still being read
        for item in self._workers:
            if item.task is None:
                continue
            if asleep:
                item.pulse[0] = max(item.pulse[0], time.monotonic())
            silent = time.monotonic() - item.pulse[0]
            if silent > self._settings.deadline_seconds and not item.connection.poll():
                yield from self._lost(item, "deadline", f"no frame for {self._settings.deadline_seconds:g} s")
            elif (rss := _resident_bytes(item.process.pid)) > self._settings.worker_memory_bytes:
                limit = self._settings.worker_memory_bytes
                yield from self._lost(
                    item, "out-of-memory", f"the decoder grew to {rss >> 20} MiB, over {limit >> 20} MiB"
                )

    def _lost(self, item: _Worker, reason: str, detail: str) -> Iterator[Event]:
        """Kill and replace a worker; give its video to the decoder that takes over, else reject it.

        A worker that never began says nothing of its video, which waits for the next one. Raises OnepassError where none begins.
        """
        task = item.task
        assert task is not None
        index = self._workers.index(item)
        self._stop(item)
        self._false_starts = 0 if item.began else self._false_starts + 1
        if self._false_starts >= MAX_FALSE_STARTS:
            said = noise_text(_read_tail(item.noise_path)) or "nothing"
            raise OnepassError(
                f"{self._false_starts} decode workers ended before they began ({detail}; the last one printed: {said}): "
                "is a decoder's library missing, is memory short, or are too few processes or files allowed (ulimit -a)?"
            )
        noise = noise_text(_read_tail(item.noise_path))
        detail = "; ".join(part for part in (detail, noise) if part)
        self._workers[index] = self._start(index, item)
        self.restarts += 1
        if not item.began:
            self._queue.append(task)
        elif (other := takes_over(task.decoder)) is None:
            self._starts_over.pop(task.number, None)
            yield Failed(task.number, reason, detail)
        else:
            self._queue.append(replace(task, decoder=other))
            self._starts_over[task.number] += 1
            yield Restarted(task.number, other, f"{task.decoder}: {reason}: {detail}")

    def _obituary(self, item: _Worker) -> str:
        item.process.join(timeout=5)
        code = item.process.exitcode
        return (
            f"the decode worker died (signal {-code})"
            if code and code < 0
            else f"the decode worker ended ({code})"
        )

    def _start(self, index: int, old: _Worker | None) -> _Worker:
        settings = self._worker_settings
        if old is not None and any(lent.worker is old for lent in self._lent):
            old = None  # its memory is still being read
        memory = old.memory if old else SharedBlock(settings.slot_bytes * settings.n_slots)
        if old is None:
            self._pinned.add(memory)
        pulse: Any = SharedBlock(8, "d")
        pulse.view[0] = time.monotonic()
        noise_path = self._scratch.path / f"worker-{index}.txt"
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=worker.main,
            args=(theirs, memory, pulse, str(noise_path), settings),
            daemon=True,
            name=f"decode-{index}",
        )
        with deaf_children(), _no_main_module():
            process.start()
        theirs.close()
        buffer = np.frombuffer(memory.view, dtype=np.uint8)
        return _Worker(process, ours, pulse.view, noise_path, memory, buffer, time.monotonic())

    def _stop(self, item: _Worker) -> None:
        item.connection.close()
        item.process.kill()
        item.process.join(timeout=5)  # one that waits for a dead disk ends when the disk answers

    def close(self) -> None:
        """Kill all workers and remove what they left, once nothing reads their memory."""
        for item in self._workers:
            self._stop(item)
        self._workers.clear()
        until = time.monotonic() + LENT_DEADLINE_SECONDS
        with contextlib.suppress(
            OnepassError
        ):  # a device that does not answer was reported where it was used
            while self._lent and time.monotonic() < until:
                self._take_back()
                time.sleep(LENT_SECONDS)
        self._lent.clear()
        self._pinned.keep(())
        self._scratch.remove()


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """A process spawned in here does not import the calling script again: workers need nothing of it, and what it imports

    (torch, models) would cost each of them seconds and hundreds of megabytes.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def default_workers() -> int:
    """One decode worker a core that this process may use (`fit_pool` makes them fewer where memory is short)."""
    return min(usable_cores(), MAX_WORKERS)


def _resident_bytes(pid: int | None) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _read_tail(path: Path) -> bytes:
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - NOISE_TAIL_BYTES))
        return file.read()
    return b""
