"""The sound of a video once more, straight from the definition, for `onepass verify`.

Nothing is shared with `hearing.py` and `logmel.py` but FFmpeg's decoder and resampler, limits and constants: every decoded frame
is laid at its own time on one line at the file's first rate, and each window is cut from a stretch of that line that begins
seconds before it and is resampled for it alone; a window is measured frame by frame with scipy's window and transform. The file
is decoded twice, once to know where the line ends, so that no more than the windows is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.decoding import logmel
from pipeline.decoding.decoders.base import checked_path
from pipeline.decoding.decoders.streams import choose_stream, open_container
from pipeline.decoding.hearing import BROKEN_CLOCK_SECONDS, GAP_SECONDS, LEAST_SECONDS, is_finite
from pipeline.decoding.sampling import Sampling
from pipeline.decoding.sound import Samples, SoundTrack

MARGIN_SECONDS = 1
"""Of the line around a window, so that its resampler has begun and has not ended; whole, so that it keeps the line's grid."""


def plain_windows(
    path: Path,
    track: SoundTrack,
    sampling: Sampling,
    *,
    duration_seconds: float | None,
    choose: Callable[[int], Sequence[int]] = range,
) -> tuple[int, dict[int, Samples], float]:
    """How many windows there are (0: no sound within the pictures), the chosen ones by number, and where the sound ends, seconds.

    duration_seconds: of the pictures; None: there are none. choose: numbers of windows out of so many.
    """
    path = checked_path(path)
    seen = _Line(path, track, sees=duration_seconds is not None)
    for _ in seen.pieces():
        pass
    if not seen.rate:
        return 0, {}, 0.0
    rate, wanted = seen.rate, track.rate_hz
    first = round(
        seen.start_seconds * wanted
    )  # the place of the first sample on the grid of the pictures' clock
    skipped = max(0, -first)
    n_samples = _resampled_length(seen.n_samples, rate, wanted)
    if duration_seconds is not None:
        n_samples = min(n_samples, round(duration_seconds * wanted) - first)
    n_samples -= skipped
    if n_samples < LEAST_SECONDS * wanted:
        return 0, {}, 0.0
    starts = list(range(0, max(1, n_samples - sampling.window + 1), sampling.stride))
    if starts[-1] + sampling.window < n_samples:
        starts.append(n_samples - sampling.window)
    stretches = {}
    for number in choose(len(starts)):
        begin = skipped + starts[number]
        end = begin + min(sampling.window, n_samples - starts[number])
        from_second = max(0, begin // wanted - MARGIN_SECONDS)
        until = min((end // wanted + 1 + MARGIN_SECONDS) * rate, seen.n_samples)
        line = np.zeros(until - from_second * rate, np.float32)
        stretches[number] = (begin - from_second * wanted, end - begin, from_second * rate, line)
    for piece in _Line(path, track, sees=duration_seconds is not None).pieces():
        for _, _, start, line in stretches.values():
            low, high = max(piece.begin, start), min(piece.end, start + len(line))
            if low < high:
                line[low - start : high - start] = piece.samples()[low - piece.begin : high - piece.begin]
    found = {}
    for number, (offset, length, _, line) in stretches.items():
        found[number] = _resampled(line, rate, wanted)[offset : offset + length]
    return len(starts), found, (max(first, 0) + n_samples) / wanted


class _Piece:
    """What is new of one decoded frame: from place `begin` to `end` on the line, mixed to one channel only if asked."""

    def __init__(self, frame: Any, rate: int, begin: int, cut: int) -> None:
        self.begin, self.end = begin, begin + _length(frame, rate) - cut
        self._frame, self._rate, self._cut = frame, rate, cut

    def samples(self) -> Samples:
        return _mixed(self._frame, self._rate)[self._cut :]


def _length(frame: Any, rate: int) -> int:
    return int(frame.samples) if frame.sample_rate == rate else len(_mixed(frame, rate))


def _mixed(frame: Any, rate: int) -> Samples:
    """By a resampler of its own: nothing of one frame is held back for the next."""
    mono = av.AudioResampler("flt", "mono", rate)
    ready = [out.to_ndarray().reshape(-1) for given in (frame, None) for out in mono.resample(given)]
    return np.concatenate(ready)


class _Line:
    """The sound of a file laid out at its own times. rate: of the first frame, which all have; complete after `pieces`."""

    def __init__(self, path: Path, track: SoundTrack, *, sees: bool) -> None:
        self._path, self._track, self._sees = path, track, sees
        self.start_seconds = 0.0
        self.n_samples = 0
        self.rate = 0

    def pieces(self) -> Iterator[_Piece]:
        """What is new of every decoded frame, in order of decoding."""
        moved = 0
        for at, frame in self._frames():
            if not self.n_samples:
                self.start_seconds = at
            place = round((at - self.start_seconds) * self.rate) + moved
            gap = place - self.n_samples
            broken = (
                not -BROKEN_CLOCK_SECONDS <= gap / self.rate <= self._declared_seconds + BROKEN_CLOCK_SECONDS
            )
            if not self._sees and broken:
                moved -= gap
                place = self.n_samples
            place = self.n_samples if abs(place - self.n_samples) <= 1 else place
            cut = max(0, self.n_samples - place)  # the earlier of two that overlap stands
            piece = _Piece(frame, self.rate, max(place, self.n_samples), cut)
            if piece.begin < piece.end:
                self.n_samples = piece.end
                yield piece

    def _frames(self) -> Iterator[tuple[float, Any]]:
        """(seconds on the pictures' clock, decoded frame)."""
        origin, ended, begun = self._origin_seconds(), 0.0, False
        with open_container(self._path) as container:
            self._declared_seconds = (container.duration or 0) / av.time_base
            if self._track.track >= len(container.streams.audio):
                return
            for frame in _decoded(container, container.streams.audio[self._track.track]):
                self.rate = self.rate or frame.sample_rate
                at = ended if frame.pts is None else float(frame.pts * frame.time_base)
                if begun and abs(at - ended) <= GAP_SECONDS:
                    at = ended
                ended = at + frame.samples / frame.sample_rate
                if not is_finite(frame):
                    continue
                begun, frame.pts = True, None
                yield at - origin, frame

    def _origin_seconds(self) -> float:
        """The first picture's time; without pictures, the first sound's of the file's first audio stream."""
        with open_container(self._path) as container:
            if self._sees:
                stream, _ = choose_stream(container, self._path)
                frames = container.decode(stream)
            elif container.streams.audio:
                frames = _decoded(container, container.streams.audio[0])
            else:
                return 0.0
            first = next((frame for frame in frames if frame.pts is not None), None)
            return 0.0 if first is None else float(first.pts * first.time_base)


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


def _resampled_length(n_samples: int, rate_hz: int, wanted_hz: int) -> int:
    """How many samples the resampler makes of so many: of whole seconds what they should be, of the rest what it does."""
    seconds = max(0, n_samples // rate_hz - 1)
    rest = np.zeros(n_samples - seconds * rate_hz, np.float32)
    return seconds * wanted_hz + len(_resampled(rest, rate_hz, wanted_hz))


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
