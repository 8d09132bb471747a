"""Model types of Hugging Face transformers that can be streams: what stands for a picture or a clip in each of them.

One table, FAMILIES, by the `model_type` of a config. Shapes: B batch, N tokens, D feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Family:
    """One model type: its class and processor in transformers, what is taken as the feature and how that is said.

    take: (model, pixels) to features [B, D]. n_frames: of one token, by the config. fps: rate of pretraining. options: of the
    class. vision: whether it is made of the config's part for vision. floats: whether its processor resizes floats, not whole
    grey levels. unused: parts that the feature does not need, such as a text tower.
    """

    network: str
    processor: str
    take: Callable[[Any, torch.Tensor], torch.Tensor]
    feature: str
    n_frames: Callable[[Any], int] = lambda config: 1
    fps: Callable[[Any], float] = lambda config: 2.0
    options: tuple[tuple[str, Any], ...] = ()
    vision: bool = False
    floats: bool = False
    unused: tuple[str, ...] = ()

    def processor_class(self) -> Any:
        """The library's processor; of two that differ by a grey level in some pixels, the one that resizes by PIL."""
        import transformers

        by_pil = None if self.floats else getattr(transformers, f"{self.processor}Pil", None)
        return by_pil or getattr(transformers, self.processor)

    def build(self, config: Any) -> Any:
        """The network with random weights."""
        import transformers

        return getattr(transformers, self.network)(
            config.vision_config if self.vision else config, **dict(self.options)
        )


def _videomae(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    tokens: torch.Tensor = model(pixels).last_hidden_state
    return tokens.mean(1) if model.config.use_mean_pooling else tokens[:, 0]


def _dinov2(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    import torch

    tokens = model(pixels).last_hidden_state
    n_registers = getattr(model.config, "num_register_tokens", 0)
    return torch.cat([tokens[:, 0], tokens[:, 1 + n_registers :].mean(1)], dim=1)


def _first(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    tokens: torch.Tensor = model(pixels).last_hidden_state
    return tokens[:, 0]


def _vjepa2(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    tokens: torch.Tensor = model(pixels, skip_predictor=True).last_hidden_state
    return tokens.mean(1)


def _image_embeds(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = model(pixels).image_embeds
    return features


def _pooled(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = model(pixels).pooler_output
    return features.flatten(1)


def _xclip(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = model.get_video_features(pixel_values=pixels).pooler_output
    return features


KINETICS_SECONDS = 10.0
"""Length of a clip of Kinetics."""
POOLED = "pooled, as its classifier"
TIMESFORMER_STRIDES = {8: 32, 16: 16, 96: 4}
"""Frames at 30 a second from one sample to the next in the three published variants: 8x32, 16x16 and 96x4."""
FAMILIES: Mapping[str, Family] = {
    # 16 frames, every 4th of 30 a second: --sampling_rate 4 of scripts/kinetics/*/pretrain.sh in MCG-NJU/VideoMAE (on
    # Something-Something every 2nd of 12); tokens pooled as its own classifier pools them
    "videomae": Family(
        "VideoMAEModel",
        "VideoMAEVideoProcessor",
        _videomae,
        "mean over tokens, or the first where the config says so",
        lambda config: int(config.num_frames),
        lambda config: 7.5,
    ),
    # 4 frames a second: fps of configs/train/vitl16/*.yaml in facebookresearch/vjepa2, of 16 and of 64 frames; its classifier
    # pools by trained attention, which published encoders lack
    "vjepa2": Family(
        "VJEPA2Model",
        "VJEPA2VideoProcessor",
        _vjepa2,
        "mean over the encoder's tokens",
        lambda config: int(config.frames_per_clip),
        lambda config: 4.0,
    ),
    "timesformer": Family(
        "TimesformerModel",
        "TimesformerVideoProcessor",
        _first,
        "class token",
        lambda config: int(config.num_frames),
        lambda config: 30 / TIMESFORMER_STRIDES.get(int(config.num_frames), 32),
    ),
    # frames spread over a whole clip: SampleFrames(clip_len=1, num_clips=NUM_FRAMES) of X-CLIP/datasets/build.py in
    # microsoft/VideoX; its scores compare this feature, scaled to length 1, with texts
    "xclip": Family(
        "XCLIPModel",
        "CLIPImageProcessor",
        _xclip,
        "projected class tokens of the frames, joined by its transformer over time (get_video_features)",
        lambda config: int(config.vision_config.num_frames),
        lambda config: config.vision_config.num_frames / KINETICS_SECONDS,
        unused=("text_model", "text_projection", "prompts_visual_layernorm", "prompts_generator"),
    ),
    "clip": Family(
        "CLIPVisionModelWithProjection", "CLIPImageProcessor", _image_embeds, "image_embeds", vision=True
    ),
    "siglip": Family(
        "SiglipVisionModel",
        "SiglipImageProcessor",
        _pooled,
        "pooled by attention (image_embeds)",
        vision=True,
    ),
    "dinov2": Family(
        "Dinov2Model", "BitImageProcessor", _dinov2, "class token and mean over the others, as its classifier"
    ),
    "dinov2_with_registers": Family(
        "Dinov2WithRegistersModel",
        "BitImageProcessor",
        _dinov2,
        "class token and mean over the others but registers, as its classifier",
    ),
    "dinov3_vit": Family(
        "DINOv3ViTModel", "DINOv3ViTImageProcessor", _pooled, "class token (pooler_output)", floats=True
    ),
    "dinov3_convnext": Family(
        "DINOv3ConvNextModel",
        "DINOv3ViTImageProcessor",
        _pooled,
        "mean over positions, normed (pooler_output)",
        floats=True,
    ),
    "deit": Family(
        "DeiTModel",
        "DeiTImageProcessor",
        _first,
        "class token, as its classifier",
        options=(("add_pooling_layer", False),),
    ),
    "beit": Family("BeitModel", "BeitImageProcessor", _pooled, POOLED),
    "swin": Family("SwinModel", "ViTImageProcessor", _pooled, POOLED),
    "swinv2": Family("Swinv2Model", "ViTImageProcessor", _pooled, POOLED),
    "convnext": Family("ConvNextModel", "ConvNextImageProcessor", _pooled, POOLED),
    "convnextv2": Family("ConvNextV2Model", "ConvNextImageProcessor", _pooled, POOLED),
    "resnet": Family("ResNetModel", "ConvNextImageProcessor", _pooled, POOLED),
    "vit": Family(
        "ViTModel",
        "ViTImageProcessor",
        _first,
        "class token",
        options=(("add_pooling_layer", False),),
    ),
}
