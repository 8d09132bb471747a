"""Decoding the sound of a video, on the clock of its pictures: mono windows at a fixed rate, in one pass and in flat memory.

Every decoded frame stands where its own time puts it: priming and edit lists are the decoder's to take off, a gap of more than
GAP_SECONDS is silence, what overlaps is dropped. Sound before the first picture and after the last one has ended is not of the
video. The file is opened for it once more: damage in one medium must not cost the other, and decoders other than PyAV hear
nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.decoding.decode import DecodedVideo, Emit, StreamPlan
from pipeline.decoding.decoders.animation import is_animated_webp
from pipeline.decoding.decoders.base import DecodeProblem, checked_path
from pipeline.decoding.decoders.streams import choose_stream, open_container, plain_reason
from pipeline.decoding.sampling import Sampling
from pipeline.decoding.sound import Absent, Heard, Samples, SoundTrack

GAP_SECONDS = 0.02
"""A frame that begins this much off where the one before ended is placed anew; below, it is rounding of times to milliseconds."""
LEAST_SECONDS = 0.05
"""Less sound than this within the pictures is none."""
NO_SOUND = "no audio stream"
SILENT_FILE = "the audio stream gives no sound while there are pictures"
NO_PICTURES = "no video stream"
BROKEN_CLOCK_SECONDS = 1.0
"""Without pictures to be on time with, a clock that jumps back by more than this, or on past the declared end, is broken."""


def with_sound(
    video: DecodedVideo,
    path: Path,
    plans: Sequence[StreamPlan],
    *,
    first_seconds: float | None,
    emit: Emit,
    beat: Callable[[], None],
    alone: bool = False,
) -> DecodedVideo:
    """The video with the streams of sound of its file: emitted, or absent for a reason.

    first_seconds: the first picture's time by the container, where its decoder knows it. alone: there are no pictures.
    """
    heard: dict[str, Heard] = {}
    absent: dict[str, str] = {}
    notes = list(video.notes)
    for index, plan in enumerate(plans):
        if plan.sound is None:
            continue
        try:
            heard[plan.name] = hear(
                path,
                plan.sound,
                plan.sampling,
                origin_seconds=first_seconds,
                duration_seconds=None if alone else video.duration_seconds,
                declared_seconds=video.declared_seconds,
                emit=partial(emit, index),
                beat=beat,
            )
        except Absent as error:
            absent[plan.name] = str(error)
            continue
        notes += [note for note in heard[plan.name].notes if note not in notes]
    return replace(video, heard=heard, absent=absent, notes=tuple(notes))


def lacking(path: Path, plans: Sequence[StreamPlan], optional: Collection[str], lacks_all: bool) -> str:
    """Which stream of sound must be in a file and is not, by its header, with why; "" for none, and where it does not open.

    lacks_all: whether a video may lack every stream.
    """
    sounds = [plan for plan in plans if plan.sound is not None]
    alone = len(sounds) == len(plans) and not lacks_all
    if not alone and all(plan.name in optional for plan in sounds):
        return ""
    why: dict[str, str] = {}
    for plan in sounds:
        assert plan.sound is not None
        try:
            container = _opened(path)
        except Absent as absent:
            if str(absent) != NO_SOUND:
                return ""
            why[plan.name] = NO_SOUND
            continue
        try:
            _chosen(container, plan.sound)
        except Absent as absent:
            why[plan.name] = str(absent)
        finally:
            container.close()
    required = [name for name in why if name not in optional]
    if required:
        return f"{required[0]}: {why[required[0]]}"
    if alone and len(why) == len(sounds):
        name = next(iter(why))
        return f"{name}: {why[name]}; no other stream was asked for"
    return ""


def sound_alone(
    path: Path, plans: Sequence[StreamPlan], *, emit: Emit, beat: Callable[[], None]
) -> DecodedVideo:
    """A file without pictures, by its sound: time 0 is where its first audio stream begins, the end is where the last sound ends.

    Streams of pictures are absent. Raises DecodeProblem where streams of sound are wanted and none can be heard.
    """
    with open_container(checked_path(path)) as container:
        declared = (container.duration or 0) / av.time_base
        origin = first_sound_seconds(container)
    absent = {plan.name: NO_PICTURES for plan in plans if plan.sees}
    video = DecodedVideo(declared, 0.0, 0, 0, n_frames=0, n_errors=0, declared_seconds=declared)
    video = with_sound(video, path, plans, first_seconds=origin, emit=emit, beat=beat, alone=True)
    if not video.heard and video.absent:
        name, why = next(iter(video.absent.items()))
        raise DecodeProblem("missing-stream", f"{name}: {why}; there is no video stream either")
    end = max((heard.end_seconds for heard in video.heard.values()), default=declared)
    return replace(video, duration_seconds=end, absent={**absent, **video.absent})


def hear(
    path: Path,
    track: SoundTrack,
    sampling: Sampling,
    *,
    origin_seconds: float | None,
    duration_seconds: float | None,
    emit: Callable[[Samples], None],
    beat: Callable[[], None],
    declared_seconds: float = 0.0,
) -> Heard:
    """Decode one audio stream and emit its windows in order; a window is shorter only where all of the sound is.

    sampling: fps is the track's rate; window and stride count samples. origin_seconds: the first picture's time by the container;
    None: found here. duration_seconds: of the pictures; None: there are none, and declared_seconds is what the header says.
    Raises Absent where there is nothing to hear, with the reason.
    """
    placed = _Placed(track.rate_hz, duration_seconds, declared_seconds)
    windows = _Windows(sampling)
    errors = _Errors()
    container = _opened(path)
    try:
        stream = _chosen(container, track)
        n_streams = len(container.streams.audio)
        origin = first_picture_seconds(path) if origin_seconds is None else origin_seconds
        for start_seconds, samples in _stretches(container, stream, track.rate_hz, errors):
            for piece in placed.take(start_seconds - origin, samples):
                beat()
                for window in windows.push(piece):
                    emit(window)
            if placed.done:
                break
    except (av.error.FFmpegError, ValueError) as error:  # of the resampler: what was heard before it stands
        errors.note(error)
    finally:
        container.close()
    if windows.n_samples < LEAST_SECONDS * track.rate_hz:
        raise Absent(f"audio could not be decoded: {errors.first}" if errors.first else SILENT_FILE)
    for window in windows.finish():
        emit(window)
    notes = [f"sound: {errors.count} packets or frames were lost ({errors.first})"] if errors.count else []
    if placed.silence_seconds > 1.0:
        notes.append(f"{placed.silence_seconds:.1f} s of sound are missing in between: taken as silence")
    if placed.n_jumps:
        notes.append(f"the clock of the sound jumped {placed.n_jumps} times: taken as if it had gone on")
    if n_streams > 1:
        notes.append(f"audio stream {track.track} was taken of {n_streams}")
    start = placed.start / track.rate_hz
    end = start + windows.n_samples / track.rate_hz
    end = end if duration_seconds is None else min(end, duration_seconds)
    return Heard(start, end, windows.n_samples, tuple(notes))


class _Errors:
    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def note(self, error: Exception) -> None:
        """Something that was not heard, and the first reason."""
        self.count += 1
        self.first = self.first or plain_reason(error)


def _opened(path: Path) -> Any:
    if is_animated_webp(path):
        raise Absent(NO_SOUND)  # FFmpeg does not open it, and it holds none
    try:
        return open_container(checked_path(path))
    except DecodeProblem as problem:
        raise Absent(f"audio could not be decoded: {problem.detail}") from problem


def _chosen(container: Any, track: SoundTrack) -> Any:
    """The audio stream of an opened container. Raises Absent, by what the header says."""
    streams = container.streams.audio
    if track.track >= len(streams):
        raise Absent(f"no audio stream {track.track}, there are {len(streams)}" if len(streams) else NO_SOUND)
    if streams[track.track].codec_context is None:
        raise Absent("audio could not be decoded: a codec that FFmpeg does not know")
    return streams[track.track]


def first_sound_seconds(container: Any) -> float:
    """The time of the first sound of the first audio stream, by the container's clock; 0 where there is none."""
    streams = container.streams.audio
    if not streams or streams[0].codec_context is None:
        return 0.0
    frame = next(_frames(container, streams[0], _Errors()), None)
    return 0.0 if frame is None or frame.pts is None else float(frame.pts * frame.time_base)


