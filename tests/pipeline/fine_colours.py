"""Small videos for conversions to RGB: colours as fine as chroma can be, and flat ones whose RGB follows by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

WIDTH, HEIGHT = 96, 64
KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Weights of red and blue in luma by libavutil/pixfmt.h's AVCOL_SPC: BT.709, BT.601, BT.2020."""
converts_alike = pytest.mark.skipif(
    tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 13),
    reason="OpenCV before 4.13 has an FFmpeg of another age, which scales chroma otherwise",
)
PQ = "transfer=smpte2084:colorprim=bt2020:colormatrix=bt2020nc"


def fine_noise(n_frames: int = 6, *, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Pictures [H, W, 3] of squares of two pixels, each of a colour of its own: every sample of chroma is another one."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (n_frames, HEIGHT // 2, WIDTH // 2, 3)).astype(np.uint8)
    return list(small.repeat(2, axis=1).repeat(2, axis=2))


def calm_scene(n_frames: int = 6) -> list[NDArray[np.uint8]]:
    """Smooth colours, in which a square of four pixels wanders: neighbours differ by a fifth of a grey level on average."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(x / 17) * np.cos(y / 23), np.sin(y / 15 + x / 40), np.cos((x + y) / 29)]
    still = np.stack([110 + 90 * wave for wave in waves], axis=-1).astype(np.uint8)
    pictures = [still.copy() for _ in range(n_frames)]
    for number, picture in enumerate(pictures):
        picture[20:24, 20 + 4 * number : 24 + 4 * number] += 40
    return pictures


def write_pictures(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p10le",
    params: str = "",
) -> Path:
    """The pictures [H, W, 3] at 10 frames a second. params: of x264 or x265."""
    options = {"libx264": {"preset": "veryfast", "crf": "10", "x264-params": params}}
    options["libx265"] = {"preset": "ultrafast", "x265-params": f"crf=10:log-level=none:pools=1:{params}"}
    with av.open(str(path), "w") as file:
        height, width = pictures[0].shape[:2]
        stream: Any = file.add_stream(codec, rate=10, options=options.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, pix_fmt, 1
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def write_flat(
    path: Path, colours: NDArray[np.float64], *, matrix: int, full: bool, bits: int
) -> NDArray[np.float64]:
    """A lossless 4:2:0 video, a frame of one colour for each row of `colours` (RGB, 0 to 1); what was coded, as by `rgb_of`."""
    pix_fmt = f"yuv420p{bits}le" if bits > 8 else "yuv420p"
    coded = np.rint(_yuv_of(colours, matrix, full, bits)).astype(np.uint16 if bits > 8 else np.uint8)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = WIDTH, HEIGHT, pix_fmt, 1
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        for number, samples in enumerate(coded):
            frame: Any = av.VideoFrame(WIDTH, HEIGHT, pix_fmt)
            for plane, sample in zip(frame.planes, samples, strict=True):
                plane.update(np.full(plane.buffer_size // sample.itemsize, sample).tobytes())
            frame.pts, frame.time_base = number, Fraction(1, 10)
            frame.colorspace, frame.color_range = matrix, 2 if full else 1
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return rgb_of(coded, matrix=matrix, full=full, bits=bits)


def _yuv_of(rgb: NDArray[np.float64], matrix: int, full: bool, bits: int) -> NDArray[np.float64]:
    red, blue = KR_KB[matrix]
    luma = rgb @ np.array([red, 1 - red - blue, blue])
    chroma = [(rgb[:, 2] - luma) / (2 - 2 * blue), (rgb[:, 0] - luma) / (2 - 2 * red)]
    black, light, colour = _range(full, bits)
    return np.stack([black + light * luma, *(2 ** (bits - 1) + colour * c for c in chroma)], axis=-1)


def rgb_of(coded: NDArray[Any], *, matrix: int, full: bool, bits: int) -> NDArray[np.float64]:
    """float64 [N, 3], 0 to 255, of samples Y, Cb, Cr [N, 3] (ITU-T H.273)."""
    red, blue = KR_KB[matrix]
    black, light, colour = _range(full, bits)
    luma = (coded[:, 0] - black) / light
    cb, cr = ((coded[:, n].astype(np.float64) - 2 ** (bits - 1)) / colour for n in (1, 2))
    r, b = luma + (2 - 2 * red) * cr, luma + (2 - 2 * blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.asarray(255 * np.clip(np.stack([r, g, b], axis=-1), 0, 1))


def _range(full: bool, bits: int) -> tuple[float, float, float]:
    if full:
        return 0.0, 2.0**bits - 1, 2.0**bits - 1
    return tuple(level * 2.0 ** (bits - 8) for level in (16, 219, 224))  # type: ignore[return-value]
