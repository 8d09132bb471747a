"""Log-mel statistics: bands where they should be, statistics that say what changes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoding.logmel import (
    FFT_SAMPLES,
    FRAME_SAMPLES,
    HIGHEST_HZ,
    HOP_SAMPLES,
    LOG_OFFSET,
    LOWEST_HZ,
    N_BANDS,
    RATE_HZ,
    TOKEN_WIDTH,
    _mel_weights,
    patch_statistics,
)
from pipeline.decoding.plain_sound import plain_statistics

TIME = np.arange(15_360) / RATE_HZ


def tone(hertz: float, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * TIME)).astype(np.float32)


def test_bands_are_those_of_a_kept_library() -> None:
    audio = pytest.importorskip("transformers.audio_utils")
    known = audio.mel_filter_bank(
        num_frequency_bins=FFT_SAMPLES // 2 + 1,
        num_mel_filters=N_BANDS,
        min_frequency=LOWEST_HZ,
        max_frequency=HIGHEST_HZ,
        sampling_rate=RATE_HZ,
        norm=None,
        mel_scale="htk",
        triangularize_in_mel_space=True,
    )
    np.testing.assert_allclose(_mel_weights(), known, atol=1e-6)
    samples = np.random.default_rng(0).normal(scale=0.1, size=15_360).astype(np.float32)
    log_mel = audio.spectrogram(
        samples,
        audio.window_function(FRAME_SAMPLES, "hann", periodic=True),
        frame_length=FRAME_SAMPLES,
        hop_length=HOP_SAMPLES,
        fft_length=FFT_SAMPLES,
        power=1.0,
        center=False,
        mel_filters=known,
        mel_floor=0.0,
    )
    bands = np.log(log_mel + LOG_OFFSET).T
    found = patch_statistics(samples)
    np.testing.assert_allclose(found[:N_BANDS], bands.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(found[N_BANDS : 2 * N_BANDS], bands.std(axis=0), atol=1e-4)
    np.testing.assert_allclose(
        found[2 * N_BANDS : 3 * N_BANDS], np.abs(np.diff(bands, axis=0)).mean(axis=0), atol=1e-4
    )


@pytest.mark.parametrize("hertz", [200, 1000, 4000])
def test_a_tone_is_loudest_in_its_band_and_does_not_change(hertz: float) -> None:
    found = patch_statistics(tone(hertz))
    assert found.shape == (TOKEN_WIDTH,) and found.dtype == np.float32
    centre = np.linspace(1127 * np.log1p(LOWEST_HZ / 700), 1127 * np.log1p(HIGHEST_HZ / 700), N_BANDS + 2)[
        1:-1
    ]
    nearest = int(np.abs(700 * np.expm1(centre / 1127) - hertz).argmin())
    assert abs(int(found[:N_BANDS].argmax()) - nearest) <= 1
    assert found[N_BANDS : 3 * N_BANDS].max() < 0.3
    level, _, crossings = found[-3:]
    assert level == pytest.approx(np.log(0.5 / np.sqrt(2)), abs=1e-3)
    assert crossings == pytest.approx(2 * hertz / RATE_HZ, rel=0.02)


def test_noise_is_flat_and_a_tone_is_not() -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=15_360).astype(np.float32)
    assert patch_statistics(noise)[-2] > -1.0 > -5.0 > patch_statistics(tone(1000))[-2]


@pytest.mark.parametrize("n", [1, 399, 400, 559, 15_360])
def test_any_length_and_silence_are_finite_and_not_constant(n: int) -> None:
    for samples in (np.zeros(n, np.float32), np.ones(n, np.float32)):
        found = patch_statistics(samples)
        np.testing.assert_allclose(plain_statistics(samples), found, rtol=1e-5, atol=1e-5)
        assert np.isfinite(found).all() and len(np.unique(found)) > 1
        assert np.abs(found).max() < 100  # float16 holds it to three digits
