"""Objects brought to local scratch ahead of their decode: bounded in bytes, removed when the worker is done with them.

Threads fetch in the order of the work, range after range, each pinned to the version that the first one saw. A run that is killed
leaves a scratch folder that the next one removes. What cannot be fetched is a `Failed` like any other.
"""

from __future__ import annotations

import errno
import queue
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from cache.errors import InputError, StorageFull
from cache.objects.store import ObjectTrouble
from pipeline.decoding.pool import Event
from pipeline.decoding.remote_file import RemoteFile, Stores
from pipeline.decoding.scratch import OBJECTS_PREFIX, ScratchFolder
from pipeline.decoding.trouble import Stamp
from pipeline.decoding.worker import Failed, Finished, Probed, Task, Unchanged

THREADS = 8
AHEAD = 32
"""Files that are fetched or wait for a decode, at most, where they are small."""
LOOKS = 4
"""How often an object that changes while it is fetched is begun again, and once more than that is a reject."""
LOST_IN_A_ROW = 64
"""So many objects, one after the other, whose trouble outlasted all tries: the store is away, which rejects no source."""
CLOSING_SECONDS = 30.0
_SUFFIX = re.compile(r"\.[\w-]{1,16}")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """folder: where scratch lies, None for the temp folder. most_bytes: of all files there at a time (one may be larger)."""

    folder: Path | None = None
    most_bytes: int = 8 << 30

    @classmethod
    def of(cls, folder: Path | None, gibibytes: float) -> FetchSettings:
        """As `--scratch` and `--scratch-gb` say. Raises InputError."""
        if not 0 < gibibytes < float("inf"):
            raise InputError(f"--scratch-gb {gibibytes}: must be a positive number")
        return cls(folder, int(gibibytes * (1 << 30)))


Wanted = tuple[Task, RemoteFile | None]
"""A task, and the object whose contents it is for; with None it names a local file."""


