"""Which files the first decoding rules may have given wrong pictures or times, by what decoded them and by what the file is.

Rules 1 skipped through decord, which seeks inexactly, counted its position, trusted presentation times that AVI and ASF do not
hold, guessed 25 frames a second for raw streams, took the first video stream and knew turned pictures but no mirrored ones. A
file is cleared only where nothing of that can have mattered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av

from pipeline.decoding.decoders.animation import is_animated_webp
from pipeline.decoding.decoders.orientation import Orientation
from pipeline.decoding.decoders.pyav import DECODE_TIMES_ONLY, RAW_DEMUXERS
from pipeline.decoding.decoders.reordering import holds_decoding_times
from pipeline.decoding.decoders.streams import choose_stream, open_container, several_streams
from pipeline.decoding.decoders.suited import DECORD_DEMUXERS
from pipeline.decoding.decoders.timeline import ROUNDING_SECONDS, SAME_SECONDS

INTRA_CODECS = frozenset({"mjpeg", "prores", "ffv1", "dvvideo", "png", "rawvideo", "huffyuv"})
"""Every picture stands for itself: a seek lands where it should."""
CLEAN_CODECS = frozenset({"vp8", "vp9", "libvpx", "libvpx-vp9"})
"""Key frames after which nothing refers to what came before; measured right (tests/pipeline/test_numbered.py)."""
IDR = 5
"""NAL unit type of a picture after which H.264 refers to nothing before it (ITU-T H.264, table 7-1)."""


@dataclass(frozen=True, slots=True)
class _Packet:
    pts: int
    is_key: bool
    is_idr: bool


def why_affected(path: Path, decoder: str) -> str:
    """Why what rules 1 stored of this file, decoded with `decoder`, may be wrong; "" where it is right.

    Raises DecodeProblem where the file cannot be opened.
    """
    if is_animated_webp(path):
        return ""  # was rejected
    with open_container(path) as container:
        demuxer = container.format.name.split(",")[0]
        if several_streams(container):
            return "several video streams, of which the first was taken"
        stream, _ = choose_stream(container, path)
        codec = stream.codec_context.name
        if demuxer in DECODE_TIMES_ONLY and codec not in INTRA_CODECS:
            return f"{codec} in {demuxer}: presentation times that the container does not hold"
        if demuxer in RAW_DEMUXERS:
            return f"a raw {codec} stream, whose rate was guessed"
        if holds_decoding_times(path, stream):
            return f"{codec} in {demuxer}: presentation times that are decoding times, copied out of another container"
        if decoder == "decord" and (why := _through_decord(container, stream, demuxer, codec, path)):
            return why
        if why := _through_any(path, stream.index, decoder):
            return why
        container.seek(0)
        frame = next(_frames(container, stream), None)
        orientation = Orientation.of_frame(frame) if frame is not None else Orientation()
        turned_only = orientation.transposed == (orientation.flipped != orientation.mirrored)
        return "" if turned_only else "a mirrored picture, which was only turned"


def _frames(container: Any, stream: Any) -> Any:
    try:
        yield from container.decode(stream)
    except av.error.FFmpegError:
        return


def _through_any(path: Path, index: int, decoder: str) -> str:
    """What the times of the packets say: rules 1 mended others than these rules, and gave the last frame of OpenCV the average
    interval."""
    with open_container(path) as container:
        try:
            stream = container.streams[index]
            times = [
                packet.pts * packet.time_base
                for packet in container.demux(stream)
                if packet.size and packet.pts is not None and packet.time_base is not None
            ]
        except (av.error.FFmpegError, IndexError, ValueError):
            return "its packets cannot be read again"
    gaps = [float(after - before) for before, after in pairwise(sorted(times))]
    if any(gap < SAME_SECONDS for gap in gaps):
        return "times that repeat, which were mended otherwise"
    if decoder == "opencv" and gaps and (len(gaps) == 1 or max(gaps) - min(gaps) > ROUNDING_SECONDS):
        return "an uneven rate through opencv, whose last frame was given the average interval"
    return ""


def _through_decord(container: Any, stream: Any, demuxer: str, codec: str, path: Path) -> str:
    if demuxer not in DECORD_DEMUXERS:
        return f"{codec} in {demuxer}: decord's list of times and its pictures do not go together"
    if codec in INTRA_CODECS:
        return ""
    if codec not in ("h264", *CLEAN_CODECS):
        return f"{codec} through decord, which seeks inexactly in it"
    if demuxer == "mov" and is_fragmented(path):
        return "a fragmented mp4 through decord, which seeks inexactly in it"
    try:
        packets = _packets(container, stream, codec)
    except (av.error.FFmpegError, IndexError, ValueError):
        return "its packets cannot be read again"
    if not packets or any(packet.is_key and not packet.is_idr for packet in packets):
        return f"{codec} whose key frames are no clean starts, through decord"
    if not _closed_groups(packets):
        return f"{codec} with open picture groups through decord"
    reordered = any(before.pts > after.pts for before, after in pairwise(packets))
    if reordered and demuxer == "mov" and packets[0].pts != 0:
        return f"{codec} with B-frames and no edit list through decord"
    return ""


def _packets(container: Any, stream: Any, codec: str) -> list[_Packet]:
    extradata = stream.codec_context.extradata or b""
    length_bytes = (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[0] == 1 else 0
    found = []
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            key = bool(packet.is_keyframe)
            idr = key and (codec != "h264" or IDR in _nal_types(bytes(packet), length_bytes))
            found.append(_Packet(packet.pts, key, idr))
    return found


def _nal_types(data: bytes, length_bytes: int) -> set[int]:
    """Types of the NAL units of one H.264 packet, with lengths (mp4, mkv) or start codes."""
    kinds: set[int] = set()
    position = 0
    if length_bytes:
        while position + length_bytes < len(data):
            size = int.from_bytes(data[position : position + length_bytes], "big")
            kinds.add(data[position + length_bytes] & 31)
            position += length_bytes + size
        return kinds
    while (position := data.find(b"\0\0\1", position)) >= 0 and position + 3 < len(data):
        kinds.add(data[position + 3] & 31)
        position += 3
    return kinds


def _closed_groups(packets: Sequence[_Packet]) -> bool:
    """Whether nothing shown before a key frame is stored after it."""
    start = latest = packets[0].pts
    for packet in packets:
        if packet.is_key:
            if packet.pts < latest:
                return False
            start = packet.pts
        elif packet.pts < start:
            return False
        latest = max(latest, packet.pts)
    return True


def is_fragmented(path: Path) -> bool:
    """Whether an mp4 has movie fragments among its outermost boxes (ISO/IEC 14496-12, 8.8.4)."""
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind in (b"moof", b"styp", b"sidx"):
                return True
            if size == 1:
                size = int.from_bytes(file.read(8), "big") - 8
            if size == 0 or size < 8:
                return False
            file.seek(size - 8, 1)
    return False
