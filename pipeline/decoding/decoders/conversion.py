"""Pictures converted to RGB as OpenCV and decord have them converted: all decode the same, but not all convert the same.

Where FFmpeg has no converter for just this kind of picture (more than 8 bits, interlaced, an odd width, rarer subsamplings), it
scales the chroma, and each decoder asks for another filter. Where chroma is as fine as noise, their RGB then differs by 5 to 17
grey levels on average though every decoded sample is the same. Converted the same way, it is equal bit for bit to OpenCV's (with
an FFmpeg of the same age), and to decord's but for the first rows.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter

from pipeline.decoding.decoders.base import DecoderName
from pipeline.decoding.frames import RgbFrame

SECOND_ROW = 256
"""256ths of a row from the first of the two rows that share chroma to where it lies: FFmpeg 4.1, which is in decord, takes it to
lie on the second, half a row lower than it does."""


def converted_as(frame: Any, decoder: DecoderName) -> RgbFrame | None:
    """RGB of a PyAV frame, not turned, as `decoder` has it converted; None where that is not known or cannot be done."""
    try:
        if decoder == "opencv":
            return _as_opencv(frame)
        return _as_decord(frame) if decoder == "decord" else None
    except (av.error.FFmpegError, ValueError):
        return None


def _as_opencv(frame: Any) -> RgbFrame:
    # FFmpeg rounds otherwise on the way to BGR than on the way to RGB
    shown = VideoReformatter().reformat(frame, format="bgr24", interpolation=Interpolation.BICUBIC, threads=1)
    return np.ascontiguousarray(shown.to_ndarray()[..., ::-1], dtype=np.uint8)


def _as_decord(frame: Any) -> RgbFrame:
    halved_rows = frame.format.chroma_height(2) == 1
    how = "flags=bilinear" + f":in_v_chr_pos={SECOND_ROW}" * halved_rows
    graph = Graph()
    graph.threads = 1
    size = {"width": frame.width, "height": frame.height}
    source = graph.add_buffer(**size, format=frame.format, time_base=Fraction(1, 1000))
    scale, rgb, sink = graph.add("scale", how), graph.add("format", "rgb24"), graph.add("buffersink")
    source.link_to(scale)
    scale.link_to(rgb)
    rgb.link_to(sink)
    graph.configure()
    graph.push(frame)
    shown: Any = graph.pull()
    return np.asarray(shown.to_ndarray(), dtype=np.uint8)
