"""Which files decord and OpenCV may decode: those for which it was measured that they tie every picture to its own time.

The table that this rests on is made by tests/pipeline/test_numbered.py and stands in docs/sampling.md. Neither of them says of
a decoded picture all that is needed: decord gives no time with a picture, only a list of all times from the container's index,
and neither turns a mirrored picture the right way round. So the file is looked at with PyAV first: its container, its streams,
its first picture. Everything in doubt is left to PyAV.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av

from pipeline.decoding.decoders.base import Declared, DecodeProblem, DecoderName
from pipeline.decoding.decoders.orientation import Orientation
from pipeline.decoding.decoders.pyav import DECODE_TIMES_ONLY, HIGH_DYNAMIC_RANGE, RAW_DEMUXERS, declared_by
from pipeline.decoding.decoders.streams import choose_stream, open_container, several_streams

DECORD_DEMUXERS = frozenset({"mov", "matroska"})
"""First names of the demuxers whose files decord indexes right: mp4, mov, 3gp and mkv, webm. It begins MPEG-TS a picture group
late."""

DECORD_START_SECONDS = 8192.0
"""From here on float32, in which decord keeps times, cannot tell a millisecond."""


def declared_if_suited(path: Path, decoder: DecoderName) -> Declared:
    """What the header of a file that `decoder` may decode says of the video stream.

    Raises DecodeProblem where PyAV must decode it in the place of `decoder`, with the reason, and where the file has no video
    stream that could be decoded at all, as PyAV would.
    """
    with open_container(path) as container:
        demuxer = container.format.name.split(",")[0]
        reason = _of_container(container, demuxer, decoder)
        if not reason:
            stream, _ = choose_stream(container, path)
            declared = declared_by(container, stream)
            reason = _of_first_picture(container, stream, decoder)
        if reason:
            raise DecodeProblem("decode-errors", reason)
        return declared


def _of_container(container: Any, demuxer: str, decoder: DecoderName) -> str:
    if decoder == "decord" and demuxer not in DECORD_DEMUXERS:
        return f"{decoder} is not used for {demuxer} files: its list of times and its pictures do not go together there"
    if demuxer in DECODE_TIMES_ONLY:
        return f"{decoder} is not used for {demuxer} files, which hold decoding times only"
    if demuxer in RAW_DEMUXERS:
        return f"{decoder} is not used for {demuxer} streams without a container, which hold no times"
    if several_streams(container):
        return f"{decoder} is not used where several video streams are there"
    return ""


def _of_first_picture(container: Any, stream: Any, decoder: DecoderName) -> str:
    start = float(stream.start_time * stream.time_base) if stream.start_time and stream.time_base else 0.0
    if decoder == "decord" and abs(start) > DECORD_START_SECONDS:
        return f"decord is not used where times begin at {start:.0f} s: it keeps them as float32"
    try:
        frame = next(container.decode(stream), None)
    except av.error.FFmpegError as error:
        return f"the first picture is damaged: {error.strerror}"
    if frame is None:
        return "there is no first picture"
    if not Orientation.of_frame(frame).upright:
        return f"{decoder} is not used for turned or mirrored pictures"
    if decoder == "opencv" and (curve := HIGH_DYNAMIC_RANGE.get(int(frame.color_trc))):
        return f"opencv is not used for high dynamic range ({curve}), which it tone-maps"
    if decoder == "opencv" and frame.interlaced_frame:
        return "opencv is not used for interlaced pictures"
    return ""
