"""`transformers`: networks of Hugging Face transformers that see or hear, from a folder or by their name on the hub.

`vjepa=transformers:facebook/vjepa2-vitl-fpc64-256`, `audio=transformers:MIT/ast-finetuned-audioset-10-10-0.4593`. The model_type
of its config says whether a model reads pictures (FAMILIES) or sound (SOUND_FAMILIES). A model type alone, such as `vjepa2`, is
the library's own default description of it, for random weights. No code of a folder or of the hub is ever run. Shapes: B batch,
T frames, C channels, H W pixels, N tokens, D feature width.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cache.errors import InputError, WeightsError
from pipeline.backbones.choice import RANDOM, StreamChoice
from pipeline.backbones.families import FAMILIES, Family
from pipeline.backbones.heard import KEYS, settle_sound, sound_network
from pipeline.backbones.kind import Example, Kind, Machine, Settled, pil_preprocessing, require_stride
from pipeline.backbones.sound_families import SOUND_FAMILIES, SoundFamily
from pipeline.backbones.text_keys import TEXT_KEYS
from pipeline.backbones.text_models import (
    PACKAGED,
    PACKAGED_MODEL,
    TEXT_FAMILIES,
    TextFamily,
    load_text,
    packaged_folder,
    settle_text,
    text_config,
)
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import FramePlan, RgbFrame
from pipeline.decoding.sampling import Sampling

if TYPE_CHECKING:
    import torch

    from pipeline.backbones.base import Backbone
    from pipeline.backbones.weights import WeightsRecord

PUBLISHED = "published"
FILTERS = {1: "pil-lanczos", 2: "pil-bilinear", 3: "pil-bicubic"}
"""Numbers of PIL's filters, as preprocessor_config.json holds them."""
CONVNEXT_WARPS_FROM = 384
"""Pixels of a side from which on ConvNextImageProcessor gives up the aspect ratio and does not crop."""
TYPES: Mapping[str, Family | SoundFamily] = {**FAMILIES, **SOUND_FAMILIES}
"""No model type is in both tables: a model either sees or hears."""
NAMED = (*TYPES, *(name for name in TEXT_FAMILIES if name not in TYPES))
"""Model types that can be named; those of TEXT_FAMILIES read, and CLIP does both."""


