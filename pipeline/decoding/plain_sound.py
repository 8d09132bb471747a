"""The sound of a video once more, straight from the definition, for `onepass verify`: the whole track in memory at once.

Nothing is shared with `hearing.py` but FFmpeg's decoder and resampler: every decoded frame is laid at its own time into one long
array at the file's own rate, which is resampled whole and cut into windows afterwards.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.decoding.decoders.streams import choose_stream, open_container
from pipeline.decoding.hearing import GAP_SECONDS
from pipeline.decoding.sampling import Sampling
from pipeline.decoding.sound import SoundTrack


def plain_windows(
    path: Path, track: SoundTrack, sampling: Sampling, *, duration_seconds: float
) -> list[NDArray[np.float32]]:
    """All windows, in order; none where there is no sound."""
    with open_container(path) as container:
        stream, _ = choose_stream(container, path)
        first = next((f for f in container.decode(stream) if f.pts is not None), None)
        origin = 0.0 if first is None else float(first.pts * first.time_base)
    pieces: list[tuple[float, NDArray[np.float32]]] = []
    rate = 0
    with open_container(path) as container:
        if track.track >= len(container.streams.audio):
            return []
        mono: av.AudioResampler | None = None
        ended = 0.0
        for packet in container.demux(container.streams.audio[track.track]):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                rate = rate or frame.sample_rate
                mono = mono or av.AudioResampler("flt", "mono", rate)
                at = ended if frame.pts is None else float(frame.pts * frame.time_base)
                if pieces and abs(at - ended) <= GAP_SECONDS:
                    at = ended
                ended = at + frame.samples / frame.sample_rate
                frame.pts = None
                mixed = [np.asarray(out.to_ndarray(), np.float32).reshape(-1) for out in mono.resample(frame)]
                pieces.append((at - origin, np.concatenate(mixed)))
    if not pieces:
        return []
    start = pieces[0][0]
    line = np.zeros(round((ended - origin - start) * rate), np.float32)
    filled = 0
    for at, samples in pieces:
        place = round((at - start) * rate)
        skip = max(0, filled - place)  # the earlier of two that overlap stands
        if abs(place - filled) <= 1:
            place, skip = filled, 0
        cut = samples[skip : max(skip, len(line) - place)]
        line[place + skip : place + skip + len(cut)] = cut
        filled = max(filled, place + skip + len(cut))
    whole = av.AudioResampler("flt", "mono", track.rate_hz)
    given = av.AudioFrame.from_ndarray(line[None], format="flt", layout="mono")
    given.sample_rate = rate
    parts = [out.to_ndarray().reshape(-1) for part in (given, None) for out in whole.resample(part)]
    first = round(start * track.rate_hz)  # the place of the first sample on the grid of the pictures' clock
    samples = np.concatenate(parts).astype(np.float32)[
        max(0, -first) : round(duration_seconds * track.rate_hz) - first
    ]
    starts = list(range(0, max(1, len(samples) - sampling.window + 1), sampling.stride))
    if starts[-1] + sampling.window < len(samples):
        starts.append(len(samples) - sampling.window)
    return [samples[begin : begin + sampling.window] for begin in starts]