def first_picture_seconds(path: Path) -> float:
    """The time of the first picture by the container's clock."""
    container = _opened(path)
    try:
        stream, _ = choose_stream(container, path)
        for frame in container.decode(stream):
            if frame.pts is not None:
                return float(frame.pts * frame.time_base)
    except (DecodeProblem, av.error.FFmpegError, IndexError):
        pass
    finally:
        container.close()
    return 0.0


class _Stretch:
    """Frames that follow one another without a break, mixed and resampled; start_seconds: by the container's clock."""

    def __init__(self, start_seconds: float, rate_hz: int, shape: tuple[Any, ...]) -> None:
        self.shape = shape
        self._start, self._rate, self._given = start_seconds, rate_hz, 0
        self._resampler = av.AudioResampler("flt", "mono", rate_hz)

    def add(self, frame: Any) -> Iterator[tuple[float, Samples]]:
        """The samples that are ready, with their time; None for a frame: the rest."""
        for out in self._resampler.resample(frame):
            samples = np.asarray(out.to_ndarray(), dtype=np.float32).reshape(-1)
            yield self._start + self._given / self._rate, samples
            self._given += len(samples)


def _stretches(container: Any, stream: Any, rate_hz: int, errors: _Errors) -> Iterator[tuple[float, Samples]]:
    """(time by the container's clock, mono samples) in order of decoding; what is not finite is lost, and so a gap."""
    stretch: _Stretch | None = None
    next_seconds = 0.0
    for frame in _frames(container, stream, errors):
        pts_seconds = next_seconds if frame.pts is None else float(frame.pts * frame.time_base)
        shape = (frame.sample_rate, frame.layout.name, frame.format.name)
        if not is_finite(frame):
            errors.note(ValueError("samples that are not finite"))
            if stretch is not None:
                yield from stretch.add(None)
            stretch, next_seconds = None, pts_seconds + frame.samples / frame.sample_rate
            continue
        if stretch is None or shape != stretch.shape or abs(pts_seconds - next_seconds) > GAP_SECONDS:
            if stretch is not None:
                yield from stretch.add(None)
            stretch, next_seconds = _Stretch(pts_seconds, rate_hz, shape), pts_seconds
        next_seconds += frame.samples / frame.sample_rate
        frame.pts = None  # times are kept here; the resampler would stretch or cut by them
        yield from stretch.add(frame)
    if stretch is not None:
        yield from stretch.add(None)


