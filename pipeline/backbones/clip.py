"""`clip`: the image tower of an open_clip model, one token a frame at 2 frames per second.

Feature = `encode_image`, not L2-normalised. Preprocessing constants are the model's own. Shapes: B batch, H W pixels, C
channels, D feature width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray

from cache.errors import InputError, WeightsError
from pipeline.backbones.base import DTYPES, GpuEngine, Precision, library_versions, seeded
from pipeline.backbones.calibrate import Say
from pipeline.backbones.engine import Engine
from pipeline.backbones.runtime import Runtime, runtime_libraries
from pipeline.backbones.weights import (
    RANDOM,
    WeightsRecord,
    load_exactly,
    looks_like_file,
    read_state_dict,
    state_digest,
)
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import FramePlan, RgbFrame
from pipeline.decoding.sampling import Sampling

FLAG = "--clip-weights"
TAG_FLAG = "--clip-tag"
DEFAULT_MODEL = "ViT-B-32"
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
"""Fields of a published tag that change what the image tower sees."""
CPU_BATCHES = (16, 32)
CUDA_BATCHES = (128, 64, 256)
"""Frames a forward pass that calibration tries; the first is the default."""


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """model: an open_clip name. weights: a tag of that model, a file, or `random`. fps: frames per second of the grid.

    tag: the published tag whose weights a file holds, for the activation and preprocessing they were trained with. Empty: the
    model's own defaults.
    """

    model: str = DEFAULT_MODEL
    weights: str = "openai"
    seed: int = 0
    fps: float = 2.0
    tag: str = ""


class ClipBackbone:
    """Frozen image tower. Raises WeightsError or InputError while loading."""

    name = "clip"

    def __init__(
        self,
        config: ClipConfig,
        *,
        device: torch.device,
        precision: Precision,
        runtime: Runtime = "torch",
        calibrate: Say | None = None,
        batch_size: int | None = None,
        gpu_engine: GpuEngine = "graph",
    ) -> None:
        self._config = config
        self._precision: Precision = precision
        tower, preprocess, self._weights, self._quick_gelu = load_tower(config)
        self._plain = tower
        self._dtype = DTYPES[precision]
        self._runtime: Runtime = runtime
        self._preprocess = preprocess
        size = _square(preprocess["size"], config.model)
        mean = torch.tensor(preprocess["mean"], dtype=torch.float32, device=device)
        std = torch.tensor(preprocess["std"], dtype=torch.float32, device=device)
        self._scale, self._shift = 1 / (255 * std), -mean / std
        self.plan = StreamPlan(self.name, Sampling(fps=config.fps), FramePlan("pil-bicubic", size))
        if runtime == "openvino":
            self._dtype = torch.float32  # the compiler lowers it
            self._tower: Any = copy.deepcopy(tower)
        else:
            self._tower = copy.deepcopy(tower).to(device, self._dtype).to(memory_format=torch.channels_last)
        self._engine = Engine(
            self._forward,
            lambda n: torch.zeros(n, 1, size, size, 3, dtype=torch.uint8, device=device),
            sizes=CUDA_BATCHES if device.type == "cuda" else CPU_BATCHES,
            device=device,
            precision=precision,
            runtime=runtime,
            name=f"clip {config.model} {size}",
            weights_key=f"clip {config.model} {self._weights.digest} {self._quick_gelu} {preprocess}",
            calibrate=calibrate,
            batch_size=batch_size,
            gpu_engine=gpu_engine,
        )
        self.batching, self.queue = self._engine.batching, self._engine.queue
        self.dim = self._engine.feature_width()

    def embed(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 1, H, W, 3] to float32 [B, D]; OpenVINO takes whole batches of the batching's size only."""
        return self._engine(frames_BTHWC)

    def _forward(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        pixels_BHWC = frames_BTHWC[:, 0].to(torch.float32) * self._scale + self._shift
        pixels_BCHW = pixels_BHWC.to(self._dtype).permute(0, 3, 1, 2)  # channels-last in memory
        features: torch.Tensor = self._tower(pixels_BCHW)
        return features.to(torch.float32)

    @torch.inference_mode()
    def embed_plainly(self, frames: Sequence[RgbFrame]) -> NDArray[np.float32]:
        """One decoded frame through open_clip's own transform and the float32 tower."""
        from PIL import Image

        transform = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**self._preprocess), is_train=False
        )
        pixels_BCHW = transform(Image.fromarray(frames[0])).unsqueeze(0)
        features: NDArray[np.float32] = self._plain(pixels_BCHW)[0].float().numpy()
        return features

    def fingerprint(self) -> dict[str, Any]:
        """All that can change a feature."""
        preprocess = self._preprocess
        return {
            "stream": self.name,
            "model": self._config.model,
            "weights": self._weights.as_fields(),
            "quick_gelu": self._quick_gelu,
            "preprocessing": {
                "resize": "bicubic, antialiased, short side, uint8 (PIL)",
                "size": self.plan.frames.size,
                "crop": "centre",
                "mean": [float(x) for x in preprocess["mean"]],
                "std": [float(x) for x in preprocess["std"]],
            },
            "sampling": {"fps": self._config.fps, "window": 1, "stride": 1, "choice": "nearest"},
            "feature": "encode_image, not normalised",
            "precision": self._precision,
            "runtime": self._runtime,
            "libraries": library_versions(*runtime_libraries(self._runtime), "open_clip_torch", "pillow"),
        }


