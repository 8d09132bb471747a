"""Small videos for tests, made with PyAV: good ones of every kind, odd ones, and broken ones. Deterministic
and quick.

Every function writes one file (`make_rwf_tree` a folder) and returns its path. Frames come from the demo's
scenes, so `calm` and `violent` are separable by eye and by a head.
"""

from __future__ import annotations

import csv
import struct
import wave
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.demo_videos import Motion, draw_frames

MICROSECOND = Fraction(1, 1_000_000)


def write_video(
    path: Path,
    *,
    seconds: float = 1.0,
    fps: Fraction | float = 10,
    width: int = 64,
    height: int = 48,
    motion: Motion = "calm",
    seed: int = 0,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container_format: str | None = None,
    faststart: bool = False,
    keyframe_every: int = 12,
    times_seconds: Sequence[float] | None = None,
    start_seconds: float = 0.0,
    codec_options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
) -> Path:
    """A video of `round(seconds * fps)` frames, or one frame at each of `times_seconds`; container by suffix.

    `start_seconds` moves every presentation time (it may be negative).
    """
    rate = Fraction(fps).limit_denominator(1001)
    if times_seconds is None:
        times = [float(n / rate) for n in range(max(1, round(seconds * float(rate))))]
    else:
        times = list(times_seconds)
    frames = draw_frames(times, motion=motion, width=width, height=height, seed=seed)
    options = dict(container_options or {})
    if faststart:
        options["movflags"] = "+faststart"
    path.parent.mkdir(parents=True, exist_ok=True)
    exact = times_seconds is None and start_seconds == 0  # else times are kept to the millisecond
    with av.open(str(path), "w", format=container_format, options=options) as container:
        stream = container.add_stream(codec, rate=rate, options=_options(codec, codec_options))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.gop_size = keyframe_every
        stream.thread_count = 1
        time_base = 1 / rate if exact else Fraction(1, 1000)
        stream.codec_context.time_base = time_base
        for time, array in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.time_base = time_base
            frame.pts = round((time + start_seconds) / time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _options(codec: str, given: Mapping[str, str] | None) -> dict[str, str]:
    base = {
        "libx264": {"preset": "ultrafast", "crf": "23"},
        "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"},
    }
    return {**base.get(codec, {}), **(given or {})}


# --- good but odd -------------------------------------------------------------------------------------------


def write_variable_rate(path: Path, *, seed: int = 0, motion: Motion = "calm", n_frames: int = 24) -> Path:
    """Uneven gaps of 20 to 250 ms between frames, drawn from `seed`; the declared rate (10/s) is not the real
    one.
    """
    gaps = np.random.default_rng(seed).integers(20, 250, n_frames) / 1000
    times = np.concatenate([[0.0], np.cumsum(gaps)[:-1]])
    return write_video(path, times_seconds=[float(t) for t in times], motion=motion, seed=seed)


def write_rotated(path: Path, *, degrees: int = 90, **kwargs: Any) -> Path:
    """An mp4 whose display matrix asks the player to turn the stored picture clockwise by 90, 180 or 270
    degrees.
    """
    one = 1 << 16
    a, b, c, d = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[degrees]
    return set_matrix(write_video(path, **kwargs), a, b, c, d)


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write [a b, c d] (16.16 fixed point) into the display matrix of an mp4."""
    data = bytearray(path.read_bytes())
    box = _box(data, b"tkhd")
    matrix_at = (
        box + 8 + (4 + 20 if data[box + 8] == 0 else 4 + 32) + 16
    )  # version, times and ids, layer..reserved
    struct.pack_into(">9i", data, matrix_at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def write_image(path: Path, *, width: int = 64, height: int = 48, seed: int = 0) -> Path:
    """A still picture in the format of the suffix (png, jpg, bmp, webp)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_frames([0.0], motion="calm", width=width, height=height, seed=seed)[0]).save(path)
    return path


def write_over_reporting(path: Path, *, factor: int = 100, **kwargs: Any) -> Path:
    """An mp4 whose header declares `factor` times the frames and the duration that the file holds."""
    return over_report(write_video(path, **kwargs), factor=factor)


def over_report(path: Path, *, factor: int) -> Path:
    """Make the header of an mp4 declare `factor` times its frames and its duration, in place."""
    data = bytearray(path.read_bytes())
    stts = _box(data, b"stts")  # version/flags, entries, then (count, delta) each
    entries = struct.unpack_from(">I", data, stts + 12)[0]
    last = stts + 16 + 8 * (entries - 1)
    _scale(data, last, factor)
    for kind, offset in ((b"mvhd", 24), (b"tkhd", 28), (b"mdhd", 24)):  # the 32-bit duration of version 0
        _scale(data, _box(data, kind) + offset, factor)
    if data.find(b"elst") >= 0:
        _scale(data, _box(data, b"elst") + 16, factor)
    path.write_bytes(data)
    return path


