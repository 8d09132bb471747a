"""What networks for sound are given, prepared in the decode worker: log-mel spectrograms, or the samples themselves.

The steps are those of `transformers.audio_utils.spectrogram`, for all frames at once; which numbers they take is the model's own
affair (pipeline/backbones/sound_families.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Short = Literal["frames", "pad", "repeat", "repeatpad"]
"""What follows sound that is shorter than the window: frames of zeros, silence, the sound again, or that as often as it fits."""
VARIANCE_OFFSET = 1e-7
"""Of `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`."""


@dataclass(frozen=True, slots=True)
class Spectrogram:
    """Mono samples, up to n_samples, to float32 [n_frames, n_bands]: logarithms of mel bands, less `shift`, times `scale`.

    taper, mel: float64, as bytes; [frame_samples] and [fft_samples / 2 + 1, n_bands]. centred: frames lie around their times, the
    ends mirrored. preemphasis: share of the sample before that is taken off each, after the frame's mean where `level` says so.
    floor: least power of a band. decibels: 10 log10, else ln.
    """

    n_samples: int
    n_frames: int
    n_bands: int
    frame_samples: int
    hop_samples: int
    fft_samples: int
    taper: bytes = field(repr=False)
    mel: bytes = field(repr=False)
    centred: bool
    preemphasis: float
    level: bool
    floor: float
    decibels: bool
    short: Short
    shift: float = 0.0
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """[n_frames, n_bands]."""
        return (self.n_frames, self.n_bands)

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The spectrogram of one window."""
        x = samples.astype(np.float64)
        if self.short != "frames":
            x = lengthened(x, self.n_samples, self.short)
        if len(x) < self.frame_samples:
            x = np.pad(x, (0, self.frame_samples - len(x)))
        if self.centred:
            x = np.pad(x, self.frame_samples // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(x, self.frame_samples)[:: self.hop_samples]
        if self.level:
            frames = frames - frames.mean(axis=1, keepdims=True)
        if self.preemphasis:
            before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
            frames = frames - self.preemphasis * before
        spectrum = np.fft.rfft(frames * np.frombuffer(self.taper), self.fft_samples, axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        bands = np.maximum(power @ np.frombuffer(self.mel).reshape(-1, self.n_bands), self.floor)
        logs = 10 * np.log10(bands) if self.decibels else np.log(bands)
        found = np.zeros(self.shape)
        found[: len(logs)] = logs[: self.n_frames]
        return ((found - self.shift) * self.scale).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Waveform:
    """Samples (mono, up to n_samples of them), followed by silence to that many: float32 [n_samples].

    standardised: to mean 0 and variance 1.
    """

    n_samples: int
    standardised: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """[n_samples]."""
        return (self.n_samples,)

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """One window."""
        x = lengthened(samples.astype(np.float64), self.n_samples, "pad")
        if self.standardised:
            x = (x - x.mean()) / np.sqrt(x.var() + VARIANCE_OFFSET)
        return x.astype(np.float32)


Prepared = Spectrogram | Waveform


def lengthened(samples: NDArray[np.float64], n_samples: int, how: Short) -> NDArray[np.float64]:
    """float64 [n_samples], as `ClapFeatureExtractor` fills short sound."""
    if how == "repeat":
        samples = np.tile(samples, -(-n_samples // len(samples)))[:n_samples]
    elif how == "repeatpad":
        samples = np.tile(samples, max(1, n_samples // len(samples)))
    return np.pad(samples, (0, n_samples - len(samples)))