class Fetcher:
    """Context manager between the work and the decode pool: `tasks` goes into the pool, what comes out of it through `told`."""

    def __init__(self, settings: FetchSettings, *, workers: int) -> None:
        self._settings, self._ahead = settings, max(AHEAD, 2 * workers)
        self._closing = threading.Event()
        self._stores = Stores(self._closing)
        self._scratch: ScratchFolder | None = None
        self._threads: list[threading.Thread] = []
        self._asked: queue.SimpleQueue[tuple[Task, RemoteFile]] = queue.SimpleQueue()
        self._ready: deque[Task | Failed] = deque()
        self._underway = 0
        self.broken: BaseException | None = None
        """What ends the run: no room, no store, or a fault."""
        self._lost_in_a_row = 0
        self._room = threading.Condition()
        self._line: deque[object] = deque()
        self._most_bytes = 0
        self._held_bytes = 0
        self._here: dict[int, tuple[Path, Stamp]] = {}

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        until = time.monotonic() + CLOSING_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if self._scratch is not None:
            self._scratch.remove()

    def tasks(self, wanted: Iterable[Wanted]) -> Iterator[Task | Failed | None]:
        """Tasks whose files are here, failures, and None while nothing is ready. Raises `broken`."""
        source = iter(wanted)
        more = True
        while True:
            while more and self._underway < self._ahead:
                item = next(source, None)
                if item is None:
                    more = False
                elif item[1] is None:
                    yield item[0]
                else:
                    self._begin(item[0], item[1])
            if self.broken is not None:
                raise self.broken
            if self._ready:
                self._underway -= 1
                yield self._ready.popleft()
            elif not more and not self._underway:
                return
            else:
                yield None

    def told(self, event: Event) -> Event:
        """The event as of the object, whose local copy goes where its task has ended."""
        if not isinstance(event, Finished | Unchanged | Probed | Failed) or event.number not in self._here:
            return event
        path, stamp = self._here.pop(event.number)
        path.unlink(missing_ok=True)
        self._give(stamp[0])
        if isinstance(event, Probed) or event.stamp is None:
            return event
        return replace(event, stamp=stamp)

    def _begin(self, task: Task, remote: RemoteFile) -> None:
        if self._scratch is None:
            self._scratch = ScratchFolder(OBJECTS_PREFIX, self._settings.folder)
            free = shutil.disk_usage(self._scratch.path).free
            self._most_bytes = min(self._settings.most_bytes, free // 2)
        if len(self._threads) < THREADS:
            self._threads.append(threading.Thread(target=self._work, daemon=True, name="fetch"))
            self._threads[-1].start()
        self._underway += 1
        self._asked.put((task, remote))

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                task, remote = self._asked.get(timeout=0.1)
            except queue.Empty:
                continue
            try:
                self._ready.append(self._fetched(task, remote))
                self._lost_in_a_row = 0
            except ObjectTrouble as trouble:
                self._lost_in_a_row = self._lost_in_a_row + 1 if trouble.kind == "passing" else 0
                if self._lost_in_a_row >= LOST_IN_A_ROW:
                    told = f"{trouble}; so did the {LOST_IN_A_ROW - 1} objects before it. What was whole is committed"
                    self.broken = ObjectTrouble(f"{told}; run it again when the store answers", "passing")
                elif trouble.kind != "stopped":
                    self._ready.append(Failed(task.number, *_reason(trouble)))
            except OSError as error:
                self.broken = InputError(
                    f"{error.filename or 'scratch'}: cannot be written: {error.strerror}"
                )
            except BaseException as error:  # noqa: BLE001 - `tasks` raises it, and would wait for this thread for ever
                self.broken = error

    def _fetched(self, task: Task, remote: RemoteFile) -> Task:
        for look in range(LOOKS):
            if look or remote.seen is None:
                remote = self._stores.look(remote)
            try:
                path = self._written(task.number, remote)
            except ObjectTrouble as trouble:
                if trouble.kind != "changed" or look + 1 == LOOKS:
                    raise
            else:
                return replace(task, path=str(path))
        raise AssertionError("the last look returns or raises")

    def _written(self, number: int, remote: RemoteFile) -> Path:
        """The local copy, for which there is room. Raises ObjectTrouble, StorageFull, OSError, and leaves nothing then."""
        assert self._scratch is not None and remote.stamp is not None
        suffix = PurePosixPath(remote.url).suffix  # FFmpeg and PIL look at it
        path = self._scratch.path / f"{number}{suffix if _SUFFIX.fullmatch(suffix) else ''}"
        size = remote.stamp[0]
        while True:
            alone = self._take(size)
            try:
                with path.open("wb") as file:
                    for data in self._stores.chunks(remote):
                        file.write(data)
                self._here[number] = path, remote.stamp
                return path
            except BaseException as error:
                path.unlink(missing_ok=True)
                others_bytes = self._give(size)
                if not isinstance(error, OSError) or error.errno not in _FULL:
                    raise
                self._most_bytes = max(1, others_bytes)  # the disk has no more than these had
                if alone:
                    raise StorageFull(
                        f"{self._scratch.path}: no room for {remote.url} ({size >> 20} MiB); what was committed is safe. Make "
                        "room, or name a folder that has it with --scratch"
                    ) from error

    def _take(self, size_bytes: int) -> bool:
        """Wait in line for room; a file larger than all of it waits until it is alone. Whether it is, until it is given back."""
        place = object()
        with self._room:
            self._line.append(place)
            while self._line[0] is not place or (
                self._held_bytes and self._held_bytes + size_bytes > self._most_bytes
            ):
                self._room.wait(0.5)
                if self._closing.is_set():
                    self._line.remove(place)
                    raise ObjectTrouble("the run was told to end", "stopped")
            self._line.popleft()
            alone = not self._held_bytes and size_bytes >= self._most_bytes
            self._held_bytes += size_bytes
            self._room.notify_all()
            return alone

    def _give(self, size_bytes: int) -> int:
        """Room is free again; how many bytes others hold."""
        with self._room:
            self._held_bytes -= size_bytes
            self._room.notify_all()
            return self._held_bytes


def _reason(trouble: ObjectTrouble) -> tuple[str, str]:
    """The reject reason of an object that could not be fetched, all of them passing, and the detail."""
    reasons = {"missing": "missing-file", "changed": "changed-while-read"}
    return reasons.get(trouble.kind, "unreadable-file"), str(trouble)
