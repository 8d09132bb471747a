"""Which stream of a file is the video: the one that holds it, not the one that stands first.

Cameras and drones put thumbnails into tracks of their own that nothing marks as such; a sound file's cover is marked. What the
header says of frames and duration is a hint that may be missing, so where several streams are there, their packets are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from pipeline.decoding.decoders.base import DecodeProblem

OPTIONS = {"protocol_whitelist": "file", "pattern_type": "none"}
"""Only this file: nothing from the network, and `im%02d.png` is a name, not a numbered series."""
PICTURES = ("attached_pic", "timed_thumbnails", "still_image")
"""Dispositions of streams that are no video, whatever their codec."""
COUNTED_PACKETS = 4000
"""Packets after which it is clear which streams go on."""
SHARE_OF_LONGEST = 0.5
"""A stream that lasts less than this share of the longest is not what the file is about."""


@dataclass(slots=True)
class _Counted:
    packets: int = 0
    first_seconds: float = float("inf")
    last_seconds: float = float("-inf")

    @property
    def seconds(self) -> float:
        return max(0.0, self.last_seconds - self.first_seconds)


def open_container(path: Path) -> Any:
    """FFmpeg's container of a file. Raises DecodeProblem where it cannot be opened."""
    try:
        return av.open(str(path), options=OPTIONS)
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeProblem("unreadable-container", plain_reason(error)) from error


def plain_reason(error: Exception) -> str:
    """FFmpeg's reason without PyAV's error number and the path, which the reject names already."""
    return str(getattr(error, "strerror", None) or error)


def choose_stream(container: Any, path: Path) -> tuple[Any, str]:
    """The video stream of an opened container, and a note where there were several.

    Of the streams that last, the default one is taken, else the largest picture, else the first. Raises DecodeProblem where there
    is none or none that FFmpeg can decode.
    """
    videos = [stream for stream in container.streams.video if not _is_picture(stream)]
    if not videos:
        kinds = [str(stream.type) for stream in container.streams]
        raise DecodeProblem("no-video-stream", f"streams in the file: {', '.join(kinds) or 'none'}")
    known = [stream for stream in videos if stream.codec_context is not None]
    if not known:
        raise DecodeProblem("unreadable-container", "the video stream has a codec that FFmpeg does not know")
    if len(known) == 1:
        return known[0], "" if len(videos) == 1 else f"{_named(known[0])} was taken of {len(videos)} streams"
    counted = _count(path, [stream.index for stream in known])
    longest = max(counts.seconds for counts in counted.values())
    lasting = [s for s in known if counted[s.index].seconds >= SHARE_OF_LONGEST * longest] or known
    chosen = max(lasting, key=lambda s: (_is_default(s), s.width * s.height, -s.index))
    others = ", ".join(_named(stream) for stream in videos if stream is not chosen)
    return chosen, f"{len(videos)} video streams: {_named(chosen)} was taken, not {others}"


def several_streams(container: Any) -> bool:
    """Whether more than one stream might be the video."""
    return sum(not _is_picture(stream) for stream in container.streams.video) > 1


def _count(path: Path, indices: Sequence[int]) -> dict[int, _Counted]:
    counted = {index: _Counted() for index in indices}
    with av.open(str(path), options=OPTIONS) as container:
        packets = container.demux([container.streams[index] for index in indices])
        for _ in range(COUNTED_PACKETS):
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, IndexError):
                break
            if packet is None:
                break
            time = packet.dts if packet.pts is None else packet.pts
            if packet.size and time is not None and packet.time_base is not None:
                counts, seconds = counted[packet.stream_index], float(time * packet.time_base)
                counts.packets += 1
                counts.first_seconds = min(counts.first_seconds, seconds)
                counts.last_seconds = max(counts.last_seconds, seconds)
    return counted


def _is_picture(stream: Any) -> bool:
    kinds = type(stream.disposition)
    return any(bool(stream.disposition & kinds[name]) for name in PICTURES if name in kinds.__members__)


def _is_default(stream: Any) -> bool:
    return bool(stream.disposition & type(stream.disposition)["default"])


def _named(stream: Any) -> str:
    context = stream.codec_context
    if context is None:
        return f"stream {stream.index} (unknown codec)"
    return f"stream {stream.index} ({context.name} {stream.width}x{stream.height})"
