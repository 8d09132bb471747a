"""`torchvision`: the video classifiers of torchvision, one token a window.

Sizes, mean and std are those of each model's `weights.transforms()` (class VideoClassification: bilinear without antialiasing,
rounded to whole grey levels, centre crop); frames and rate those with which its weights were scored, which
their `meta["_docs"]` names (`clip_len`, `frame_rate`). Shapes: B batch, T frames, H W pixels, C channels, D feature width.

Feature = what goes into the last layer, a Linear or for s3d a 1x1x1 convolution, averaged over positions as the model does.
"""

from __future__ import annotations

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

URL = "https://download.pytorch.org/models"
KINETICS_TAG = "kinetics400_v1"


@dataclass(frozen=True, slots=True)
class Look:
    """What `weights.transforms()` does: short side, or height and width, of the scaled frame, crop, mean and std of 0 to 1."""

    box: tuple[int, ...]
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
MVIT = Look((256,), 224, (0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
SWIN = Look((256,), 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
S3D = Look((256, 256), 224, KINETICS_MEAN, KINETICS_STD)
RESNET = Look((128, 171), 112, KINETICS_MEAN, KINETICS_STD)


@dataclass(frozen=True, slots=True)
class Card:
    """A network: frames a window and a second, preprocessing, name of its last layer, width of the feature, GFLOP of a token, and

    files of its published weights by tag (the name of torchvision's enum in lower case), the default first.
    """

    frames: int
    fps: float
    look: Look
    last: str
    width: int
    gflop: float
    files: Mapping[str, str]


CARDS: Mapping[str, Card] = {
    "mvit_v1_b": Card(16, 7.5, MVIT, "head", 768, 141.2, {KINETICS_TAG: "mvit_v1_b-dbeb1030.pth"}),
    "mvit_v2_s": Card(16, 7.5, MVIT, "head", 768, 128.45, {KINETICS_TAG: "mvit_v2_s-ae3be167.pth"}),
    "swin3d_t": Card(32, 15.0, SWIN, "head", 768, 175.53, {KINETICS_TAG: "swin3d_t-7615ae03.pth"}),
    "swin3d_s": Card(32, 15.0, SWIN, "head", 768, 331.36, {KINETICS_TAG: "swin3d_s-da41c237.pth"}),
    "swin3d_b": Card(
        *(32, 15.0, SWIN, "head", 1024, 562.66),
        {
            KINETICS_TAG: "swin3d_b_1k-24f7c7c6.pth",
            "kinetics400_imagenet22k_v1": "swin3d_b_22k-7c6ae6fa.pth",
        },
    ),
    "s3d": Card(128, 15.0, S3D, "classifier", 1024, 287.65, {KINETICS_TAG: "s3d-d76dad2f.pth"}),
    "r3d_18": Card(16, 15.0, RESNET, "fc", 512, 81.39, {KINETICS_TAG: "r3d_18-b3b3357e.pth"}),
    "mc3_18": Card(16, 15.0, RESNET, "fc", 512, 86.68, {KINETICS_TAG: "mc3_18-a90a0ba3.pth"}),
    "r2plus1d_18": Card(16, 15.0, RESNET, "fc", 512, 81.04, {KINETICS_TAG: "r2plus1d_18-91a641e6.pth"}),
}


class TorchVision(Kind):
    """Video classifiers of torchvision."""

    name = "torchvision"
    about = "video networks of torchvision (MViT, Swin3D, S3D, R(2+1)D, ...), a token a window of frames"
    takes = ("fps", "stride")

    def models(self) -> Sequence[str]:
        """Names of torchvision's builders."""
        return tuple(CARDS)

    def examples(self) -> Sequence[Example]:
        """All of them."""
        return [
            Example(
                f"{name.split('_')[0]}=torchvision:{name},weights={next(iter(card.files))}",
                card.width,
                card.gflop,
                card.frames,
                card.look.crop,
                card.fps,
                card.frames,
            )
            for name, card in CARDS.items()
        ]

    def settle(self, choice: StreamChoice) -> Settled:
        """Sampling and constants of the published weights; random ones and files take those of the first."""
        card = CARDS[choice.model]
        choice = replace(
            choice,
            weights=choice.weights or next(iter(card.files)),
            fps=choice.fps or card.fps,
            stride=choice.stride or card.frames,
        )
        require_stride(choice, card.frames)
        if choice.weights not in (RANDOM, *card.files) and not looks_like_file(choice.weights):
            raise WeightsError(
                f"{choice.setting('weights', choice.weights)}: choose {', '.join(card.files)}, a file, or {RANDOM}"
            )
        look, short = card.look, len(card.look.box) == 1
        height, width = look.box * 2 if short else look.box
        return Settled(
            choice,
            StreamPlan(
                choice.name,
                Sampling(fps=choice.fps, window=card.frames, stride=choice.stride),
                FramePlan(
                    "linear-rounded", look.crop, scaled=(height, width), fit="short" if short else "exact"
                ),
            ),
            {
                "resize": f"bilinear, {'short side' if short else 'both sides'}, uint8",
                "scaled": height if short else [height, width],
                "size": look.crop,
                "crop": "centre",
                "mean": list(look.mean),
                "std": list(look.std),
            },
            {"fps": choice.fps, "window": card.frames, "stride": choice.stride, "choice": "nearest"},
            origin=weights_url(choice) if choice.weights in card.files else "",
        )

    def load(self, settled: Settled, machine: Machine) -> Backbone:
        """The network up to its pooled features, frozen."""
        import numpy as np
        import torch
        from torchvision.models import get_model_weights

        from pipeline.backbones.folding import fold_batchnorm
        from pipeline.backbones.network import Network, NetworkBackbone

        card = CARDS[settled.choice.model]
        model, record = load_model(settled)
        without_last_layer(model, card)
        transform = get_model_weights(settled.choice.model)["DEFAULT"].transforms()
        blank = torch.empty(1, 3, card.frames, card.look.crop, card.look.crop, device="meta")

        def plainly(frames: Sequence[RgbFrame]) -> torch.Tensor:
            video_TCHW = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()
            features: torch.Tensor = model(transform(video_TCHW)[None])[0]
            return features

        network = Network(
            module=model,
            plainly=plainly,
            weights=record,
            layout="BCTHW",
            mean=card.look.mean,
            std=card.look.std,
            feature="what goes into the last layer, mean over its positions",
            libraries=("torchvision", "opencv-python"),
            faster=lambda module: fold_batchnorm(module, blank),
        )
        return NetworkBackbone(settled, network, machine)


KIND = TorchVision()


def weights_url(choice: StreamChoice) -> str:
    """Where torchvision keeps published weights; those of the first tag for any other choice."""
    files = CARDS[choice.model].files
    return f"{URL}/{files.get(choice.weights) or next(iter(files.values()))}"


def load_model(settled: Settled) -> tuple[Any, WeightsRecord]:
    """The published network (float32, eval, CPU) and the record of its weights. Raises WeightsError."""
    from torchvision.models import get_model

    from pipeline.backbones.base import seeded
    from pipeline.backbones.weights import fill_weights

    choice = settled.choice
    with seeded(choice.seed):
        model: Any = get_model(choice.model, weights=None)
    return model, fill_weights(model, choice, url=weights_url(choice))


def without_last_layer(model: Any, card: Card) -> Any:
    """The published network to its pooled features [B, D], in place."""
    import torch

    setattr(model, card.last, torch.nn.Identity())
    return model
