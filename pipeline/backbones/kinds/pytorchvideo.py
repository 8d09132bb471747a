"""`pytorchvideo`: video networks of pytorchvideo's model zoo, one token a window.

Frames, rate, size, mean and std are those of the zoo's model cards and tutorials (pytorchvideo/models/hub/). Shapes: B batch,
T frames, H W pixels, C channels, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import InputError, WeightsError
from pipeline.backbones.choice import RANDOM, StreamChoice, looks_like_file
from pipeline.backbones.kind import Example, Kind, Machine, Settled
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import FramePlan
from pipeline.decoding.sampling import Sampling

if TYPE_CHECKING:
    import torch

    from pipeline.backbones.base import Backbone
    from pipeline.backbones.weights import WeightsRecord

CHECKPOINT_URL = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/SLOWFAST_8x8_R50.pyth"
"""pytorchvideo/models/hub/slowfast.py, key slowfast_r50."""
KINETICS_TAG = "kinetics400"
N_FRAMES = 32
SIZE = 256
ALPHA = 4
MEAN = 0.45
STD = 0.225
"""SLOWFAST_8x8_R50 of the zoo: 32 frames at 15 a second, every fourth for the slow pathway, short side and crop 256."""


class PyTorchVideo(Kind):
    """Video networks of pytorchvideo."""

    name = "pytorchvideo"
    about = "video networks of pytorchvideo's zoo (SlowFast, X3D, MViT, ...), a token a window of frames"
    takes = ("fps", "stride")

    def models(self) -> Sequence[str]:
        """Names of the zoo."""
        return ("slowfast_r50",)

    def examples(self) -> Sequence[Example]:
        """Few of many."""
        return (Example("slowfast=pytorchvideo:slowfast_r50,weights=kinetics400", 2304, 100.0),)

    def settle(self, choice: StreamChoice) -> Settled:
        """Sampling and constants of the zoo's card."""
        choice = replace(
            choice,
            weights=choice.weights or KINETICS_TAG,
            fps=choice.fps or 15.0,
            stride=choice.stride or N_FRAMES,
        )
        if not 1 <= choice.stride <= N_FRAMES:
            raise InputError(
                f"{choice.setting('stride', choice.stride)}: between 1 and {N_FRAMES} grid samples"
            )
        if choice.weights not in (RANDOM, KINETICS_TAG) and not looks_like_file(choice.weights):
            raise WeightsError(
                f"{choice.setting('weights', choice.weights)}: choose {KINETICS_TAG}, a file, or {RANDOM}"
            )
        return Settled(
            choice,
            StreamPlan(
                choice.name,
                Sampling(fps=choice.fps, window=N_FRAMES, stride=choice.stride),
                FramePlan("linear-fixed", SIZE),
            ),
            {
                "resize": "bilinear, short side, 7 fractional bits",
                "size": SIZE,
                "crop": "centre",
                "mean": MEAN,
                "std": STD,
            },
            {
                "fps": choice.fps,
                "window": N_FRAMES,
                "stride": choice.stride,
                "alpha": ALPHA,
                "choice": "nearest",
            },
            origin=CHECKPOINT_URL if choice.weights == KINETICS_TAG else "",
        )

    def load(self, settled: Settled, machine: Machine) -> Backbone:
        """The network up to its pooled features, frozen."""
        from pipeline.backbones.slowfast import SlowFastBackbone

        return SlowFastBackbone(settled, *load_model(settled), machine)


KIND = PyTorchVideo()


def load_model(settled: Settled) -> tuple[Any, WeightsRecord]:
    """The published network (float32, eval, CPU) and the record of its weights. Raises WeightsError."""
    from pytorchvideo.models.slowfast import create_slowfast

    from pipeline.backbones.base import seeded
    from pipeline.backbones.weights import WeightsRecord, load_exactly, read_state_dict, state_digest

    choice = settled.choice
    said = choice.setting("weights", choice.weights)
    with seeded(choice.seed):
        # the published model: pytorchvideo/models/hub/slowfast.py
        model: Any = create_slowfast(model_depth=50, slowfast_fusion_conv_kernel_size=(7, 1, 1))
    if choice.weights == RANDOM:
        tag, seed, file = RANDOM, choice.seed, ""
    elif looks_like_file(choice.weights):
        state = read_state_dict(Path(choice.weights), flag=said.removesuffix(choice.weights).rstrip())
        load_exactly(model, state, origin=said)
        tag, seed, file = "file", None, choice.weights
    else:
        load_exactly(model, _download(choice), origin=said)
        tag, seed, file = KINETICS_TAG, None, ""
    model.eval().requires_grad_(False)
    return model, WeightsRecord(tag, state_digest(model.state_dict()), seed=seed, file=file)


def _download(choice: StreamChoice) -> dict[str, torch.Tensor]:
    import torch

    try:
        loaded = torch.hub.load_state_dict_from_url(
            CHECKPOINT_URL, map_location="cpu", progress=True, weights_only=True
        )
    except Exception as error:  # urllib, ssl and file system errors all mean: the file is not here
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"{choice.setting('weights', choice.weights)}: cannot be downloaded ({type(error).__name__}). Get {CHECKPOINT_URL} "
            f"on a machine with network and put it into {folder}, or pass "
            f"{choice.setting('weights', 'PATH/TO/SLOWFAST_8x8_R50.pyth')}; "
            f"or use {choice.setting('weights', RANDOM)} for a dry run"
        ) from error
    state: dict[str, torch.Tensor] = loaded.get("model_state", loaded)
    return state
