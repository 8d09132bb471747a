"""Whether a stream keeps the parity bound in less than float32: asked of what nobody named a precision for.

Some networks do not. The real weights of EfficientNet-Lite0 in bf16 move the features of surveillance clips to a cosine of 0.9920
(0.9918 in torch; the worst of 898 tokens), those of ViT-B-32 and SlowFast of random weights to 0.99995 and 0.999996. So a few
made-up windows go both ways, through the stream as it would run and through the model as published in float32, before a video is
read. Pictures have the spectrum of photographs, amplitude over frequency, and several lights: on the dull ones EfficientNet-Lite0
gives 0.9932 (0.9952), where contrasts of daylight gave 0.9978.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones.base import MIN_COSINE, Backbone, device_trouble
from pipeline.backbones.text import TextBackbone
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import RgbFrame, prepare_frame
from pipeline.decoding.words import Cue, Words

TRIAL_COSINE = 1 - (1 - MIN_COSINE) / 2
"""Asked of the worst window: real ones may lie further off than made-up ones, so half of what the parity bound lets pass."""
N_SINGLE, N_SOUND, N_WINDOWS = 8, 2, 1
"""Windows of one frame; of sound (eight of AST's took a minute and a half on two busy cores); and of several frames."""
HEIGHT, WIDTH, STEP = 240, 320, 3
"""Pixels of a picture, and how far it moves from one frame to the next."""
SILENT_SECONDS = 3.0
"""A trial that takes longer is told: a large model's windows take minutes in float32 on few cores."""
LIGHTS = ((5, 40), (50, 120), (5, 110), (15, 200), (30, 40), (90, 110), (5, 200), (50, 80))
"""Contrast and brightness of a window, in turn: grey levels. Dull dark pictures move most: those of a camera at night."""
TEXTS = (
    "Yes.",
    "Stop it, please stop!",
    "I will kill you if you ever come here again.",
    "Nice weather today, shall we go for a walk along the river?",
    "The man in the red jacket hit him with a bottle and ran towards the station.",
    "no no no no",
    "그만해, 하지 마.",
    "Flight 372 departs at 17:45 from gate B12; passengers are asked to board now, with their passes ready.",
)


def worst_cosine(backbone: Backbone, device: torch.device) -> float:
    """Smallest cosine between features of made-up windows by the stream as it runs and by the model plainly.

    device: where its batches lie. NaN where a feature is no number, and where none of the texts is a word to the tokenizer.
    """
    given = list(_windows(backbone))
    if not given:
        return math.nan
    plain = np.stack([backbone.embed_plainly(window) for window, _ in given]).astype(np.float64)
    found = _embedded(backbone, np.stack([row for _, row in given]), device).astype(np.float64)
    products = np.sum(found * plain, axis=1)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(plain, axis=1)
    return float(np.min(products / np.maximum(lengths, 1e-30)))


@contextlib.contextmanager
def told_if_slow(backbone: Backbone, precision: str, say: Callable[[str], None]) -> Iterator[None]:
    """`say` gets a line about the trial once that has lasted a while, and what leaves it out."""
    line = (
        f"{backbone.name}: trying {precision} on made-up windows beside float32 on the CPU, once for a cache; --precision fp32 "
        f"or {precision} goes without"
    )
    timer = threading.Timer(SILENT_SECONDS, say, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _embedded(backbone: Backbone, rows: NDArray[Any], device: torch.device) -> NDArray[np.float32]:
    """Through whole batches, as a run's: the last one filled up."""
    size = backbone.batching.batch_size
    filled = np.concatenate([rows, np.repeat(rows[:1], -len(rows) % size, axis=0)])
    with device_trouble(device, backbone.name, size):
        parts = [
            backbone.embed(torch.from_numpy(filled[first : first + size]).to(device))
            for first in range(0, len(filled), size)
        ]
        return np.asarray(torch.cat(parts)[: len(rows)].cpu(), dtype=np.float32)


def _windows(backbone: Backbone) -> Iterator[tuple[list[Any], NDArray[Any]]]:
    """What `embed_plainly` takes, and the row that a decode worker would hand over."""
    plan, rng = backbone.plan, np.random.default_rng(0)
    if isinstance(backbone, TextBackbone):
        cues = tuple(Cue(0.0, 1.0, text, timed=False) for text in TEXTS)  # which are split and not joined
        for piece in backbone.pieces(Words(cues)):
            yield [piece.text], backbone.rows([piece])[0]
        return
    several = N_WINDOWS if plan.sampling.window > 1 else N_SINGLE
    for turn in range(N_SOUND if plan.sound else several):
        if plan.sound is not None:
            samples = _sound(rng, plan.sampling.window)
            yield [samples], _row(plan, samples)
        else:
            frames = _pictures(rng, plan.sampling.window, *LIGHTS[turn % len(LIGHTS)])
            yield list(frames), _row(plan, [prepare_frame(frame, plan.frames) for frame in frames])


def _row(plan: StreamPlan, window: Any) -> NDArray[Any]:
    row = np.empty(plan.token_shape, plan.token_dtype)
    plan.fill(window, row)
    return row


def _pictures(rng: np.random.Generator, n_frames: int, contrast: float, brightness: float) -> list[RgbFrame]:
    """Frames of a picture that moves: grey with a tint."""
    height, width = HEIGHT + STEP * n_frames, WIDTH + STEP * n_frames
    grey, *tints = (_pink(rng, (height, width)) for _ in range(4))
    values = np.stack([grey + 0.3 * tint for tint in tints], axis=-1)
    picture = np.clip(values * contrast + brightness, 0, 255).astype(np.uint8)
    starts = range(0, STEP * n_frames, STEP)
    return [np.ascontiguousarray(picture[at : at + HEIGHT, at : at + WIDTH]) for at in starts]


def _sound(rng: np.random.Generator, n_samples: int) -> NDArray[np.float32]:
    """Samples that swell and fade, at most 0.5."""
    swell = np.abs(np.interp(np.linspace(0, 8, n_samples), np.arange(9), rng.standard_normal(9)))
    samples = _pink(rng, (1, n_samples))[0] * swell
    return np.asarray(0.5 * samples / max(float(np.abs(samples).max()), 1e-9), dtype=np.float32)


def _pink(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Noise whose amplitude falls as one over the frequency, of unit variance."""
    down, across = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    frequency = np.maximum(np.hypot(down, across), 1 / max(shape))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) / frequency, s=shape)
    return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float64)