def write_black(
    path: Path, *, seconds: float = 1.0, fps: int = 10, width: int = 64, height: int = 48
) -> Path:
    """A video whose every frame is black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    black: NDArray[np.uint8] = np.zeros((height, width, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=_options("libx264", None))
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, "yuv420p", 1
        for _ in range(round(seconds * fps)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(black, format="rgb24")))
        container.mux(stream.encode())
    return path


def _of(**kwargs: Any) -> Callable[[Path], Path]:
    return lambda path: write_video(path, **kwargs)


# file name -> writer. Everything here must end as stored.
GOOD_FILES: dict[str, Callable[[Path], Path]] = {
    "h264.mp4": _of(),
    "h264_faststart.mp4": _of(faststart=True),
    "h264.mkv": _of(),
    "h264.mov": _of(),
    "h264.ts": _of(),
    "h264.flv": _of(),
    "h264_b_frames.mp4": _of(seconds=2, codec_options={"preset": "medium", "bf": "3"}),
    "hevc.mp4": _of(codec="libx265"),
    "vp9.webm": _of(codec="libvpx-vp9", codec_options={"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4.avi": _of(codec="mpeg4"),
    "mjpeg.avi": _of(codec="mjpeg", pix_fmt="yuvj420p"),
    "mpeg2.mpeg": _of(codec="mpeg2video", fps=25),
    "mpeg1.mpg": _of(codec="mpeg1video", fps=25),
    "wmv2.wmv": _of(codec="wmv2"),
    "UPPER.MP4": _of(),
    "variable_rate.mp4": write_variable_rate,
    "variable_rate.mkv": write_variable_rate,
    "ntsc.mp4": _of(fps=Fraction(30000, 1001)),
    "slow_1fps.mp4": _of(seconds=4, fps=1),
    "fast_120fps.mp4": _of(seconds=0.5, fps=120),
    "rotated_90.mp4": lambda path: write_rotated(path, degrees=90),
    "rotated_180.mp4": lambda path: write_rotated(path, degrees=180),
    "odd_161x121.mp4": _of(width=161, height=121, pix_fmt="yuv444p"),
    "odd_161x121.mkv": _of(width=161, height=121, codec="ffv1"),
    "ten_bit.mp4": _of(pix_fmt="yuv420p10le"),
    "ten_bit_hevc.mp4": _of(codec="libx265", pix_fmt="yuv420p10le"),
    "yuv444.mp4": _of(pix_fmt="yuv444p"),
    "yuv422.mp4": _of(pix_fmt="yuv422p"),
    "grey.mp4": _of(pix_fmt="gray"),
    "grey.mkv": _of(codec="ffv1", pix_fmt="gray"),
    "rgb.mkv": _of(codec="ffv1", pix_fmt="bgr0"),
    "one_frame.mp4": _of(seconds=0.1),
    "two_frames.mp4": _of(seconds=0.2),
    "tiny_16x16.mp4": _of(width=16, height=16),
    "wide_640x16.mp4": _of(width=640, height=16, seconds=0.5),
    "over_reporting.mp4": write_over_reporting,
    "starts_at_5s.mkv": _of(start_seconds=5.0),
    "starts_at_5s.ts": _of(start_seconds=5.0),
    "starts_at_5s.mp4": _of(start_seconds=5.0),
    "negative_start.mp4": _of(start_seconds=-0.5),
    "picture.png": write_image,
    "picture.jpg": write_image,
    "picture.bmp": write_image,
    "picture.webp": write_image,
}


# --- broken -------------------------------------------------------------------------------------------------


def write_empty(path: Path) -> Path:
    """A file of zero bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def write_text(path: Path) -> Path:
    """A text file, whatever its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("This is not a video.\n" * 50, encoding="utf-8")
    return path


def write_noise(path: Path, *, n_bytes: int = 20_000, seed: int = 0) -> Path:
    """Random bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.random.default_rng(seed).bytes(n_bytes))
    return path


def write_audio_only(path: Path, *, seconds: float = 1.0) -> Path:
    """A tone without any picture: aac in the container of the suffix, or plain PCM for `.wav`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = 16_000
    tone = (np.sin(np.arange(round(seconds * rate)) * 0.1) * 8000).astype(np.int16)
    if path.suffix.lower() == ".wav":
        with wave.open(str(path), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(rate)
            sound.writeframes(tone.tobytes())
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate, frame_size=1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    return path


def write_audio_with_cover(path: Path, *, seconds: float = 1.0) -> Path:
    """A tone with a cover picture: the one video stream of the mp4 is an attached picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = 16_000
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=rate, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = draw_frames([0.0], motion="calm", width=64, height=48, seed=0)[0]
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = 0
        container.mux(cover.encode(frame))
        container.mux(cover.encode())
        for number in range(round(seconds * rate / 1024)):
            tone = np.sin((np.arange(1024) + 1024 * number) * 0.1).astype(np.float32)[None]
            piece = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            piece.sample_rate, piece.pts = rate, 1024 * number
            container.mux(sound.encode(piece))
        container.mux(sound.encode())
    return path


