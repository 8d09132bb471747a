"""The decode worker: a process that can hang, crash or be killed at the cost of one video.

It takes one task at a time from its pipe, decodes, and leaves prepared frames in its own slots of shared memory; the parent
answers each slot when it has copied it. A worker shares no lock with anyone, so killing it can block nobody. It imports neither
torch nor any model.

Whatever decoders print goes to the worker's noise file: its tail becomes the detail of a reject, and for decoders that hide
damage any noise at all is a reason to let PyAV judge.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import signal
import stat
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.decoding.decode import DecodedVideo, StreamPlan, decode_video
from pipeline.decoding.decoders.base import Declared, DecodeProblem, DecoderName, open_frames, takes_over
from pipeline.decoding.noise import Noise, quiet_libraries
from pipeline.decoding.trouble import FileWatch, Stamp, fault, reading_trouble
from pipeline.decoding.words import Transcript

DIGEST_CHUNK_BYTES = 1 << 22
PR_SET_PDEATHSIG = 1
"""linux/prctl.h: the signal a process gets when its parent dies."""
SHORT_SHARE = 0.9
"""A video that decodes to less than this share of its declared duration is read again, and named in the summary."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told once. `max_error_share`: damaged frames over all frames, above which a video is rejected.

    optional: streams that a video may lack. lacks_all: whether it may lack all of them. The pool fills in `slot_bytes` and
    `n_slots`.
    """

    plans: tuple[StreamPlan, ...]
    max_error_share: float
    min_seconds: float = 0.0
    slot_bytes: int = 0
    n_slots: int = 0
    optional: tuple[str, ...] = ()
    lacks_all: bool = False

    @property
    def hears(self) -> bool:
        """Whether a stream of sound is wanted."""
        return any(plan.sound for plan in self.plans)

    @property
    def needs_pictures(self) -> bool:
        """Whether a file without pictures is a reject."""
        alone_will_do = self.hears or self.lacks_all
        return not alone_will_do or any(p.sees and p.name not in self.optional for p in self.plans)


@dataclass(frozen=True, slots=True)
class Task:
    """One video to decode. `known_digest`: if the file still has it, there is nothing to do. `probe`: only look; `sound`: sound

    alone will do.
    """

    number: int
    path: str
    decoder: DecoderName
    known_digest: str = ""
    probe: bool = False
    sound: bool = False
    transcript: Transcript | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """`count` consecutive windows of stream number `stream`, starting with token `first`, lie in slot `slot`."""

    number: int
    stream: int
    first: int
    count: int
    slot: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """The decode starts over with another decoder; tokens sent so far do not count."""

    number: int
    decoder: DecoderName
    why: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The video is decoded whole. `stamp`: size and time of the file that was read."""

    number: int
    digest: str
    decoder: DecoderName
    video: DecodedVideo
    decode_seconds: float
    wait_seconds: float
    notes: tuple[str, ...] = ()
    stamp: Stamp | None = None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The file has the digest it had before. `stamp`: size and time of the file that was read."""

    number: int
    digest: str
    stamp: Stamp | None = None


@dataclass(frozen=True, slots=True)
class Probed:
    """The quick probe read three frames; `declared` is what the header says."""

    number: int
    declared: Declared


@dataclass(frozen=True, slots=True)
class Failed:
    """The video is rejected; `reason` is a code of `cache.schema.REJECT_REASONS`. `stamp`: of the file that was read."""

    number: int
    reason: str
    detail: str
    digest: str = ""
    notes: tuple[str, ...] = field(default=())
    stamp: Stamp | None = None


Message = Tokens | Restarted | Finished | Unchanged | Probed | Failed


class Heartbeat:
    """Shared progress clock: [time of the last sign of life in monotonic seconds]."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared

    def beat(self) -> None:
        """A frame was decoded or a part of the file was read."""
        self._shared[0] = time.monotonic()


