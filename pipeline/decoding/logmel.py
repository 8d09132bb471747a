"""How a stretch of sound is spread over frequencies and how that changes, without a network: one vector a patch.

Frames, bands and the offset before the logarithm are those of AudioSet's VGGish (tensorflow/models, research/audioset/vggish,
vggish_params.py and mel_features.py): 16 kHz, 25 ms Hann windows every 10 ms, 64 bands of the HTK mel scale from 125 to 7,500
Hz, log(magnitude + 0.01), patches of 0.96 s. Of a patch come, band by band, mean, standard deviation and mean absolute change
from frame to frame; then the level, the spectral flatness and the rate of sign changes of the waveform.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
FRAME_SAMPLES, HOP_SAMPLES, FFT_SAMPLES = 400, 160, 512
N_BANDS = 64
LOWEST_HZ, HIGHEST_HZ = 125.0, 7500.0
LOG_OFFSET = 0.01
PATCH_SECONDS = 0.96
TOKEN_WIDTH = 3 * N_BANDS + 3
SMALLEST = 1e-5
"""Of full scale: -100 dB, below what 16 bits hold."""


def patch_statistics(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [TOKEN_WIDTH] of mono samples [N] at RATE_HZ; less than a frame is followed by silence to make one."""
    x = samples.astype(np.float64)
    if len(x) < FRAME_SAMPLES:
        x = np.pad(x, (0, FRAME_SAMPLES - len(x)))
    frames = np.lib.stride_tricks.sliding_window_view(x, FRAME_SAMPLES)[::HOP_SAMPLES]
    magnitude = np.abs(np.fft.rfft(frames * _hann(), FFT_SAMPLES, axis=1))
    bands = np.log(magnitude @ _mel_weights() + LOG_OFFSET)
    change = np.abs(np.diff(bands, axis=0)).mean(axis=0) if len(bands) > 1 else np.zeros(N_BANDS)
    power = (magnitude[:, 1:] ** 2).mean(axis=0) + SMALLEST**2
    flatness = np.log(power).mean() - np.log(power.mean())
    level = np.log(np.sqrt((x**2).mean()) + SMALLEST)
    crossings = float((np.signbit(x[1:]) != np.signbit(x[:-1])).mean())
    found: NDArray[np.float32] = np.concatenate(
        [bands.mean(axis=0), bands.std(axis=0), change, [level, flatness, crossings]]
    ).astype(np.float32)
    return found


@cache
def _hann() -> NDArray[np.float64]:
    """Periodic."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME_SAMPLES) / FRAME_SAMPLES)


@cache
def _mel_weights() -> NDArray[np.float64]:
    """float64 [FFT_SAMPLES / 2 + 1, N_BANDS]: triangles between neighbouring band edges, linear in mel; no weight at 0 Hz."""
    edges = np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), N_BANDS + 2)
    bins = _mel(np.arange(FFT_SAMPLES // 2 + 1) * RATE_HZ / FFT_SAMPLES)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    weights[0] = 0.0
    found: NDArray[np.float64] = weights
    return found


def _mel(hertz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """HTK's mel scale."""
    return np.asarray(1127.0 * np.log1p(np.asarray(hertz) / 700.0))
