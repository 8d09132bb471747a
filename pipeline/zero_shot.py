"""Stored image features against words: the text tower of the model that made them, and no training at all.

A side (positive, negative) is one or more prompts: their normalised text features are averaged and normalised again. A token's
logit is the scale of the model times the difference of its cosines with the two sides, as softmax over both would have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import FingerprintMismatch, InputError
from cache.fingerprint import weights_name
from cache.reader import Cache
from pipeline.backbones.kind import choice_from_fingerprint, kind_of, settle

KIND = "open_clip"
BLOCK_VIDEOS = 256


@dataclass(frozen=True, slots=True, eq=False)
class TextSides:
    """Two sides of prompts as one model sees them. positive, negative: float32 [D], of length 1. scale: of its logits."""

    positive: NDArray[np.float32]
    negative: NDArray[np.float32]
    scale: float
    notes: tuple[str, ...] = ()

    def logits(self, tokens: NDArray[Any]) -> NDArray[np.float64]:
        """Of stored features, [T, D]: above 0 where they are nearer to the positive side. float64 [T]."""
        values = tokens.astype(np.float64)
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        return self.scale * (values @ (self.positive.astype(np.float64) - self.negative.astype(np.float64)))


@dataclass(frozen=True, slots=True, eq=False)
class ZeroShotScores:
    """Of V videos in store order, float64 [V]: mean and highest of their tokens' logits; NaN where the stream is absent."""

    mean: NDArray[np.float64]
    highest: NDArray[np.float64]


def require_scorable(cache: Cache, stream: str) -> Mapping[str, Any]:
    """The fingerprint of a stream whose videos are to be scored. Raises InputError where it, or any video, is not there."""
    name = ", ".join(cache.names)
    if stream not in cache.streams:
        raise InputError(f"{name} holds no stream {stream}; it holds {', '.join(cache.streams)}")
    if not len(cache):
        raise InputError(f"{name}: holds no videos to score; extract some first")
    return cache.streams[stream].fingerprint


def text_sides(
    stream: str,
    fields: Mapping[str, Any],
    *,
    positive: Sequence[str],
    negative: Sequence[str],
    file: str | None = None,
) -> TextSides:
    """The two sides by the model of a stored stream. fields: its fingerprint. file: where weights from a file lie now.

    Raises InputError for another kind of stream and for prompts of no words, WeightsError, and FingerprintMismatch for weights
    other than those that made the stream.
    """
    if kind_of(stream, fields) != KIND:
        raise InputError(
            f"stream {stream} was made by {fields.get('model', 'an unknown model')}, weights {weights_name(fields)}: zero-shot "
            f"needs a stream of the kind {KIND}, whose model has a text tower"
        )
    if fields.get("options", {}).get("reads") == "text":
        raise InputError(f"stream {stream} reads text: zero-shot compares features of pictures with words")
    for flag, prompts in (("--positive", positive), ("--negative", negative)):
        if not prompts or not all(prompt.strip() for prompt in prompts):
            raise InputError(f"{flag}: say in words what this side looks like, one or more times")
    from pipeline.backbones.kinds.open_clip import load_whole
    from pipeline.backbones.load import library_noise_dropped
    from pipeline.backbones.weights import state_digest

    with library_noise_dropped():
        model = load_whole(settle(choice_from_fingerprint(stream, fields, file=file)))
        digest = state_digest(model.visual.state_dict())
        if digest != fields["weights"]["digest"]:
            raise FingerprintMismatch(
                f"stream {stream}: the cache was made with weights {fields['weights']['digest'][:19]}..., these are "
                f"{digest[:19]}...; give the same file with --weights-file {stream}=FILE"
            )
        tokenize = _tokenizer(str(fields["model"]))
        sides = [_side(model, tokenize, prompts) for prompts in (positive, negative)]
    return TextSides(sides[0][0], sides[1][0], float(model.logit_scale.exp()), (*sides[0][1], *sides[1][1]))


def zero_shot(cache: Cache, stream: str, sides: TextSides) -> ZeroShotScores:
    """Scores of every video of the cache. Raises FingerprintMismatch where words and features differ in width."""
    width = cache.streams[stream].dim
    if width != len(sides.positive):
        raise FingerprintMismatch(
            f"stream {stream} is {width} wide, the text features of its model {len(sides.positive)}"
        )
    means, highest = [], []
    for first in range(0, len(cache), BLOCK_VIDEOS):
        for tokens in cache.read(stream, range(first, min(first + BLOCK_VIDEOS, len(cache)))):
            logits = sides.logits(tokens.values)
            means.append(logits.mean() if len(logits) else np.nan)
            highest.append(logits.max() if len(logits) else np.nan)
    return ZeroShotScores(np.array(means, dtype=np.float64), np.array(highest, dtype=np.float64))


def _tokenizer(model: str) -> Any:
    import open_clip

    try:
        return open_clip.get_tokenizer(model)
    except Exception as error:  # some tokenizers lie on the hub: whatever its client raises
        raise InputError(
            f"the tokenizer of {model} cannot be loaded ({type(error).__name__}): it lies on huggingface.co; load it once on a "
            "machine with network and copy the hub's cache folder"
        ) from error


def _side(model: Any, tokenize: Any, prompts: Sequence[str]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """One direction for several prompts, and a note for each that fills all that the model reads."""
    import torch

    tokens = tokenize(list(prompts))
    with torch.inference_mode():
        each = model.encode_text(tokens, normalize=True)
        side = torch.nn.functional.normalize(each.mean(0), dim=0)
    full = [prompt for prompt, row in zip(prompts, tokens, strict=True) if int(row[-1]) != 0]
    notes = tuple(
        f"prompt {prompt[:60]!r} fills the {tokens.shape[1]} tokens that the model reads: what is beyond them is cut off"
        for prompt in full
    )
    return side.numpy().astype(np.float32), notes