def write_truncated(path: Path, *, fraction: float = 0.5, faststart: bool = False, **kwargs: Any) -> Path:
    """The first `fraction` of an mp4. Its index is at the end and so is lost, unless `faststart` puts it in
    front.
    """
    write_video(path, **{"seconds": 2.0, **kwargs}, faststart=faststart)
    return truncate(path, fraction=fraction)


def truncate(path: Path, *, fraction: float) -> Path:
    """Cut any file off in place after that share of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def flip_bytes(path: Path, *, share: float = 0.01, seed: int = 0, inside: bytes | None = b"mdat") -> Path:
    """Damage a file in place: that share of the bytes of one mp4 box (None: of the whole file) gets random
    values.
    """
    data = bytearray(path.read_bytes())
    start, end = 0, len(data)
    if inside is not None:
        box = _box(data, inside)
        size = struct.unpack_from(">I", data, box)[0]  # 0: to the end of the file; 1: 64-bit size, so large
        start, end = box + 8, min(len(data), box + size if size > 8 else len(data))
    rng = np.random.default_rng(seed)
    for at in rng.choice(np.arange(start, end), max(1, round((end - start) * share)), replace=False):
        data[at] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    return path


def damage_header(path: Path, *, n_bytes: int = 64) -> Path:
    """Overwrite the first bytes of any file in place with 0xFF."""
    data = bytearray(path.read_bytes())
    data[:n_bytes] = b"\xff" * min(n_bytes, len(data))
    path.write_bytes(data)
    return path


# file name -> (writer, reason codes that are right). Everything here must end as rejected.
BROKEN_FILES: dict[str, tuple[Callable[[Path], Path], frozenset[str]]] = {
    "empty.mp4": (write_empty, frozenset({"empty-file"})),
    "text.mp4": (write_text, frozenset({"unreadable-container"})),
    "text.avi": (write_text, frozenset({"unreadable-container"})),
    "noise.mp4": (write_noise, frozenset({"unreadable-container"})),
    "audio_only.mp4": (write_audio_only, frozenset({"no-video-stream"})),
    "audio_only.mkv": (write_audio_only, frozenset({"no-video-stream"})),
    "audio_with_cover.mp4": (write_audio_with_cover, frozenset({"no-video-stream"})),
    "truncated_half.mp4": (write_truncated, frozenset({"unreadable-container"})),
    "truncated_header_only.mp4": (
        lambda path: write_truncated(path, fraction=0.01),
        frozenset({"unreadable-container"}),
    ),
    "damaged_moov.mp4": (
        lambda path: flip_bytes(write_video(path), share=0.5, inside=b"moov"),
        frozenset({"unreadable-container", "no-video-stream", "no-frames"}),
    ),
}


# --- trees --------------------------------------------------------------------------------------------------


def make_rwf_tree(
    root: Path,
    n_per_class: int = 4,
    *,
    n_val_per_class: int | None = None,
    clips_per_source: int = 2,
    seconds: float = 1.0,
    fps: float = 10,
    width: int = 64,
    height: int = 48,
    seed: int = 0,
    with_sources: bool = True,
) -> Path:
    """A small RWF-2000 layout: `train|val/Fight|NonFight/<source>_<n>.mp4`; returns `root`.

    Each training folder gets `n_per_class` clips, each val folder `n_val_per_class` (default: half, at least
    1). `sources.csv` (path, label, split, source) is written unless `with_sources` is off; names follow the
    RWF-2000 rule either way, so the groups are the same.
    """
    n_val = max(1, n_per_class // 2) if n_val_per_class is None else n_val_per_class
    rows: list[tuple[str, str, str, str]] = []
    for split, count in (("train", n_per_class), ("val", n_val)):
        for label, motion in (("Fight", "violent"), ("NonFight", "calm")):
            for index in range(count):
                group, part = divmod(index, clips_per_source)
                source = f"{split[0]}{label[0]}rec{group}"
                name = f"{split}/{label}/{source}_{part}.mp4"
                clip_seed = seed * 100_003 + len(rows)
                write_video(
                    root / name,
                    seconds=seconds,
                    fps=fps,
                    width=width,
                    height=height,
                    motion=motion,  # type: ignore[arg-type]
                    seed=clip_seed,
                )
                rows.append((name, label, split, source))
    if with_sources:
        with (root / "sources.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("path", "label", "split", "source"), *rows])
    return root


def _box(data: bytes | bytearray, kind: bytes) -> int:
    """Where the first mp4 box of that kind starts (its 4-byte size; the kind follows)."""
    at = data.find(kind)
    if at < 4:
        raise ValueError(f"no {kind.decode()} box in this file")
    return at - 4


def _scale(data: bytearray, at: int, factor: int) -> None:
    struct.pack_into(">I", data, at, min(struct.unpack_from(">I", data, at)[0] * factor, 0xFFFF_FFFF))
