"""PyAV: FFmpeg with errors reported frame by frame, so damage is counted, not guessed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.decoders.base import Declared, DecodeProblem, FrameRef
from pipeline.decoders.timeline import Timeline
from pipeline.frames import RgbFrame
from pipeline.trouble import LOST_MOUNT

ATTACHED_PICTURE = "attached_pic"
OPTIONS = {"protocol_whitelist": "file", "pattern_type": "none"}
"""Only this file: nothing from the network, and `im%02d.png` is a name, not a numbered series."""


class PyAVFrames:
    """Frames of one video through PyAV, on one thread. Raises `DecodeProblem` on open."""

    def __init__(self, path: Path) -> None:
        try:
            self.container = av.open(str(path), options=OPTIONS)
        except (av.error.FFmpegError, ValueError) as error:
            raise DecodeProblem("unreadable-container", _plain(error)) from error
        stream = next((s for s in self.container.streams.video if not _is_cover_art(s)), None)
        if stream is None:
            kinds = [str(s.type) for s in self.container.streams]
            self.container.close()
            raise DecodeProblem("no-video-stream", f"streams in the file: {', '.join(kinds) or 'none'}")
        if stream.codec_context is None:
            self.container.close()
            raise DecodeProblem(
                "unreadable-container", "the video stream has a codec that FFmpeg does not know"
            )
        stream.thread_type = "NONE"
        self.stream = stream
        fps = float(stream.average_rate or 0)
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        if not seconds and self.container.duration:
            seconds = self.container.duration / 1e6  # AV_TIME_BASE is microseconds
        self.declared = Declared(
            n_frames=int(stream.frames or 0), fps=fps, duration_seconds=max(0.0, seconds)
        )
        self.n_frames = 0
        self.n_errors = 0
        self.tail_seconds = 0.0
        self.messages: list[str] = []

    def __iter__(self) -> Iterator[FrameRef]:
        timeline = Timeline(declared_fps=self.declared.fps, declared_seconds=self.declared.duration_seconds)
        held: tuple[float, Any] | None = None
        last = None
        for frame in self._decode():
            pts = timeline.place(frame.time)
            if held is not None:
                yield FrameRef(held[0], pts, _converter(held[1]))
            held, last = (pts, frame), frame
        self.n_errors += timeline.repairs
        if held is not None and last is not None:
            shown = float(last.duration * last.time_base) if last.duration and last.time_base else 0.0
            still = self.n_frames == 1 and self.declared.fps <= 0 and shown <= 0
            self.tail_seconds = 0.0 if still else timeline.tail(shown)
            yield FrameRef(held[0], None, _converter(held[1]))

    def _decode(self) -> Iterator[Any]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, IndexError) as error:
                # the container ends in the middle of something, or speaks of a stream that is not there
                self._note(error)
                yield from self._flush()
                return
            try:
                frames = packet.decode()
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                self._note(error)
                continue
            for frame in frames:
                self._count(frame)
                yield frame

    def _flush(self) -> Iterator[Any]:
        try:
            frames = self.stream.decode(None)
        except av.error.FFmpegError:
            return
        for frame in frames:
            self._count(frame)
            yield frame

    def _count(self, frame: Any) -> None:
        self.n_frames += 1
        self.n_errors += bool(frame.is_corrupt)

    def _note(self, error: Exception) -> None:
        if _plain(error) in LOST_MOUNT:  # no damage: the rest of the file is there, elsewhere
            raise DecodeProblem("unreadable-file", f"cannot be read: {_plain(error)}") from error
        self.n_errors += 1
        if len(self.messages) < 5:
            self.messages.append(_plain(error))

    def close(self) -> None:
        """Free the decoder."""
        self.container.close()


def _converter(frame: Any) -> Any:
    def rgb() -> RgbFrame:
        try:
            pixels: RgbFrame = frame.to_ndarray(format="rgb24")
        except (av.error.FFmpegError, ValueError) as error:
            raise DecodeProblem(
                "decode-errors", f"frame cannot be converted to RGB: {_plain(error)}"
            ) from error
        # The display matrix turns counterclockwise, as numpy.rot90 does; decord and OpenCV apply it too.
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels

    return rgb


def _is_cover_art(stream: Any) -> bool:
    disposition = stream.disposition
    return bool(disposition & type(disposition)[ATTACHED_PICTURE])


def _plain(error: Exception) -> str:
    """FFmpeg's reason without PyAV's error number and the path, which the reject names already."""
    return str(getattr(error, "strerror", None) or error)
