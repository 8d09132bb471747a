"""The sound of a video once more, straight from the definition, for `onepass verify`: the whole track in memory at once.

Nothing is shared with `hearing.py` and `logmel.py` but FFmpeg's decoder and resampler, limits and constants: every decoded frame
is laid at its own time into one long array at the file's first rate, which is resampled whole and cut into windows afterwards; a
window is measured frame by frame with scipy's window and transform.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.decoding import logmel
from pipeline.decoding.decoders.base import checked_path
from pipeline.decoding.decoders.streams import choose_stream, open_container
from pipeline.decoding.hearing import GAP_SECONDS, LEAST_SECONDS, is_finite
from pipeline.decoding.sampling import Sampling
from pipeline.decoding.sound import Samples, SoundTrack


def plain_windows(
    path: Path, track: SoundTrack, sampling: Sampling, *, duration_seconds: float
) -> list[Samples]:
    """All windows, in order; none where there is no sound within the pictures."""
    path = checked_path(path)
    pieces, rate = _laid_out(path, track)
    if not pieces:
        return []
    start = pieces[0][0]
    line = np.zeros(max(round((at - start) * rate) + len(samples) for at, samples in pieces), np.float32)
    filled = 0
    for at, samples in pieces:
        place = round((at - start) * rate)
        place = filled if abs(place - filled) <= 1 else place
        cut = samples[max(0, filled - place) :]  # the earlier of two that overlap stands
        begin = max(place, filled)
        line[begin : begin + len(cut)] = cut
        filled = max(filled, begin + len(cut))
    first = round(start * track.rate_hz)  # the place of the first sample on the grid of the pictures' clock
    samples = _resampled(line[:filled], rate, track.rate_hz)
    samples = samples[max(0, -first) : max(0, round(duration_seconds * track.rate_hz) - first)]
    if len(samples) < LEAST_SECONDS * track.rate_hz:
        return []
    starts = list(range(0, max(1, len(samples) - sampling.window + 1), sampling.stride))
    if starts[-1] + sampling.window < len(samples):
        starts.append(len(samples) - sampling.window)
    return [samples[begin : begin + sampling.window] for begin in starts]


def _laid_out(path: Path, track: SoundTrack) -> tuple[list[tuple[float, Samples]], int]:
    """(seconds on the pictures' clock, mono samples) of every decoded frame, and the rate that all have: the first one's."""
    with open_container(path) as container:
        stream, _ = choose_stream(container, path)
        picture = next((f for f in container.decode(stream) if f.pts is not None), None)
        origin = 0.0 if picture is None else float(picture.pts * picture.time_base)
    pieces: list[tuple[float, Samples]] = []
    rate, ended = 0, 0.0
    with open_container(path) as container:
        if track.track >= len(container.streams.audio):
            return [], 0
        for frame in _decoded(container, container.streams.audio[track.track]):
            rate = rate or frame.sample_rate
            at = ended if frame.pts is None else float(frame.pts * frame.time_base)
            if pieces and abs(at - ended) <= GAP_SECONDS:
                at = ended
            ended = at + frame.samples / frame.sample_rate
            if not is_finite(frame):
                continue
            frame.pts = None
            mono = av.AudioResampler(
                "flt", "mono", rate
            )  # of its own: nothing of one frame is held back for the next
            ready = [out for given in (frame, None) for out in mono.resample(given)]
            pieces.append((at - origin, np.concatenate([out.to_ndarray().reshape(-1) for out in ready])))
    return pieces, rate


def _decoded(container: Any, stream: Any) -> Any:
    for packet in container.demux(stream):
        try:
            yield from (frame for frame in packet.decode() if frame.samples)
        except av.error.FFmpegError:
            continue


def _resampled(samples: Samples, rate_hz: int, wanted_hz: int) -> Samples:
    whole = av.AudioResampler("flt", "mono", wanted_hz)
    given = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    given.sample_rate = rate_hz
    parts = [out.to_ndarray().reshape(-1) for part in (given, None) for out in whole.resample(part)]
    return np.concatenate(parts).astype(np.float32)


def plain_statistics(samples: Samples) -> NDArray[np.float32]:
    """What `logmel.patch_statistics` measures of mono samples [N], in other words: float32 [TOKEN_WIDTH]."""
    from scipy.fft import rfft
    from scipy.signal.windows import hann

    x = np.concatenate([samples, np.zeros(max(0, logmel.FRAME_SAMPLES - len(samples)))]).astype(np.float64)
    n_frames = 1 + (len(x) - logmel.FRAME_SAMPLES) // logmel.HOP_SAMPLES
    taper = hann(logmel.FRAME_SAMPLES, sym=False)
    spectra = [
        np.abs(rfft(taper * x[begin : begin + logmel.FRAME_SAMPLES], logmel.FFT_SAMPLES))
        for begin in np.arange(n_frames) * logmel.HOP_SAMPLES
    ]
    bins_hz = np.fft.rfftfreq(logmel.FFT_SAMPLES, 1 / logmel.RATE_HZ)
    weights = _triangles(bins_hz)
    bands = np.log(np.array([weights @ spectrum for spectrum in spectra]) + logmel.LOG_OFFSET)
    steps = [np.abs(after - before) for before, after in pairwise(bands)]
    change = np.mean(steps, axis=0) if steps else np.zeros(logmel.N_BANDS)
    power = np.mean(np.square(spectra), axis=0)[1:] + logmel.SMALLEST**2
    flatness = float(np.log(power).mean() - np.log(power.mean()))
    level = float(np.log(np.sqrt(np.square(x).mean()) + logmel.SMALLEST))
    signs = np.signbit(x)
    crossings = np.count_nonzero(signs[1:] ^ signs[:-1]) / (len(x) - 1)
    columns = [bands.mean(axis=0), bands.std(axis=0), change, [level, flatness, crossings]]
    return np.concatenate(columns).astype(np.float32)


def _triangles(bins_hz: NDArray[Any]) -> NDArray[np.float64]:
    """A weight a band and bin: from edge to edge of 66 points that are evenly spaced in mel; float64 [N_BANDS, bins]."""

    def mel(hertz: Any) -> Any:
        return 2595.0 * np.log10(1.0 + hertz / 700.0)

    edges = np.linspace(mel(logmel.LOWEST_HZ), mel(logmel.HIGHEST_HZ), logmel.N_BANDS + 2)
    rows = []
    for low, centre, high in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
        rows.append(np.interp(mel(bins_hz), [low, centre, high], [0.0, 1.0, 0.0]) * (bins_hz > 0))
    return np.array(rows)