class Transformers(Kind):
    """Networks of Hugging Face transformers."""

    name = "transformers"
    about = (
        "VideoMAE, V-JEPA 2, TimeSformer, X-CLIP (windows of frames), CLIP, SigLIP, DINOv2, DINOv3, ViT, Swin, ConvNeXt and "
        "others (a frame), AST, CLAP, wav2vec 2.0, HuBERT (sound), from a folder or the hub"
    )
    keys: ClassVar[Mapping[str, str]] = {
        key: "; ".join(
            f"{keys[key]} (models that {do})"
            for do, keys in (("read", TEXT_KEYS), ("hear", KEYS))
            if key in keys
        )
        for key in (*TEXT_KEYS, *KEYS)
    }
    hears = True
    takes = ("fps", "stride")
    extra = "transformers"

    def models(self) -> Sequence[str]:
        """Anything: a folder, a name on the hub, a model type."""
        return ()

    def examples(self) -> Sequence[Example]:
        """The library's own default descriptions, which are those of the published base models (V-JEPA 2: large)."""
        return (
            Example("vit=transformers:vit,weights=random", 768, 35.1),
            Example("mae=transformers:videomae,weights=random", 768, 360.0, frames=16, fps=7.5, stride=16),
            Example(
                "vjepa=transformers:vjepa2,weights=random",
                1024,
                11570.6,
                frames=64,
                size=256,
                fps=4.0,
                stride=64,
            ),
            _heard("ast=transformers:audio-spectrogram-transformer", 768, 206.7, 10.24, 16_000),
            _heard("clap=transformers:clap", 512, 11.82, 10.0, 48_000),
            _heard("hubert=transformers:hubert", 768, 27.65, 2.0, 16_000),
            Example(
                f"text=transformers:{PACKAGED_MODEL},weights={PACKAGED}",
                384,
                0.34,
                fps=0.0,
                reads="16 word pieces",
            ),
        )

    def checked(self, choice: StreamChoice) -> StreamChoice:
        """A model has to be named, and weights lie with it."""
        choice = super().checked(choice)
        if not choice.model:
            raise InputError(
                f"--stream {choice.name}: name a folder, a model on the hub, or one of {', '.join(NAMED)}"
            )
        if choice.weights not in ("", RANDOM, PUBLISHED, PACKAGED):
            raise InputError(
                f"{choice.setting('weights', choice.weights)}: transformers streams take the weights of the folder or hub name "
                f"that stands as the model, or {RANDOM}"
            )
        if importlib.util.find_spec("transformers") is None:
            raise InputError(
                f"--stream {choice.name}: transformers is not installed: pip install 'onepass[transformers]'"
            )
        return choice

    def settle(self, choice: StreamChoice) -> Settled:
        """From config.json and the preprocessor's description; by a name of the hub these two small files are fetched."""
        packaged = choice.weights == PACKAGED
        where, given = (str(packaged_folder(choice)), choice.model) if packaged else _where(choice)
        if (reader := text_config(choice, where)) is not None:
            return settle_text(choice, where, given, reader)
        config, processor = _described(choice, where)
        origin = f"huggingface.co/{where}" if given and where else where
        found = {"where": where, "config": config, "processor": processor}
        if config.model_type in SOUND_FAMILIES:
            for key, value in choice.options:
                if key not in KEYS:
                    raise InputError(f"{choice.setting(key, value)}: {config.model_type} reads sound")
            named = given or identity_of(config, SOUND_FAMILIES[config.model_type])
            choice = replace(choice, model=named, weights=choice.weights or PUBLISHED)
            with _quietly():
                return settle_sound(choice, config, processor, origin=origin, found=found)
        for key, value in choice.options:
            if (key, value) != ("reads", "pictures"):
                raise InputError(
                    f"{choice.setting(key, value)}: {config.model_type} reads pictures; say fps= and stride="
                )
        family = FAMILIES[config.model_type]
        n_frames = family.n_frames(config)
        choice = replace(
            choice,
            model=given or identity_of(config, family),
            weights=choice.weights or PUBLISHED,
            fps=choice.fps or family.fps(config),
            stride=choice.stride or n_frames,
        )
        require_stride(choice, n_frames)
        frames, mean, std = frame_plan(choice, processor.to_dict(), floats=family.floats)
        return Settled(
            choice,
            StreamPlan(choice.name, Sampling(choice.fps, n_frames, choice.stride), frames),
            pil_preprocessing(frames, mean, std),
            {"fps": choice.fps, "window": n_frames, "stride": choice.stride, "choice": "nearest"},
            origin=origin,
            found={**found, "mean": mean, "std": std},
        )

    def load(self, settled: Settled, machine: Machine) -> Backbone:
        """The network up to its feature, frozen."""
        import torch

        from pipeline.backbones.network import Network, NetworkBackbone

        if settled.plan.words is not None:
            return load_text(settled, machine)
        model, record = load_model(settled)
        if settled.plan.sound is not None:
            return NetworkBackbone(settled, sound_network(settled, model, record), machine)
        family, processor = FAMILIES[settled.found["config"].model_type], settled.found["processor"]
        video, of_images = settled.plan.sampling.window > 1, family.processor.endswith("ImageProcessor")

        class Features(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, pixels: torch.Tensor) -> torch.Tensor:
                return family.take(self.model, pixels)

        def plainly(frames: Sequence[RgbFrame]) -> torch.Tensor:
            if of_images:
                found = processor(images=list(frames), input_data_format="channels_last", return_tensors="pt")
            else:
                given = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) for frame in frames])
                found = processor(videos=[given], return_tensors="pt")
            (pixels,) = found.values()
            return family.take(model, pixels[None] if video and of_images else pixels)[0]

        network = Network(
            module=Features().eval(),
            plainly=plainly,
            weights=record,
            layout="BTCHW" if video else "BCHW",
            mean=settled.found["mean"],
            std=settled.found["std"],
            feature=family.feature,
            libraries=("transformers", "pillow"),
        )
        return NetworkBackbone(settled, network, machine)

    def choice_of(self, name: str, fields: Mapping[str, Any], *, file: str | None) -> StreamChoice:
        """A folder is found again through `--weights-file NAME=FOLDER`, for random weights too: its config is needed."""
        described = "@sha256:" in fields["model"]
        if described and not file:
            raise InputError(
                f"the {name} model came from a folder: say where it lies with --weights-file {name}=FOLDER"
            )
        plain = {**fields, "weights": {**fields["weights"], "tag": RANDOM}}
        choice = super().choice_of(name, plain, file=None)
        tag = fields["weights"]["tag"]
        weights = tag if tag in (RANDOM, PACKAGED) else PUBLISHED
        return replace(choice, model=(described and file) or choice.model, weights=weights)