def load_tower(config: ClipConfig) -> tuple[torch.nn.Module, dict[str, Any], WeightsRecord, bool]:
    """Image tower (float32, eval, CPU), its preprocessing, the record of its weights, and whether it uses QuickGELU."""
    known = open_clip.list_models()
    if config.model not in known:
        near = get_close_matches(config.model, known, n=3, cutoff=0.4)
        raise InputError(
            f"--clip-model {config.model}: open_clip has no such model; did you mean {', '.join(near)}?"
        )
    if config.tag and not looks_like_file(config.weights):
        raise InputError(f"{TAG_FLAG} {config.tag}: says what a file holds, and needs {FLAG} FILE")
    if config.weights == RANDOM:
        model, record = _random(config), None
    elif looks_like_file(config.weights):
        model, record = _from_file(config), None
    else:
        model, record = _from_tag(config)
    visual: torch.nn.Module = model.visual
    visual.eval().requires_grad_(False)
    preprocess = dict(open_clip.get_model_preprocess_cfg(model))
    if preprocess["interpolation"] != "bicubic" or preprocess["resize_mode"] != "shortest":
        raise InputError(
            f"--clip-model {config.model}: its preprocessing ({preprocess['interpolation']} interpolation, "
            f"resize mode {preprocess['resize_mode']}) is not supported; choose a model with bicubic, shortest-side resize"
        )
    if record is None:
        digest = state_digest(visual.state_dict())
        if config.weights == RANDOM:
            record = WeightsRecord(RANDOM, digest, seed=config.seed)
        else:
            record = WeightsRecord("file", digest, file=config.weights, published_as=config.tag)
    quick = any(type(module).__name__ == "QuickGELU" for module in visual.modules())
    return visual, preprocess, record, quick


def file_note(config: ClipConfig) -> str:
    """What a user should know who gives a file without saying what it holds: empty where nothing is open.

    A state dict holds neither activation nor preprocessing. Where the published weights of the model differ in them, the wrong
    ones give plausible, wrong features.
    """
    if config.tag or not looks_like_file(config.weights):
        return ""
    kinds: dict[str, list[str]] = {}
    for tag in open_clip.list_pretrained_tags_by_model(config.model):
        kinds.setdefault(_trained_with(open_clip.get_pretrained_cfg(config.model, tag)), []).append(tag)
    if len(kinds) < 2:
        return ""
    own = _trained_with({"quick_gelu": open_clip.get_model_config(config.model).get("quick_gelu", False)})
    others = "; ".join(
        f"{', '.join(tags[:3])}{' ...' if len(tags) > 3 else ''}: {kind}"
        for kind, tags in kinds.items()
        if kind != own
    )
    return (
        f"{FLAG} {config.weights} is run with {own}. Published weights of {config.model} that need something else: {others}. "
        f"If the file holds one of these, say which with {TAG_FLAG}"
    )