def is_finite(frame: Any) -> bool:
    """Whether a decoded frame holds numbers only: float PCM may hold anything."""
    floats = frame.format.name.startswith(("flt", "dbl"))
    return not floats or bool(np.isfinite(frame.to_ndarray()).all())


def _frames(container: Any, stream: Any, errors: _Errors) -> Iterator[Any]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.error.FFmpegError, IndexError, ValueError) as error:
            errors.note(error)
            return
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except (av.error.FFmpegError, ValueError) as error:
            errors.note(error)
            continue
        yield from (frame for frame in frames if frame.samples and frame.sample_rate)


class _Placed:
    """Stretches of sound as one row of samples on the pictures' clock: cut at both ends, gaps filled, overlaps dropped.

    duration_seconds: None: there are no pictures, and the row ends where the sound does.
    """

    def __init__(self, rate_hz: int, duration_seconds: float | None, declared_seconds: float = 0.0) -> None:
        self._rate, self._alone = rate_hz, duration_seconds is None
        self._end = sys.maxsize if duration_seconds is None else round(duration_seconds * rate_hz)
        self._longest_gap = round((declared_seconds + BROKEN_CLOCK_SECONDS) * rate_hz)
        self._position: int | None = None
        self._moved = 0
        self.n_jumps = 0
        self.start = 0
        self.silence_seconds = 0.0

    @property
    def done(self) -> bool:
        """Whether the pictures have ended."""
        return self._position is not None and self._position >= self._end

    def take(self, start_seconds: float, samples: Samples) -> Iterator[Samples]:
        """The samples that come next, in order."""
        first = round(start_seconds * self._rate) + self._moved
        if self._position is None:
            if first + len(samples) <= 0 or first >= self._end:
                return
            self._position = self.start = max(first, 0)
        gap = first - self._position
        if self._alone and not -BROKEN_CLOCK_SECONDS * self._rate <= gap <= self._longest_gap:
            self._moved -= gap
            self.n_jumps += 1
            gap = 0
        # what the rounding of times makes is no gap
        if gap > 1:
            gap = min(gap, self._end - self._position)
            self.silence_seconds += gap / self._rate
            self._position += gap
            for begin in range(0, gap, self._rate):  # a second at a time: a gap may be an hour
                yield np.zeros(min(self._rate, gap - begin), np.float32)
        elif gap < -1:
            samples = samples[-gap:]
        samples = samples[: max(0, self._end - self._position)]
        self._position += len(samples)
        if len(samples):
            yield samples


class _Windows:
    """Samples to windows; the last one ends where the sound does. Holds three windows at most."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._held = np.empty(3 * sampling.window, np.float32)
        self._held_from = 0
        self._next = 0
        self._covered = 0
        self.n_samples = 0

    def push(self, samples: Samples) -> Iterator[Samples]:
        """Windows that these samples complete."""
        window, stride = self._sampling.window, self._sampling.stride
        for first in range(0, len(samples), window):
            self._hold(samples[first : first + window])
            while self._next + window <= self.n_samples:
                begin = self._next - self._held_from
                yield self._held[begin : begin + window].copy()
                self._covered = self._next + window
                self._next += stride

    def _hold(self, samples: Samples) -> None:
        """A window at most; where there is no room, what no window can reach back to goes first."""
        filled = self.n_samples - self._held_from
        if filled + len(samples) > len(self._held):
            keep = min(max(0, self.n_samples - self._sampling.window), self._next)
            kept = self._held[keep - self._held_from : filled].copy()
            self._held[: len(kept)] = kept
            self._held_from, filled = keep, len(kept)
        self._held[filled : filled + len(samples)] = samples
        self.n_samples += len(samples)

    def finish(self) -> Iterator[Samples]:
        """The last window where none ended with the sound."""
        if self._covered < self.n_samples:
            first = max(0, self.n_samples - self._sampling.window)
            yield self._held[first - self._held_from : self.n_samples - self._held_from].copy()