def _heard(stream: str, width: int, gflop: float, seconds: float, rate_hz: int) -> Example:
    window = round(seconds * rate_hz)
    reads = f"{seconds:g} s of sound"
    return Example(f"{stream},weights=random", width, gflop, window, fps=rate_hz, stride=window, reads=reads)


KIND = Transformers()


def identity_of(config: Any, family: Family | SoundFamily | TextFamily) -> str:
    """What a folder holds, wherever it lies: model type, class, and a digest of what the config says of the network."""
    said = {
        key: value
        for key, value in config.to_dict().items()
        if key not in ("_name_or_path", "transformers_version")
    }
    text = json.dumps(said, sort_keys=True, default=str)
    return f"{config.model_type}:{family.network}@sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def frame_plan(
    choice: StreamChoice, said: Mapping[str, Any], *, floats: bool = False
) -> tuple[FramePlan, tuple[float, ...], tuple[float, ...]]:
    """A processor's description as a plan, with mean and std. Raises InputError for what is not prepared here.

    floats: whether it resizes floats.
    """

    def refused(what: str) -> InputError:
        return InputError(
            f"{choice.setting('model', choice.model)}: its preprocessor {what}, which is not prepared here: change "
            "preprocessor_config.json, or choose another model"
        )

    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not said.get(step):
            raise refused(f"has {step} off")
    if said.get("do_pad") or abs(float(said["rescale_factor"]) * 255 - 1) > 1e-6:
        raise refused("pads, or scales to other values than 0 to 1")
    size = {key: value for key, value in dict(said["size"]).items() if value}
    crop = (
        {k: v for k, v in dict(said.get("crop_size") or {}).items() if v}
        if said.get("do_center_crop")
        else {}
    )
    filters = {2: "pil-bilinear-fixed"} if floats else FILTERS
    if int(said["resample"]) not in filters:
        raise refused(f"resamples with PIL's filter {said['resample']}")
    if "crop_pct" in said and set(size) == {"shortest_edge"} and not crop:  # ConvNextImageProcessor.resize
        side = size["shortest_edge"]
        small = side < CONVNEXT_WARPS_FROM
        size = {"shortest_edge": int(side / said["crop_pct"])} if small else {"height": side, "width": side}
        crop = {"height": side, "width": side} if small else {}
    if set(size) == {"shortest_edge"} and crop:
        scaled, fit = (size["shortest_edge"],) * 2, "short"
    elif set(size) == {"height", "width"}:
        scaled, fit = (size["height"], size["width"]), "exact"
    else:
        raise refused(f"scales to {size} and crops to {crop or 'nothing'}")
    height, width = (crop["height"], crop["width"]) if crop else scaled
    if height > scaled[0] or width > scaled[1]:
        raise refused(f"crops {height} by {width} out of {scaled[0]} by {scaled[1]}")
    frames = FramePlan(
        filters[int(said["resample"])],  # type: ignore[arg-type]
        height,
        width if width != height else 0,
        scaled=scaled if scaled != (height, width) else (),
        fit=fit,  # type: ignore[arg-type]
        crop_down=True,
    )
    return frames, tuple(map(float, said["image_mean"])), tuple(map(float, said["image_std"]))


