"""`logmel`: sound without a network and without weights, measured in the decode worker (pipeline/decoding/logmel.py).

One token every 0.96 s; a video without sound lacks the stream, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pipeline.backbones.choice import StreamChoice
from pipeline.backbones.heard import KEYS, track_of
from pipeline.backbones.kind import Example, Kind, Machine, Settled
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import FramePlan
from pipeline.decoding.logmel import PATCH_SECONDS, RATE_HZ, TOKEN_WIDTH
from pipeline.decoding.sampling import Sampling
from pipeline.decoding.sound import SoundTrack

if TYPE_CHECKING:
    from pipeline.backbones.base import Backbone

MODEL = "log-mel-statistics"
WINDOW = round(PATCH_SECONDS * RATE_HZ)


class LogMel(Kind):
    """Statistics of log-mel bands."""

    name = "logmel"
    about = "statistics of log-mel bands of the sound, no weights; a token every 0.96 s"
    keys: ClassVar[Mapping[str, str]] = {"track": KEYS["track"]}
    has_weights = False
    hears = True
    takes = ()

    def models(self) -> Sequence[str]:
        """One, which need not be named."""
        return ("", MODEL)

    def examples(self) -> Sequence[Example]:
        """The only one."""
        reads = f"{PATCH_SECONDS:g} s of sound"
        return (Example("audio=logmel", TOKEN_WIDTH, 0.0, WINDOW, fps=RATE_HZ, stride=WINDOW, reads=reads),)

    def settle(self, choice: StreamChoice) -> Settled:
        """Patches that touch; the last one ends with the sound."""
        track = track_of(choice)
        choice = replace(choice, model=MODEL)
        return Settled(
            choice,
            StreamPlan(
                choice.name,
                Sampling(fps=RATE_HZ, window=WINDOW, stride=WINDOW),
                FramePlan("grey", 1),
                reduce="pipeline.decoding.logmel:patch_statistics",
                reduced_width=TOKEN_WIDTH,
                sound=SoundTrack(RATE_HZ, track),
            ),
            {"channels": "mixed to one", "rate_hz": RATE_HZ},
            {"rate_hz": RATE_HZ, "window_seconds": PATCH_SECONDS, "stride_seconds": PATCH_SECONDS},
            origin="needs none",
        )

    def load(self, settled: Settled, machine: Machine) -> Backbone:
        """There is nothing to load."""
        from pipeline.backbones.measured import MeasuredBackbone
        from pipeline.decoding.plain_sound import plain_statistics

        return MeasuredBackbone(
            settled,
            lambda samples: plain_statistics(samples[0]),
            feature="log-mel bands: mean, standard deviation and mean absolute change; level, flatness, sign changes",
            runtime="numpy",
            libraries=("av", "numpy"),
        )


KIND = LogMel()