class SlotWriter:
    """Packs windows of each stream into free slots and hands full slots to the parent."""

    def __init__(
        self, connection: Connection, memory: Any, settings: WorkerSettings, heartbeat: Heartbeat
    ) -> None:
        self._connection = connection
        self._plans = settings.plans
        self._heartbeat = heartbeat
        buffer = np.frombuffer(memory, dtype=np.uint8)
        self._slots = [
            buffer[i * settings.slot_bytes : (i + 1) * settings.slot_bytes] for i in range(settings.n_slots)
        ]
        self._free = list(range(settings.n_slots))
        self._capacity = [settings.slot_bytes // plan.token_bytes for plan in self._plans]
        self.wait_seconds = 0.0
        self._begin(-1)

    def _begin(self, number: int) -> None:
        self._number = number
        self._open: dict[int, tuple[int, int]] = {}  # stream -> (slot, windows in it)
        self._sent = [0] * len(self._plans)

    def start(self, number: int) -> None:
        """Begin a video (again): slots half filled for an abandoned attempt are free."""
        self._free += [slot for slot, _ in self._open.values()]
        self._begin(number)

    def emit(self, stream: int, window: Any) -> None:
        """Copy one window into the stream's open slot; send the slot when it is full."""
        if stream not in self._open:
            self._open[stream] = (self._take_slot(), 0)
        slot, count = self._open[stream]
        plan = self._plans[stream]
        start = count * plan.token_bytes
        target = self._slots[slot][start : start + plan.token_bytes].view(plan.token_dtype)
        plan.fill(window, target.reshape(plan.token_shape))
        self._open[stream] = (slot, count + 1)
        if count + 1 == self._capacity[stream]:
            self._send(stream)

    def flush(self) -> None:
        """Send what lies in half-filled slots."""
        for stream in list(self._open):
            self._send(stream)

    def _send(self, stream: int) -> None:
        slot, count = self._open.pop(stream)
        self._connection.send(Tokens(self._number, stream, self._sent[stream], count, slot))
        self._sent[stream] += count

    def _take_slot(self) -> int:
        if not self._free and self._open:
            # every slot may be in the parent's hands or half filled here: never wait while holding one back
            while self._connection.poll():
                self._free.append(self._connection.recv())
            if not self._free:
                self.flush()
        if not self._free:
            began = time.monotonic()
            self._free.append(self._connection.recv())
            self._heartbeat.beat()
            self.wait_seconds += time.monotonic() - began
        return self._free.pop()

    def collect(self) -> Task | None:
        """Next task from the parent; slot answers that arrive before it are kept. None: no more work."""
        while True:
            item = self._connection.recv()
            if item is None or isinstance(item, Task):
                return item
            self._free.append(item)


def file_digest(path: str, heartbeat: Heartbeat | None = None) -> str:
    """`blake2b:<hex>` (20 bytes) of a file's contents. Raises OSError."""
    digest = hashlib.blake2b(digest_size=20)
    with Path(path).open("rb") as file:
        while chunk := file.read(DIGEST_CHUNK_BYTES):
            digest.update(chunk)
            if heartbeat:
                heartbeat.beat()
    return f"blake2b:{digest.hexdigest()}"


def main(connection: Connection, memory: Any, pulse: Any, noise_path: str, settings: WorkerSettings) -> None:
    """Entry point of the process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent's to handle; it ends workers with SIGKILL
    _die_with_parent()
    noise = Noise(Path(noise_path))
    quiet_libraries()
    heartbeat = Heartbeat(pulse)
    slots = SlotWriter(connection, memory, settings, heartbeat)
    try:
        while (task := slots.collect()) is not None:
            noise.reset()
            heartbeat.beat()
            watch = FileWatch(task.path)
            message = _run(task, slots, settings, heartbeat, noise, connection)
            connection.send(_judged(message, watch, task.path, heartbeat))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone


def _run(
    task: Task,
    slots: SlotWriter,
    settings: WorkerSettings,
    heartbeat: Heartbeat,
    noise: Noise,
    connection: Connection,
) -> Message:
    try:
        status = Path(task.path).stat()
        if stat.S_ISDIR(status.st_mode):  # some file systems give folders 0 bytes
            os.scandir(task.path).close()  # a folder that cannot be listed says why
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if status.st_size == 0:
            return Failed(task.number, "empty-file", "the file has 0 bytes")
        if task.probe:
            return _probe(task, noise)
        digest = file_digest(task.path, heartbeat)
    except OSError as error:
        return Failed(task.number, *reading_trouble(error))
    if task.known_digest and digest == task.known_digest:
        return Unchanged(task.number, digest)
    if settings.hears:
        from pipeline.decoding.hearing import lacking

        if why := lacking(Path(task.path), settings.plans, settings.optional, settings.lacks_all):
            return Failed(task.number, "missing-stream", why, digest)  # found before pictures are decoded
    decoder = task.decoder
    notes: list[str] = []
    while True:
        slots.start(task.number)
        slots.wait_seconds = 0.0
        began = time.perf_counter()
        other = takes_over(decoder)
        try:
            video = _decode(task, decoder, slots, settings, heartbeat, noise)
        except DecodeProblem as problem:
            if other is None:
                detail = "; ".join(part for part in (problem.detail, noise.tail()) if part)
                return Failed(task.number, problem.reason, detail, digest, tuple(notes))
            why = f"{decoder}: {problem.detail}"
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except MemoryError:
            return Failed(task.number, "out-of-memory", "the decoder ran out of memory", digest, tuple(notes))
        except Exception as error:  # noqa: BLE001 - any fault in a decoder costs one video, with its evidence
            traceback.print_exc()
            if other is None:
                return Failed(task.number, *fault(error), digest, tuple(notes))
            why = f"{decoder}: {type(error).__name__}: {error}"
        else:
            slots.flush()
            seconds = time.perf_counter() - began - slots.wait_seconds
            return Finished(
                task.number, digest, video.decoder, video, seconds, slots.wait_seconds, tuple(notes)
            )
        notes.append(why)
        assert other is not None
        decoder = other
        noise.reset()
        connection.send(Restarted(task.number, decoder, why))


def _judged(message: Message, watch: FileWatch, path: str, heartbeat: Heartbeat) -> Message:
    """The outcome with the stamp of the file that was read, or passing trouble in its place."""
    if isinstance(message, Unchanged):
        return replace(
            message, stamp=watch.stamp
        )  # from before it was read: a change meanwhile shows next time
    if not isinstance(message, Finished | Failed):
        return message
    clean, detail = False, ""
    if isinstance(message, Finished):
        video = message.video
        clean = not video.n_errors and video.duration_seconds >= SHORT_SHARE * video.declared_seconds
    else:
        detail = message.detail
    if message.digest:
        trouble = watch.trouble(
            message.digest, lambda: file_digest(path, heartbeat), clean=clean, detail=detail
        )
        if trouble is not None:
            return Failed(message.number, *trouble, notes=message.notes)
    return replace(message, stamp=watch.stamp)


def _probe(task: Task, noise: Noise) -> Message:
    from pipeline.decoding.probe import probe_file

    try:
        return Probed(task.number, probe_file(Path(task.path), sound=task.sound))
    except DecodeProblem as problem:
        detail = "; ".join(part for part in (problem.detail, noise.tail()) if part)
        return Failed(task.number, problem.reason, detail)


def _decode(
    task: Task,
    decoder: DecoderName,
    slots: SlotWriter,
    settings: WorkerSettings,
    heartbeat: Heartbeat,
    noise: Noise,
) -> DecodedVideo:
    size_bytes = Path(task.path).stat().st_size

    def beat(n_frames: int) -> None:
        heartbeat.beat()
        if n_frames > size_bytes:
            raise DecodeProblem(
                "decode-errors", f"more frames than bytes: {n_frames} frames from {size_bytes} bytes"
            )

    try:
        source = open_frames(Path(task.path), decoder)
    except DecodeProblem as problem:
        if problem.reason != "no-video-stream" or settings.needs_pictures:
            raise
        from pipeline.decoding.other_media import sound_alone

        video = sound_alone(task, settings.plans, emit=slots.emit, beat=heartbeat.beat)
        return _long_enough(video, settings)
    try:
        video = decode_video(source, settings.plans, emit=slots.emit, beat=beat)
    finally:
        source.close()
    if takes_over(decoder) and (complaint := noise.tail() or _damage(video)):
        raise DecodeProblem("decode-errors", complaint)
    share = min(1.0, video.n_errors / max(1, video.n_frames))  # a lost packet is an error that gives no frame
    if share > settings.max_error_share:
        raise DecodeProblem(
            "decode-errors",
            f"{video.n_errors} errors in {video.n_frames} frames, over {settings.max_error_share:.0%}",
        )
    _long_enough(video, settings)
    if any(plan.sound or plan.words for plan in settings.plans):
        from pipeline.decoding.other_media import with_other_media

        told = noise.tail()
        video = with_other_media(video, source, task, settings.plans, emit=slots.emit, beat=heartbeat.beat)
        if not told:
            noise.reset()  # what a decoder of sound or subtitles prints is no damage of pictures
        if len(video.absent) == len(settings.plans) and not settings.lacks_all:
            name, why = next(iter(video.absent.items()))
            raise DecodeProblem("missing-stream", f"{name}: {why}; no other stream was asked for")
    if not video.n_errors and (complaint := noise.tail()):
        # what a decoder conceals it only prints: lost references, slices that do not parse
        return replace(
            video, notes=(*video.notes, f"no frame is reported damaged, but its decoder says: {complaint}")
        )
    return video


def _long_enough(video: DecodedVideo, settings: WorkerSettings) -> DecodedVideo:
    if video.duration_seconds < settings.min_seconds:
        raise DecodeProblem("too-short", f"{video.duration_seconds:.3f} s, under {settings.min_seconds} s")
    return video


def _damage(video: DecodedVideo) -> str:
    """What PyAV should have a look at, though the decoder itself did not complain."""
    if video.n_frames == 1:
        return "one frame only: a video or the cover of a sound file?"
    return f"{video.n_errors} frames are damaged or have a broken time" if video.n_errors else ""


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
