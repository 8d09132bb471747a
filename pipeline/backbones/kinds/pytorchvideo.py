"""`pytorchvideo`: video networks of pytorchvideo's model zoo, one token a window.

Frames and rate are those of the zoo (docs/source/model_zoo.md, "frame length x sample rate" of 30 frames a second). Short side
and crop are those at which the zoo measured its accuracy: torch hub's pages for slow_r50, slowfast_r50 (256, 256) and X3D (182,
182 and 256, 256), PySlowFast's configs/Kinetics/pytorchvideo/ for the others (TEST_CROP_SIZE with 3 crops a frame, of which the
middle one is taken here; MViT has one: short side 256, crop 224). Shapes: B batch, T frames, H W pixels, C channels, D width.

Feature = what goes into the final projection, averaged over its positions as the published head averages its scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cache.errors import WeightsError
from pipeline.backbones.choice import RANDOM, StreamChoice, looks_like_file
from pipeline.backbones.kind import Example, Kind, Machine, Settled, require_stride
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import FramePlan, RgbFrame
from pipeline.decoding.sampling import Sampling

if TYPE_CHECKING:
    import torch

    from pipeline.backbones.base import Backbone
    from pipeline.backbones.weights import WeightsRecord

ZOO_URL = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
"""pytorchvideo/models/hub/*.py, checkpoint_paths."""
ZOO_FPS = 30.0
KINETICS_TAG = "kinetics400"
N_FRAMES = 32
SIZE = 256
ALPHA = 4
"""SlowFast 8x8: every fourth frame for the slow pathway."""
MEAN = 0.45
STD = 0.225


@dataclass(frozen=True, slots=True)
class Card:
    """A network of the zoo: frames a window, every how many of 30 a second, pixels, file, width of the feature, GFLOP."""

    frames: int
    every: int
    side: int
    crop: int
    file: str
    width: int
    gflop: float


ZOO: Mapping[str, Card] = {
    "slowfast_r50": Card(N_FRAMES, 2, SIZE, SIZE, "SLOWFAST_8x8_R50.pyth", 2304, 131.42),
    "slowfast_r101": Card(N_FRAMES, 2, SIZE, SIZE, "SLOWFAST_8x8_R101.pyth", 2304, 251.81),
    "slow_r50": Card(8, 8, 256, 256, "SLOW_8x8_R50.pyth", 2048, 109.04),
    "c2d_r50": Card(8, 8, 256, 256, "C2D_8x8_R50.pyth", 2048, 50.92),
    "i3d_r50": Card(8, 8, 256, 256, "I3D_8x8_R50.pyth", 2048, 74.21),
    "csn_r101": Card(32, 2, 256, 256, "CSN_32x2_R101.pyth", 2048, 147.51),
    "r2plus1d_r50": Card(16, 4, 256, 256, "R2PLUS1D_16x4_R50.pyth", 2048, 150.29),
    "x3d_xs": Card(4, 12, 182, 182, "X3D_XS.pyth", 2048, 1.68),
    "x3d_s": Card(13, 6, 182, 182, "X3D_S.pyth", 2048, 5.45),
    "x3d_m": Card(16, 5, 256, 256, "X3D_M.pyth", 2048, 12.36),
    "x3d_l": Card(16, 5, 356, 356, "X3D_L.pyth", 2048, 49.54),
    "mvit_base_16x4": Card(16, 4, 256, 224, "MVIT_B_16x4.pyth", 768, 141.2),
    "mvit_base_32x3": Card(32, 3, 256, 224, "MVIT_B_32x3_f294077834.pyth", 768, 339.92),
}


class PyTorchVideo(Kind):
    """Video networks of pytorchvideo."""

    name = "pytorchvideo"
    about = "video networks of pytorchvideo's zoo (SlowFast, X3D, MViT, ...), a token a window of frames"
    takes = ("fps", "stride")

    def models(self) -> Sequence[str]:
        """Names of the zoo."""
        return tuple(ZOO)

    def examples(self) -> Sequence[Example]:
        """All of them."""
        return [
            Example(
                f"{name.split('_')[0]}=pytorchvideo:{name},weights={KINETICS_TAG}",
                card.width,
                card.gflop,
                card.frames,
                card.crop,
                ZOO_FPS / card.every,
                card.frames,
            )
            for name, card in ZOO.items()
        ]

    def settle(self, choice: StreamChoice) -> Settled:
        """Sampling and constants of the zoo's card."""
        card = ZOO[choice.model]
        choice = replace(
            choice,
            weights=choice.weights or KINETICS_TAG,
            fps=choice.fps or ZOO_FPS / card.every,
            stride=choice.stride or card.frames,
        )
        require_stride(choice, card.frames)
        if choice.weights not in (RANDOM, KINETICS_TAG) and not looks_like_file(choice.weights):
            raise WeightsError(
                f"{choice.setting('weights', choice.weights)}: choose {KINETICS_TAG}, a file, or {RANDOM}"
            )
        cut = card.side != card.crop
        return Settled(
            choice,
            StreamPlan(
                choice.name,
                Sampling(fps=choice.fps, window=card.frames, stride=choice.stride),
                FramePlan("linear-fixed", card.crop, scaled=(card.side, card.side) if cut else ()),
            ),
            {
                "resize": "bilinear, short side, 7 fractional bits",
                **({"scaled": card.side} if cut else {}),
                "size": card.crop,
                "crop": "centre",
                "mean": MEAN,
                "std": STD,
            },
            {
                "fps": choice.fps,
                "window": card.frames,
                "stride": choice.stride,
                **({"alpha": ALPHA} if choice.model.startswith("slowfast") else {}),
                "choice": "nearest",
            },
            origin=checkpoint_url(choice.model) if choice.weights == KINETICS_TAG else "",
        )

    def load(self, settled: Settled, machine: Machine) -> Backbone:
        """The network up to its pooled features, frozen."""
        import torch

        model, record = load_model(settled)
        if settled.choice.model.startswith("slowfast"):
            from pipeline.backbones.slowfast import SlowFastBackbone

            return SlowFastBackbone(settled, model, record, machine)
        from pipeline.backbones.folding import fold_batchnorm
        from pipeline.backbones.network import Network, NetworkBackbone

        card = ZOO[settled.choice.model]
        blank = torch.empty(1, 3, card.frames, card.crop, card.crop, device="meta")
        without_projection(model)

        def plainly(frames: Sequence[RgbFrame]) -> torch.Tensor:
            features: torch.Tensor = model(published_pixels(frames, card))[0]
            return features

        network = Network(
            module=model,
            plainly=plainly,
            weights=record,
            layout="BCTHW",
            mean=(MEAN,) * 3,
            std=(STD,) * 3,
            feature="what goes into the projection, mean over its positions",
            libraries=("pytorchvideo", "opencv-python"),
            faster=lambda module: fold_batchnorm(module, blank),
        )
        return NetworkBackbone(settled, network, machine)


KIND = PyTorchVideo()


def checkpoint_url(model: str) -> str:
    """Where the zoo keeps the weights."""
    return f"{ZOO_URL}/{ZOO[model].file}"


def load_model(settled: Settled) -> tuple[Any, WeightsRecord]:
    """The published network (float32, eval, CPU) and the record of its weights. Raises WeightsError."""
    from pytorchvideo.models import hub

    from pipeline.backbones.base import seeded
    from pipeline.backbones.weights import fill_weights

    choice = settled.choice
    with seeded(choice.seed):
        model: Any = getattr(hub, choice.model)()
    return model, fill_weights(model, choice, url=checkpoint_url(choice.model))


def without_projection(model: Any) -> Any:
    """The published network with nothing after its pooled features, in place: to [B, D]."""
    import torch

    head = model.head if hasattr(model, "head") else model.blocks[-1]
    head.dropout, head.proj, head.activation = None, torch.nn.Identity(), None
    return model


def published_pixels(frames: Sequence[RgbFrame], card: Card) -> torch.Tensor:
    """A window through the preprocessing of the zoo's tutorials, in their order and in float32: [1, C, T, H, W].

    The scaling is `short_side_scale` of pytorchvideo/transforms/functional.py, which does not import beside today's torchvision.
    """
    import numpy as np
    import torch

    video_TCHW = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255.0
    video_TCHW = (video_TCHW - MEAN) / STD
    height, width = video_TCHW.shape[2:]
    side = card.side
    size = (
        (math.floor((float(height) / width) * side), side)
        if width < height
        else (side, math.floor((float(width) / height) * side))
    )
    video_TCHW = torch.nn.functional.interpolate(video_TCHW, size=size, mode="bilinear", align_corners=False)
    top, left = (round((length - card.crop) / 2.0) for length in size)
    cut_TCHW = video_TCHW[:, :, top : top + card.crop, left : left + card.crop]
    return cut_TCHW.permute(1, 0, 2, 3)[None].contiguous()
