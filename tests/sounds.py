"""Small videos with sound for tests: a click and a flash made at the same moments, in any container."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

CLICK_SECONDS = 0.01
FPS = 25


def clicks(
    rate_hz: int, seconds: float, at_seconds: Sequence[float], channels: int = 1
) -> NDArray[np.float32]:
    """Quiet noise with loud tones of 2 kHz at these moments: float32 [channels, N]."""
    rng = np.random.default_rng(0)
    line = rng.normal(scale=1e-3, size=round(seconds * rate_hz))
    tone = 0.8 * np.sin(2 * np.pi * 2000 * np.arange(round(CLICK_SECONDS * rate_hz)) / rate_hz)
    for at in at_seconds:
        begin = round(at * rate_hz)
        line[begin : begin + len(tone)] += tone[: len(line) - begin]
    return np.repeat(line[None].astype(np.float32), channels, axis=0)


def write_with_sound(
    path: Path,
    *,
    seconds: float = 4.0,
    at_seconds: Sequence[float] = (1.0, 2.6),
    codec: str = "aac",
    video_codec: str = "libx264",
    rate_hz: int = 48_000,
    layout: str = "mono",
    sample_format: str = "fltp",
    start_seconds: float = 0.0,
    sound_from: float = 0.0,
    sound_seconds: float | None = None,
    hole: tuple[float, float] | None = None,
    silent: bool = False,
    container_format: str | None = None,
    tracks: int = 1,
    spoiled: tuple[float, float] | None = None,
    size: tuple[int, int] = (64, 48),
) -> Path:
    """Dark pictures with one white frame, and quiet sound with one click, at each of `at_seconds` of the pictures' clock.

    start_seconds: of everything. sound_from, sound_seconds: which stretch of the sound is there. hole: a stretch without sound.
    spoiled: a stretch of samples that are no numbers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = len(av.AudioLayout(layout).channels)
    whole = clicks(rate_hz, seconds + 2, () if silent else at_seconds, channels) * (0.0 if silent else 1.0)
    with av.open(str(path), "w", format=container_format) as out:
        video = out.add_stream(video_codec, rate=FPS)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        sounds = []
        for _ in range(tracks):
            sound = out.add_stream(codec, rate=rate_hz)
            sound.layout = layout
            sound.format = sample_format
            sounds.append(sound)
        packets = []
        for n in range(round(seconds * FPS)):
            white = any(abs(n / FPS - at) < 0.5 / FPS for at in at_seconds)
            frame = av.VideoFrame.from_ndarray(
                np.full((size[1], size[0], 3), 255 if white else 16, np.uint8), format="rgb24"
            )
            frame.pts = round((start_seconds + n / FPS) * 90_000)
            frame.time_base = Fraction(1, 90_000)
            packets += video.encode(frame)
        packets += video.encode(None)
        end = min(seconds if sound_seconds is None else sound_from + sound_seconds, seconds + 2)
        for place, sound in enumerate(sounds):
            step = sound.codec_context.frame_size or 1024
            resampler = av.AudioResampler(sample_format, layout, rate_hz)
            for begin in range(round(sound_from * rate_hz), round(end * rate_hz), step):
                stop = min(begin + step, round(end * rate_hz))
                if hole and hole[0] <= begin / rate_hz < hole[1]:
                    continue
                data = np.ascontiguousarray(whole[:, begin:stop]) * (0.5**place)
                if spoiled and spoiled[0] <= begin / rate_hz < spoiled[1]:
                    data[:, ::2], data[:, 1::2] = np.nan, np.inf
                packed = data.astype(np.float32).T.reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
                frame.sample_rate = rate_hz
                for ready in resampler.resample(frame):
                    ready.pts = begin + round(start_seconds * rate_hz)
                    ready.time_base = Fraction(1, rate_hz)
                    packets += sound.encode(ready)
            packets += sound.encode(None)
        packets = [packet for packet in packets if packet.size]
        for packet in sorted(
            packets, key=lambda p: float((p.dts if p.dts is not None else p.pts or 0) * p.time_base)
        ):
            out.mux(packet)
    return path


def tone(seconds: float, rate_hz: int, *, hz: float = 440.0) -> NDArray[np.float32]:
    """float32 [N]: a tone that swells and fades twice a second, so that every place in it is another."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    found: NDArray[np.float32] = (
        0.3 * np.sin(2 * np.pi * hz * times) * (1.2 + np.sin(2 * np.pi * 1.9 * times)) / 2.2
    ).astype(np.float32)
    return found


def write_tone(
    path: Path, *, seconds: float, rate_hz: int, codec: str = "pcm_s16le", hz: float = 440.0
) -> Path:
    """A file of sound alone; the container by suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = tone(seconds, rate_hz, hz=hz)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate_hz)
        stream.layout = "mono"
        step = stream.codec_context.frame_size or 4096
        resampler = av.AudioResampler(stream.codec_context.format.name, "mono", rate_hz)
        for begin in range(0, len(line), step):
            frame = av.AudioFrame.from_ndarray(line[None, begin : begin + step], format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, begin, Fraction(1, rate_hz)
            for ready in resampler.resample(frame):
                out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return path
