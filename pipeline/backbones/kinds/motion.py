"""`motion`: no network and no weights; how the picture changes, measured in the decode worker (pipeline/decoding/motion.py).

One token every half second at the defaults: five pairs of neighbouring frames, 10 frames a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.backbones.choice import StreamChoice
from pipeline.backbones.kind import Example, Kind, Machine, Settled, require_stride
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import FramePlan
from pipeline.decoding.motion import LONG_SIDE, TOKEN_WIDTH
from pipeline.decoding.plain_motion import plain_motion
from pipeline.decoding.sampling import Sampling

if TYPE_CHECKING:
    from pipeline.backbones.base import Backbone

DEFAULT_FPS = 10.0
PAIRS = 5
MODEL = "grey-flow-statistics"


class Motion(Kind):
    """Statistics of differences and of dense flow."""

    name = "motion"
    about = "statistics of frame differences and dense flow, no weights; a token every half second"
    has_weights = False
    takes = ("fps", "stride")

    def models(self) -> Sequence[str]:
        """One, which need not be named."""
        return ("", MODEL)

    def examples(self) -> Sequence[Example]:
        """The only one."""
        return (Example("motion=motion", TOKEN_WIDTH, 0.0, PAIRS + 1, LONG_SIDE, DEFAULT_FPS, PAIRS),)

    def settle(self, choice: StreamChoice) -> Settled:
        """Windows of six frames make five pairs; the next window begins with the last frame of this one."""
        choice = replace(choice, model=MODEL, fps=choice.fps or DEFAULT_FPS, stride=choice.stride or PAIRS)
        require_stride(choice, PAIRS + 1)
        return Settled(
            choice,
            StreamPlan(
                choice.name,
                Sampling(fps=choice.fps, window=PAIRS + 1, stride=choice.stride),
                FramePlan("grey", LONG_SIDE),
                reduce="pipeline.decoding.motion:motion_statistics",
                reduced_width=TOKEN_WIDTH,
            ),
            {"resize": "luma, halved, then mean over areas, long side", "size": LONG_SIDE},
            {"fps": choice.fps, "window": PAIRS + 1, "stride": choice.stride, "choice": "nearest"},
            origin="needs none",
        )

    def load(self, settled: Settled, machine: Machine) -> Backbone:
        """There is nothing to load."""
        from pipeline.backbones.measured import MeasuredBackbone

        return MeasuredBackbone(
            settled,
            plain_motion,
            feature="mean and maximum over pairs of statistics of differences and dense flow, logarithms",
            runtime="opencv",
            libraries=("opencv-python",),
        )


KIND = Motion()
