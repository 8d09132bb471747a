"""PyAV: FFmpeg with every picture's own time, and with errors reported frame by frame, so damage is counted, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from cache.labels.media import named_as_video
from pipeline.decoding.decoders.base import Declared, DecodeProblem, DecoderName, FrameRef
from pipeline.decoding.decoders.conversion import converted_as
from pipeline.decoding.decoders.orientation import Orientation
from pipeline.decoding.decoders.reordering import holds_decoding_times
from pipeline.decoding.decoders.streams import choose_stream, open_container, plain_reason
from pipeline.decoding.decoders.tiff import tiff_note
from pipeline.decoding.decoders.timeline import (
    FALLBACK_INTERVAL_SECONDS,
    MAX_NOMINAL_SECONDS,
    Timed,
    Timeline,
)
from pipeline.decoding.frames import Luma, RgbFrame
from pipeline.decoding.trouble import LOST_MOUNT

DECODE_TIMES_ONLY = frozenset({"avi", "asf"})
"""Demuxers of containers that hold one time a packet, the one at which it is decoded: presentation times are made up from it."""
RAW_DEMUXERS = frozenset(
    {"h264", "hevc", "vvc", "mpegvideo", "m4v", "h263", "h261", "mjpeg", "vc1", "dirac", "obu"}
)
"""FFmpeg's demuxers of streams without a container: no frame has a time of its own."""
HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}
"""libavutil/pixfmt.h: AVCOL_TRC_SMPTE2084 and AVCOL_TRC_ARIB_STD_B67."""

PICTURE_BRANDS = frozenset({"avif", "heic", "heix", "mif1"})
"""Of ISO files that hold pictures (ISO/IEC 23008-12, AVIF): FFmpeg demuxes them as mov."""
GUESSED_SECONDS = 0.04
"""A frame's duration at the 25 frames a second that FFmpeg's raw demuxers guess (libavformat/rawdec.h: `framerate`)."""
FULL_RANGE_FORMATS = frozenset({"gray", "yuvj420p", "yuvj422p", "yuvj440p", "yuvj444p"})
LUMA_FIRST = FULL_RANGE_FORMATS | {"yuv420p", "yuv422p", "yuv440p", "yuv444p", "nv12", "nv21"}
"""Pixel formats of 8 bits whose first plane is luma."""
FULL_RANGE = 2
"""libavutil/pixfmt.h: AVCOL_RANGE_JPEG; what says nothing is limited, as in conversions to RGB."""
B_FRAME = 3
"""libavutil/avutil.h: AV_PICTURE_TYPE_B."""


class PyAVFrames:
    """Frames of one video through PyAV, on one thread. Raises `DecodeProblem` on open."""

    decoder: DecoderName = "pyav"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.container = open_container(path)
        try:
            self.stream, note = choose_stream(self.container, path)
            if self.stream.codec_context.name == "tiff":
                note = note or tiff_note(path)
        except DecodeProblem:
            self.container.close()
            raise
        self.stream.thread_type = "NONE"
        self.declared = declared_by(self.container, self.stream)
        self.notes = [note] if note else []
        self.n_frames = 0
        self.n_errors = 0
        self.tail_seconds = 0.0
        self.first_seconds: float | None = None
        self.messages: list[str] = []
        self._reordered = False
        self._to_rgb = VideoReformatter()

    def __iter__(self) -> Iterator[FrameRef]:
        rate = self.declared.fps
        raw = self.container.format.name in RAW_DEMUXERS
        decode_times = self.container.format.name in DECODE_TIMES_ONLY
        disguised = not (decode_times or raw) and holds_decoding_times(self._path, self.stream)
        decode_times |= disguised
        timeline = Timeline(
            declared_fps=rate, declared_seconds=self.declared.longest_seconds, decode_times=decode_times
        )
        held: tuple[float, Any] | None = None
        for pts, frame in timeline.run(self._in_order() if raw else map(_timed, self._decode())):
            if held is None:
                self._look_at(frame)
            else:
                yield self._shown(held[1], held[0], pts)
            held = (pts, frame)
        self.n_errors += timeline.repairs
        self.first_seconds = None if raw else timeline.first_seconds
        if held is None:
            return
        if timeline.switched or disguised:
            self.notes.append("its presentation times run backwards: placed by decoding times")
        if (decode_times or timeline.switched) and timeline.uneven and self._reordered:
            self.notes.append(
                "an uneven rate in a container without presentation times: with its B-frames a time may be off by a few frames"
            )
        if self.n_frames > 1 and (raw or timeline.n_untimed == self.n_frames):
            self._note_rate(held[1])
        if self.n_frames == 1 and (kind := picture_kind(self.container)) and named_as_video(self._path):
            self.notes.append(
                f"a single picture ({kind}) in a file that is named as a video ({self._path.suffix})"
            )
        shown = _seconds(held[1], held[1].duration)
        still = self.n_frames == 1 and rate <= 0 and shown <= 0
        self.tail_seconds = 0.0 if still else timeline.tail(shown)
        yield self._shown(held[1], held[0], None)

    def _in_order(self) -> Iterator[Timed[Any]]:
        """The frames of a stream without a container, one after the other: what passes for their times there is FFmpeg's
        guess."""
        seconds = 0.0
        for frame in self._decode():
            step = self._raw_step_seconds(frame)
            yield Timed(frame, seconds, None, step)
            seconds += min(step, MAX_NOMINAL_SECONDS)

    def _raw_step_seconds(self, frame: Any) -> float:
        """How long a frame of a stream without a container is shown: the stream's own rate before the demuxer's guess."""
        shown = _seconds(frame, frame.duration)
        own = self.stream.codec_context.framerate
        if own and shown in (0.0, GUESSED_SECONDS):
            return float(1 / own)
        declared = 1 / self.declared.fps if self.declared.fps > 0 else FALLBACK_INTERVAL_SECONDS
        return shown or declared

    def _look_at(self, frame: Any) -> None:
        if curve := HIGH_DYNAMIC_RANGE.get(int(frame.color_trc)):
            self.notes.append(f"high dynamic range ({curve}): taken as coded, not tone-mapped")

    def _note_rate(self, frame: Any) -> None:
        known = self.stream.codec_context.framerate
        step = self._raw_step_seconds(frame)
        where = "the stream's own" if known else "nothing says it, so this is a guess"
        self.notes.append(f"no frame has a time: placed at {1 / step:g} frames a second ({where})")

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
            # MPEG-TS lost a part of it, which a decoder may patch up in silence
            self.n_errors += bool(packet.is_corrupt)
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
        self._reordered |= int(frame.pict_type) == B_FRAME

    def _note(self, error: Exception) -> None:
        if plain_reason(error) in LOST_MOUNT:  # no damage: the rest of the file is there, elsewhere
            raise DecodeProblem("unreadable-file", f"cannot be read: {plain_reason(error)}") from error
        self.n_errors += 1
        if len(self.messages) < 5:
            self.messages.append(plain_reason(error))

    def _shown(self, frame: Any, pts: float, following: float | None) -> FrameRef:
        luma, rgb_as = partial(_luma, frame), partial(_rgb_as, frame)
        return FrameRef(pts, following, self._converter(frame), luma, rgb_as)

    def _converter(self, frame: Any) -> Callable[[], RgbFrame]:
        def rgb() -> RgbFrame:
            try:
                # one thread: the workers are the parallelism, and a thread pool a frame costs more than it gives
                shown = self._to_rgb.reformat(frame, format="rgb24", threads=1)
                pixels = np.asarray(shown.to_ndarray(), dtype=np.uint8)
            except (av.error.FFmpegError, ValueError) as error:
                raise DecodeProblem(
                    "decode-errors", f"frame cannot be converted to RGB: {plain_reason(error)}"
                ) from error
            return Orientation.of_frame(frame).apply(pixels)

        return rgb

    def close(self) -> None:
        """Free the decoder."""
        self.container.close()