def _trained_with(published: Mapping[str, Any]) -> str:
    """Activation and preprocessing of published weights in words; what is not said is open_clip's default."""
    defaults = asdict(open_clip.transform.PreprocessCfg())
    mean, std, mode = (published.get(key) or defaults[key] for key in ("mean", "std", "resize_mode"))
    activation = "QuickGELU" if published.get("quick_gelu") else "GELU"
    return f"{activation}, mean {_three(mean)}, std {_three(std)}, resize {mode}"


def _three(values: Sequence[float]) -> str:
    return "/".join(f"{value:.3g}" for value in values)


def _random(config: ClipConfig, published: Mapping[str, Any] | None = None) -> Any:
    published = published or {}
    with seeded(config.seed):
        return open_clip.create_model(
            config.model,
            pretrained=None,
            precision="fp32",
            device="cpu",
            force_quick_gelu=bool(published.get("quick_gelu", False)),
            force_preprocess_cfg={key: published[key] for key in PREPROCESSING if published.get(key)},
        )


def _from_file(config: ClipConfig) -> Any:
    state = read_state_dict(Path(config.weights), flag=FLAG)
    published = _published(config.model, config.tag, flag=TAG_FLAG, other="") if config.tag else {}
    model = _random(config, published)
    origin = f"{FLAG} {config.weights} (--clip-model {config.model})"
    visual = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    load_exactly(model.visual, visual or state, origin=origin)
    return model


def _published(model: str, tag: str, *, flag: str, other: str) -> dict[str, Any]:
    """What open_clip says of a tag. Raises WeightsError where the model has no such tag; other: what could be given instead."""
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise WeightsError(
            f"{flag} {tag}: {model} has no such weights; choose one of {', '.join(tags) or '(none)'}{other}"
        )
    return dict(open_clip.get_pretrained_cfg(model, tag))


def _from_tag(config: ClipConfig) -> tuple[Any, WeightsRecord]:
    published = _published(config.model, config.weights, flag=FLAG, other=f", a file, or {RANDOM}")
    try:
        model = open_clip.create_model(
            config.model,
            pretrained=config.weights,
            precision="fp32",
            device="cpu",
            force_quick_gelu=bool(published.get("quick_gelu", False)),
        )
    except Exception as error:  # hub clients raise dozens of types for one fact: the file is not here
        where = published.get("hf_hub") or published.get("url") or "its publisher"
        if published.get("hf_hub"):
            where = f"huggingface.co/{str(where).rstrip('/')} (file open_clip_model.safetensors)"
        other_model = "" if config.model == DEFAULT_MODEL else f" --clip-model {config.model}"
        raise WeightsError(
            f"{FLAG} {config.weights}: cannot be downloaded ({type(error).__name__}). Get it from {where} on a machine with "
            f"network, then pass {FLAG} PATH/TO/FILE {TAG_FLAG} {config.weights}{other_model}; "
            f"or use {FLAG} {RANDOM} for a dry run"
        ) from error
    return model, WeightsRecord(config.weights, state_digest(model.visual.state_dict()))


def _square(size: Any, model: str) -> int:
    sides = {int(side) for side in (size if isinstance(size, (tuple, list)) else (size,))}
    if len(sides) != 1:
        raise InputError(
            f"--clip-model {model}: input {size} is not square; choose a model with square input"
        )
    return sides.pop()
