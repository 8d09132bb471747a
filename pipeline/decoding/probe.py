"""The classic quick probe: opens, says it has frames, and its first, middle and last frame can be read.

A probe is a forecast for `--dry-run`; the real verdict on a video is its decode. It runs in the decode worker, with the same
deadline and the same fate for what hangs or crashes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av

from pipeline.decoding.decoders.base import Declared, DecodeProblem, checked_path
from pipeline.decoding.decoders.pyav import PyAVFrames
from pipeline.decoding.decoders.streams import open_container


def probe_file(path: Path, *, sound: bool = False) -> Declared:
    """What the header declares, once three frames were read. Raises DecodeProblem with the reason a reject would have.

    sound: without pictures, the first sound will do.
    """
    try:
        frames = PyAVFrames(checked_path(path))
    except DecodeProblem as problem:
        if problem.reason != "no-video-stream" or not sound:
            raise
        return _probe_sound(path)
    try:
        declared = frames.declared
        container, stream = frames.container, frames.stream
        _read_frame(container, stream, "first")
        if declared.n_frames > 1 and stream.duration:
            start = stream.start_time or 0
            for where, share in (("middle", 0.5), ("last", 1.0)):
                # the last frame starts one interval before the end
                interval = stream.duration / declared.n_frames
                target = start + int(max(0.0, stream.duration * share - (interval if share == 1.0 else 0)))
                _seek(container, stream, target, where)
                _read_frame(container, stream, where, at_least=target - int(interval * 2))
    finally:
        frames.close()
    return declared


def _probe_sound(path: Path) -> Declared:
    with open_container(checked_path(path)) as container:
        seconds = (container.duration or 0) / av.time_base
        if not container.streams.audio:
            raise DecodeProblem("no-video-stream", "there is no audio stream either")
        try:
            first = next(container.decode(audio=0), None)
        except av.error.FFmpegError as error:
            raise DecodeProblem(
                "missing-stream", f"the first sound cannot be decoded: {error.strerror}"
            ) from error
    if first is None:
        raise DecodeProblem("missing-stream", "no sound came out")
    return Declared(0, 0.0, seconds)


def _seek(container: Any, stream: Any, target: int, where: str) -> None:
    try:
        container.seek(target, stream=stream)
    except av.error.FFmpegError as error:
        raise DecodeProblem("decode-errors", f"cannot seek to the {where} frame: {error.strerror}") from error


def _read_frame(container: Any, stream: Any, where: str, *, at_least: int | None = None) -> None:
    """Decode until a frame at or after `at_least` (stream time base) comes out."""
    found = False
    try:
        for frame in container.decode(stream):
            found = True
            if at_least is None or frame.pts is None or frame.pts >= at_least:
                return
    except av.error.FFmpegError as error:
        raise DecodeProblem(
            "decode-errors", f"the {where} frame cannot be decoded: {error.strerror}"
        ) from error
    if not found:
        raise DecodeProblem("no-frames", f"no {where} frame came out")
    raise DecodeProblem(
        "decode-errors", f"the {where} frame is missing: the file ends before its declared end"
    )
