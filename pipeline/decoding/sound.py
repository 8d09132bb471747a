"""What the sound of a video is to a stream: which track, where its windows lie, or why there is none.

Time 0 is the first picture's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.decoding.sampling import Sampling, window_starts

Samples = NDArray[np.float32]
"""float32 [N], mono, [-1, 1] where nothing was clipped."""


class Absent(Exception):
    """A video has no such sound; the text says why."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard: n_samples from start_seconds on, which end at end_seconds, within the pictures; what is to be known."""

    start_seconds: float
    end_seconds: float
    n_samples: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SoundTrack:
    """Which sound of a file: samples a second after resampling, and the number of the audio stream among them, from 0."""

    rate_hz: int
    track: int = 0


def sound_spans(heard: Heard, sampling: Sampling) -> NDArray[np.float32]:
    """float32 [T, 2] seconds: as `sampling.token_spans`, from where the sound begins to where it ends."""
    starts = np.asarray(window_starts(heard.n_samples, sampling), dtype=np.float64)
    spans = heard.start_seconds + np.stack([starts, starts + sampling.window], axis=1) / sampling.fps
    return np.minimum(spans, heard.end_seconds).astype(np.float32)