def _rgb_as(frame: Any, decoder: DecoderName) -> RgbFrame | None:
    pixels = converted_as(frame, decoder)
    return None if pixels is None else Orientation.of_frame(frame).apply(pixels)


def _luma(frame: Any) -> Luma | None:
    """Its first plane, as it is to be shown, where that is luma of 8 bits."""
    name = frame.format.name
    if name not in LUMA_FIRST:
        return None
    try:
        rows = np.frombuffer(frame.planes[0], np.uint8).reshape(-1, frame.planes[0].line_size)
    except ValueError as error:
        raise DecodeProblem("decode-errors", f"frame's luma cannot be read: {plain_reason(error)}") from error
    plane = Orientation.of_frame(frame).apply(rows[: frame.height, : frame.width])
    return Luma(plane, limited=frame.color_range != FULL_RANGE and name not in FULL_RANGE_FORMATS)


def declared_by(container: Any, stream: Any) -> Declared:
    """What the header says. A container's duration covers every stream in it and may count from zero, so it bounds the
    video's; ASF knows no other one."""
    rate = stream.codec_context.framerate or stream.average_rate or 0
    own = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if container.format.name == "asf" and len(container.streams) > 1:
        own = 0.0
    if not own and (tagged := _tagged_seconds(stream.metadata.get("DURATION", ""))):
        first = float(stream.start_time * stream.time_base) if stream.start_time else 0.0
        own = tagged - max(0.0, first)  # the tag says when the stream ends
    whole = container.duration / 1e6 if container.duration else 0.0  # AV_TIME_BASE is microseconds
    if not own and len(container.streams) == 1:
        start = container.start_time / 1e6 if container.start_time else 0.0
        own = whole - max(0.0, start)
    return Declared(
        n_frames=int(stream.frames or 0),
        fps=float(rate),
        duration_seconds=max(0.0, own),
        longest_seconds=max(0.0, own, whole),
    )


def picture_kind(container: Any) -> str:
    """The format of pictures that a container is of, or ""."""
    demuxer = container.format.name
    kind = str(demuxer.removesuffix("_pipe"))  # those of pictures end so
    if kind != demuxer or kind in ("gif", "apng"):
        return kind
    brand = container.metadata.get("major_brand", "").strip()
    return brand if brand in PICTURE_BRANDS else ""


def _tagged_seconds(text: str) -> float:
    """Matroska's DURATION tag, `00:00:14.267000000`, in seconds; 0 where it is something else."""
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0


def _timed(frame: Any) -> Timed[Any]:
    return Timed(
        frame,
        None if frame.pts is None else _seconds(frame, frame.pts),
        None if frame.dts is None else _seconds(frame, frame.dts),
        max(0.0, _seconds(frame, frame.duration)),
    )


def _seconds(frame: Any, ticks: int | None) -> float:
    """Divided as integers: what a product of fractions would round to, at a sixth of its time (1.2 and 0.2 us)."""
    base = frame.time_base
    return float(ticks * base.numerator / base.denominator) if ticks and base else 0.0
