"""Videos whose every picture carries its own number in its pixels, so that a test can ask *which* picture a decoder gave.

The number is written as 16 blocks, black or white, four by four, whatever a codec or a resize does to them; the mean of a
block's middle tells its bit. Bits alternate with their complement in a second copy, so that a damaged or mixed picture is told
apart from a wrong one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

SIDE = 96
"""Width and height of a numbered picture in pixels."""
BITS = 8
BLOCK = SIDE // 4
UNREADABLE = -1
DARK, BRIGHT = 40, 215


def draw_number(number: int, *, side: int = SIDE) -> NDArray[np.uint8]:
    """Picture [side, side, 3] that says `number` (0 to 255): eight blocks, then their complements."""
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    cells = np.array(bits + [1 - bit for bit in bits], dtype=np.uint8).reshape(4, 4)
    grey = np.where(cells, BRIGHT, DARK).astype(np.uint8)
    block = side // 4
    return np.ascontiguousarray(np.repeat(np.repeat(grey, block, 0), block, 1)[..., None].repeat(3, 2))


def read_number(picture: NDArray[Any]) -> int:
    """The number in a picture [H, W, 3] of any size, scaled to [0, 255]; UNREADABLE where a bit and its complement agree."""
    height, width = picture.shape[:2]
    rows = _middles(height) @ picture.reshape(height, -1).astype(np.float32)
    flat = (rows.reshape(4, width, 3).mean(2) @ _middles(width).T).reshape(-1)
    difference = flat[:BITS] - flat[BITS:]
    if np.abs(difference).min() < 40:
        return UNREADABLE
    return sum(int(value > 0) << bit for bit, value in enumerate(difference))


@functools.cache
def _middles(size: int) -> NDArray[np.float32]:
    """[4, size]: weights that average the middle of each of four blocks along one side."""
    weights = np.zeros((4, size), np.float32)
    for block in range(4):
        first, end = round((block + 0.3) * size / 4), round((block + 0.7) * size / 4)
        weights[block, first:end] = 1 / (end - first)
    return weights


def write_numbered(
    path: Path,
    *,
    codec: str = "libx264",
    container: str | None = None,
    n_frames: int = 100,
    rate: Fraction | float = 25,
    gop: int = 25,
    b_frames: int = 0,
    times_seconds: Sequence[float] | None = None,
    start_seconds: float = 0.0,
    codec_options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    side: int = SIDE,
    width: int = 0,
    pix_fmt: str = "yuv420p",
    time_base: Fraction | None = None,
) -> Path:
    """A video of `n_frames` numbered pictures at `rate`, or one at each of `times_seconds`; container by suffix or by name.

    `start_seconds` moves every presentation time; `b_frames` is the codec's most in a row.
    """
    steady = Fraction(rate).limit_denominator(1001)
    base = time_base or (1 / steady if times_seconds is None and start_seconds == 0 else Fraction(1, 90000))
    options = {"bf": str(b_frames), **(codec_options or {})}
    if codec == "libx264":
        options = {"preset": "veryfast", "crf": "20", "sc_threshold": "0", **options}
    if codec == "libx265":
        extra = options.pop("x265-params", "")
        options = {
            "preset": "ultrafast",
            "x265-params": f"log-level=none:pools=1:bframes={b_frames}:scenecut=0:{extra}",
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container, options=dict(container_options or {})) as file:
        stream: Any = file.add_stream(codec, rate=steady, options=options)
        stream.width, stream.height = width or side, side
        stream.pix_fmt = pix_fmt
        stream.gop_size = gop
        stream.thread_count = 1
        if codec not in ("libx264", "libx265", "libsvtav1"):
            stream.bit_rate = 2_000_000
        stream.codec_context.time_base = base
        times = times_seconds if times_seconds is not None else [n / float(steady) for n in range(n_frames)]
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(
                _wide(draw_number(number % 256, side=side), width), format="rgb24"
            )
            frame.time_base = base
            frame.pts = round((time + start_seconds) / base)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def copy_packets(source: Path, path: Path) -> Path:
    """The same packets in another container, with the times that the first one holds, as `ffmpeg -c copy` gives them."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.pts = packet.dts if packet.pts is None else packet.pts
                packet.stream = stream
                new.mux(packet)
    return path


def _wide(picture: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    if not width:
        return picture
    columns = (np.arange(width) * picture.shape[1]) // width
    return np.ascontiguousarray(picture[:, columns])
