"""One video, one decode, the windows of every stream."""

from __future__ import annotations

import importlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoding.decoders.base import DecodeProblem, DecoderName, FrameSource
from pipeline.decoding.frames import FramePlan, Luma, PreparedFrame, RgbFrame, prepare_frame
from pipeline.decoding.sampling import GridCursor, Sampling
from pipeline.decoding.sound import Heard, SoundTrack
from pipeline.decoding.spectrogram import Prepared
from pipeline.decoding.words import Words, WordsPlan


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What one stream needs from the decode: its time grid and its frame preparation.

    reduce: `module:function` that makes one float32 vector [reduced_width] of a window's prepared frames in the decode worker,
    for streams that need no network; empty: the frames themselves leave the worker. sound: the stream reads this instead of
    pictures, its windows are samples, which are reduced or `prepared` for a network, and `frames` says nothing. words: it reads
    these instead; they leave the worker as text, which the parent turns into numbers of tokens, int32 [max_tokens].
    """

    name: str
    sampling: Sampling
    frames: FramePlan
    reduce: str = ""
    reduced_width: int = 0
    sound: SoundTrack | None = None
    prepared: Prepared | None = None
    words: WordsPlan | None = None

    @property
    def sees(self) -> bool:
        """Whether it reads pictures."""
        return self.sound is None and self.words is None

    @property
    def token_shape(self) -> tuple[int, ...]:
        """What leaves the worker for one token: prepared frames [T, H, W, C] or samples, or what they were reduced to, [D]."""
        if self.words is not None:
            return (self.words.max_tokens,)
        if self.prepared is not None:
            return self.prepared.shape
        return (self.reduced_width,) if self.reduce else (self.sampling.window, *self.frames.shape)

    @property
    def token_dtype(self) -> np.dtype[Any]:
        """dtype of it."""
        if self.words is not None:
            return np.dtype(np.int32)
        return np.dtype(np.float32) if self.reduce or self.prepared is not None else self.frames.dtype

    @property
    def token_bytes(self) -> int:
        """Bytes of it."""
        return math.prod(self.token_shape) * self.token_dtype.itemsize

    def fill(self, window: Any, target: NDArray[Any]) -> None:
        """Write one token's window into `target`, an array of its shape and dtype."""
        if self.prepared is not None:
            target[...] = self.prepared(window)
        elif self.reduce:
            target[...] = reduction(self.reduce)(window)
        else:
            np.stack(window, out=target)


Reduction = Callable[[Any], NDArray[np.float32]]


@cache
def reduction(path: str) -> Reduction:
    """The function that `module:function` names."""
    module, _, name = path.partition(":")
    found: Reduction = getattr(importlib.import_module(module), name)
    return found


@dataclass(frozen=True, slots=True)
class DecodedVideo:
    """What the decode found; times in seconds, sizes in pixels, after rotation."""

    duration_seconds: float
    fps: float
    width: int
    height: int
    n_frames: int
    n_errors: int
    declared_seconds: float
    decoder: DecoderName = "pyav"
    notes: tuple[str, ...] = ()
    heard: Mapping[str, Heard] = field(default_factory=dict)
    """Where the windows of streams of sound lie."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Streams that the file does not have, with why."""
    words: Mapping[str, Words] = field(default_factory=dict)
    """What streams of words read."""


Emit = Callable[[int, Any], None]
"""Takes the index of a stream and its next window: prepared frames, or samples."""


class WindowBuilder:
    """Collects grid samples and gives each window as soon as its last sample arrives."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._recent: deque[PreparedFrame] = deque(maxlen=sampling.window)
        self._n_samples = 0
        self._complete_at = sampling.window
        self._emitted_at = 0

    def push(self, frame: PreparedFrame, count: int) -> Iterator[Sequence[PreparedFrame]]:
        """Add `frame` as the next `count` grid samples; gives the windows that this completes."""
        for _ in range(count):
            self._recent.append(frame)
            self._n_samples += 1
            if self._n_samples == self._complete_at:
                self._complete_at += self._sampling.stride
                self._emitted_at = self._n_samples
                yield tuple(self._recent)

    def finish(self) -> Iterator[Sequence[PreparedFrame]]:
        """The last window where the grid does not end on one; a short video repeats its last sample."""
        if self._emitted_at != self._n_samples:
            samples = list(self._recent)
            samples += [samples[-1]] * (self._sampling.window - len(samples))
            yield tuple(samples)


def decode_video(
    source: FrameSource, plans: Sequence[StreamPlan], *, emit: Emit, beat: Callable[[int], None]
) -> DecodedVideo:
    """Decode `source` to its end and emit the windows of every plan, in time order within a stream.

    `beat` is called with the number of frames so far after every frame. Raises `DecodeProblem` where the decoder gives up or no
    frame comes out.
    """
    indices = [index for index, plan in enumerate(plans) if plan.sees]
    plans = [plans[index] for index in indices]
    cursors = [GridCursor(plan.sampling) for plan in plans]
    builders = [WindowBuilder(plan.sampling) for plan in plans]
    duration = width = height = 0.0
    last_pts = 0.0
    for frame in source:
        if frame.next_pts_seconds is None:
            duration = frame.pts_seconds + source.tail_seconds
            last_pts = frame.pts_seconds
            counts = [cursor.finish(duration) for cursor in cursors]
        else:
            counts = [cursor.take(frame.pts_seconds, frame.next_pts_seconds) for cursor in cursors]
        if not plans and not width:
            height, width = frame.rgb().shape[:2]  # of a video that is only heard
        if any(counts):
            rgb: RgbFrame | None = None  # converted once, and only where a stream wants colours
            prepared: dict[FramePlan, PreparedFrame] = {}
            for index, (plan, count) in enumerate(zip(plans, counts, strict=True)):
                if count:
                    sample = prepared.get(plan.frames)
                    if sample is None:
                        picture: RgbFrame | Luma | None = rgb
                        if plan.frames.recipe == "grey":
                            picture = frame.luma()
                        if picture is None:
                            picture = rgb = frame.rgb() if rgb is None else rgb
                        height, width = picture.shape[:2]
                        sample = prepared[plan.frames] = prepare_frame(picture, plan.frames)
                    for window in builders[index].push(sample, count):
                        emit(indices[index], window)
        beat(source.n_frames)
    if source.n_frames == 0:
        raise DecodeProblem("no-frames", "the video stream gave no frame")
    for index, builder in enumerate(builders):
        for window in builder.finish():
            emit(indices[index], window)
    declared = source.declared
    return DecodedVideo(
        duration_seconds=duration,
        fps=(source.n_frames - 1) / last_pts if last_pts > 0 else declared.fps,
        width=int(width),
        height=int(height),
        n_frames=source.n_frames,
        n_errors=source.n_errors,
        declared_seconds=declared.duration_seconds,
        decoder=source.decoder,
        notes=tuple(source.notes),
    )