def load_model(settled: Settled) -> tuple[torch.nn.Module, WeightsRecord]:
    """The network (float32, eval, CPU) and the record of its weights. Raises WeightsError."""
    import torch
    import transformers

    from pipeline.backbones.base import seeded
    from pipeline.backbones.weights import WeightsRecord, state_digest

    choice, config, where = settled.choice, settled.found["config"], settled.found["where"]
    family = TYPES[config.model_type]
    if choice.weights == RANDOM:
        with seeded(choice.seed):
            model = family.build(config)
    else:
        network = getattr(transformers, family.network)
        try:
            with _quietly():
                model, info = network.from_pretrained(
                    where,
                    dtype=torch.float32,
                    weights_only=True,
                    output_loading_info=True,
                    **dict(family.options),
                )
        except Exception as error:  # hub clients and readers of files raise dozens of types for one fact
            raise WeightsError(_unavailable(choice, where, error)) from error
        if missing := sorted(set(info["missing_keys"]) - set(family.unused)):
            raise WeightsError(
                f"--stream {choice.name}: the weights in {where} lack {len(missing)} tensors of {family.network}, such as "
                f"{missing[0]}; give the folder of a whole {config.model_type} model"
            )
    for part in family.unused:
        if hasattr(model, part):
            delattr(model, part)
    model.eval().requires_grad_(False)
    digest = state_digest(model.state_dict())
    if choice.weights == RANDOM:
        return model, WeightsRecord(RANDOM, digest, seed=choice.seed)
    folder = Path(where).is_dir()
    return model, WeightsRecord("file" if folder else PUBLISHED, digest, file=where if folder else "")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's bars, its list of tensors that are of a classifier, and what it thinks of AST's own filter bank."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _where(choice: StreamChoice) -> tuple[str, str]:
    """Folder or hub name, and what names the model in a fingerprint (empty: its config does)."""
    model = choice.model
    if model in NAMED:
        if choice.weights != RANDOM:
            raise WeightsError(
                f"{choice.setting('model', model)}: a model type alone has no weights; give a folder or a name on the hub, or "
                f"{choice.setting('weights', RANDOM).removeprefix(f'--stream {choice.name}: ')}"
            )
        return "", model
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder), ""
    if model.count("/") != 1 or model.startswith((os.sep, ".", "~")):
        raise InputError(
            f"{choice.setting('model', model)}: no such folder, and no model type ({', '.join(NAMED)}); names on the hub are "
            "OWNER/MODEL"
        )
    return model, model


def _described(choice: StreamChoice, where: str) -> tuple[Any, Any]:
    """Config and processor. Raises InputError, WeightsError where they cannot be had or are of no known type."""
    import transformers

    if not where:
        with _quietly():
            config = transformers.AutoConfig.for_model(choice.model)
            hears = SOUND_FAMILIES.get(choice.model)
            said = dict(hears.defaults) if hears else {}
            return config, TYPES[choice.model].processor_class()(**said)
    try:
        with _quietly():
            config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # hub clients and readers of files raise dozens of types for one fact
        raise WeightsError(_unavailable(choice, where, error)) from error
    if config.model_type not in TYPES:
        raise InputError(
            f"{choice.setting('model', choice.model)}: holds a {config.model_type} model; streams are made of "
            f"{', '.join(NAMED)}"
        )
    try:
        with _quietly():
            processor = TYPES[config.model_type].processor_class().from_pretrained(where)
    except Exception as error:
        raise WeightsError(_unavailable(choice, where, error)) from error
    return config, processor


def _unavailable(choice: StreamChoice, where: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [""])[0][:160]
    files = "config.json, preprocessor_config.json or video_preprocessor_config.json, and model.safetensors"
    if Path(where).is_dir():
        return f"{choice.setting('model', where)}: cannot be read ({type(error).__name__}: {reason}); a folder needs {files}"
    return (
        f"{choice.setting('model', choice.model)}: cannot be downloaded ({type(error).__name__}). Get {files} of "
        f"huggingface.co/{where} on a machine with network, and give the folder in the place of the name"
    )
