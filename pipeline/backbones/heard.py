"""Streams of sound: what a user may say of them, and a network that hears as a stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import InputError
from pipeline.backbones.choice import StreamChoice
from pipeline.backbones.kind import Settled
from pipeline.backbones.sound_families import SOUND_FAMILIES, NotPrepared
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import FramePlan
from pipeline.decoding.sampling import Sampling
from pipeline.decoding.sound import SoundTrack

if TYPE_CHECKING:
    import torch

    from pipeline.backbones.network import Network
    from pipeline.backbones.weights import WeightsRecord

MOST_TRACKS = 64
LEAST_SECONDS = 0.5
"""Of a window for a network: shorter ones leave the deepest layers of some nothing."""
KEYS = {
    "track": "which audio stream of the file, from 0 on",
    "window": "seconds of sound of a token, up to what the model takes",
    "every": "seconds from one token to the next, up to a window",
}
"""Keys of `--stream` that streams of sound have."""


def track_of(choice: StreamChoice) -> int:
    """`track=`. Raises InputError."""
    given = choice.option("track", "0")
    if not (given.isascii() and given.isdigit() and int(given) < MOST_TRACKS):
        raise InputError(
            f"{choice.setting('track', given)}: the number of an audio stream, 0 to {MOST_TRACKS - 1}"
        )
    return int(given)


def _seconds(choice: StreamChoice, key: str, default: float, *, least: float, most: float) -> float:
    given = choice.option(key)
    try:
        found = float(given) if given else default
    except ValueError:
        found = math.nan
    if not least <= found <= most:
        raise InputError(f"{choice.setting(key, given)}: seconds, between {least:g} and {most:g}")
    return found


def settle_sound(
    choice: StreamChoice, config: Any, extractor: Any, *, origin: str, found: dict[str, Any]
) -> Settled:
    """A sound model of transformers with its windows, from its config and its feature extractor. Raises InputError."""
    family = SOUND_FAMILIES[config.model_type]
    for key in ("fps", "stride"):
        if value := getattr(choice, key):
            raise InputError(
                f"{choice.setting(key, value)}: {config.model_type} reads sound; say window=SECONDS and every=SECONDS"
            )
    rate, longest = int(extractor.sampling_rate), family.longest_seconds(extractor)
    window_seconds = _seconds(
        choice, "window", family.window_seconds or longest, least=LEAST_SECONDS, most=longest
    )
    window = round(window_seconds * rate)
    stride = round(_seconds(choice, "every", window_seconds, least=1 / rate, most=window_seconds) * rate)
    track = track_of(choice)
    try:
        prepared = family.prepared(config, extractor, window)
    except NotPrepared as problem:
        raise InputError(
            f"{choice.setting('model', choice.model)}: its feature extractor {problem}, which is not prepared here: change "
            "preprocessor_config.json, or choose another model"
        ) from problem
    preprocessing = {
        "channels": "mixed to one",
        "rate_hz": rate,
        "extractor": {"class": family.processor}
        | {name: getattr(extractor, name) for name in family.constants},
    }
    return Settled(
        choice,
        StreamPlan(
            choice.name,
            Sampling(fps=rate, window=window, stride=stride),
            FramePlan("grey", 1),
            sound=SoundTrack(rate, track),
            prepared=prepared,
        ),
        preprocessing,
        {"rate_hz": rate, "window_seconds": window / rate, "stride_seconds": stride / rate},
        origin=origin,
        found=found,
    )


def sound_network(settled: Settled, model: Any, record: WeightsRecord) -> Network:
    """The network up to its feature. model: as `SoundFamily.network` makes it."""
    import torch

    from pipeline.backbones.network import Network

    family, extractor = SOUND_FAMILIES[settled.found["config"].model_type], settled.found["processor"]
    prepared = settled.plan.prepared

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return family.take(self.model, given.to(next(self.model.parameters()).dtype))

    def plainly(windows: Sequence[Any]) -> torch.Tensor:
        (samples,) = windows
        if family.window_seconds:  # a model of any length: short sound is followed by silence
            samples = np.pad(samples, (0, settled.plan.sampling.window - len(samples)))
        given = extractor(samples, sampling_rate=settled.plan.sound.rate_hz, return_tensors="pt")  # type: ignore[union-attr]
        return plain(model, given)

    def plain(model: Any, given: Any) -> torch.Tensor:
        found: torch.Tensor
        if "is_longer" in given:
            found = model(given["input_features"], is_longer=given["is_longer"]).audio_embeds
        else:
            found = family.take(model, given["input_values"])
        return found[0]

    assert prepared is not None
    return Network(
        module=Features().eval(),
        plainly=plainly,
        weights=record,
        layout="prepared",
        mean=(),
        std=(),
        feature=family.feature,
        libraries=("transformers", "av", "numpy"),
        faster=family.faster,
    )
