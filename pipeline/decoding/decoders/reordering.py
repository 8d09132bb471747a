"""Whether the presentation times of a file are decoding times in disguise, found before its first picture is placed.

A file that was copied out of AVI keeps its times: they never step back from packet to packet though the codec reorders pictures.
That alone proves nothing, since a codec may allow B-frames and have none; so a few pictures are decoded, and where their times
step back, the times are made up.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av

from pipeline.decoding.decoders.streams import OPTIONS
from pipeline.decoding.decoders.timeline import Timed, Timeline

LOOKED_AT = 64
"""Packets and pictures that are looked at: a few groups of B-frames."""


def holds_decoding_times(path: Path, stream: Any) -> bool:
    """Whether what this stream of a file calls presentation times are decoding times."""
    if not getattr(stream.codec_context, "has_b_frames", False):
        return False
    try:
        with av.open(str(path), options=OPTIONS) as container:
            packets = container.demux(container.streams[stream.index])
            times = [packet.pts for packet in islice(packets, LOOKED_AT) if packet.size]
        if None in times or any(before >= after for before, after in pairwise(times)):
            return False
        with av.open(str(path), options=OPTIONS) as container:
            same = container.streams[stream.index]
            same.thread_type = "NONE"
            timeline = Timeline(declared_fps=0.0, declared_seconds=float("inf"))
            timeline.place_all(_timed(islice(container.decode(same), LOOKED_AT)))
            return timeline.switched
    except (av.error.FFmpegError, IndexError, ValueError):
        return False  # damage: judged while it is decoded


def _timed(frames: Iterator[Any]) -> Iterator[Timed[None]]:
    for frame in frames:
        base = frame.time_base
        pts, dts = (None if ticks is None else float(ticks * base) for ticks in (frame.pts, frame.dts))
        yield Timed(None, pts, dts)
