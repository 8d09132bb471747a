"""`open_clip`: the image tower of any model that open_clip publishes, one token a frame; with `reads=text` its text tower.

Feature = `encode_image` or `encode_text`, not L2-normalised. Preprocessing constants are those of the published weights
(open_clip/pretrained.py), size and activation those of the model's own description. Shapes: B batch, H W pixels, C channels, D
feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cache.errors import InputError, WeightsError
from pipeline.backbones.choice import RANDOM, StreamChoice, looks_like_file
from pipeline.backbones.kind import Example, Kind, Machine, Settled, pil_preprocessing
from pipeline.backbones.text_keys import TEXT_KEYS, reads_text, refuse_text_keys, text_plan, with_defaults
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import FramePlan, RgbFrame
from pipeline.decoding.sampling import Sampling

if TYPE_CHECKING:
    import torch

    from pipeline.backbones.base import Backbone
    from pipeline.backbones.weights import WeightsRecord

DEFAULT_MODEL = "ViT-B-32"
DEFAULT_FPS = 2.0
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
"""Fields of a published tag that change what the image tower sees."""
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's files hold beside the weights."""
RECIPES = {"bicubic": "pil-bicubic", "bilinear": "pil-bilinear"}
FITS = {"shortest": "short", "squash": "exact", "longest": "inside"}


class OpenClip(Kind):
    """Image towers of open_clip."""

    name = "open_clip"
    about = "image towers of open_clip (CLIP, SigLIP, PE-Core, MobileCLIP, DFN, ...), a token a frame; text towers, a token a cue"
    keys: ClassVar[Mapping[str, str]] = {
        key: f"{text} (streams that read text)" for key, text in TEXT_KEYS.items() if key != "pool"
    }
    takes = ("fps", "tag")

    def models(self) -> Sequence[str]:
        """All models that open_clip describes."""
        import open_clip

        return list(open_clip.list_models())

    def examples(self) -> Sequence[Example]:
        """Few of many."""
        return (
            Example("clip=open_clip:ViT-B-32,weights=openai", 512, 8.82),
            Example("siglip=open_clip:ViT-B-16-SigLIP2,weights=webli", 768, 35.4),
            Example(
                "words=open_clip:ViT-B-32,weights=openai,reads=text",
                512,
                5.81,
                fps=0.0,
                reads="77 word pieces",
            ),
        )

    def settle(self, choice: StreamChoice) -> Settled:
        """Sizes and constants from open_clip's tables of models and of published weights."""
        text = reads_text(choice, also_pictures=True)
        if not text:
            refuse_text_keys(choice)
            choice = replace(choice, fps=choice.fps or DEFAULT_FPS)
        choice = replace(choice, weights=choice.weights or _first_tag(choice.model))
        if choice.tag and not looks_like_file(choice.weights):
            raise InputError(
                f"{choice.setting('tag', choice.tag)}: says what a file holds, and needs {choice.setting('weights', 'FILE')}"
            )
        published: dict[str, Any] = {}
        if looks_like_file(choice.weights):
            if choice.tag:
                published = _published(choice, "tag", other="")
        elif choice.weights != RANDOM:
            published = _published(choice, "weights", other=f", a file, or {RANDOM}")
        preprocess = preprocessing_of(choice.model, published or _shared(choice.model))
        if text:
            return _settle_text(choice, published, preprocess)
        height, width = _two(preprocess["size"])
        frames = FramePlan(
            RECIPES[preprocess["interpolation"]],  # type: ignore[arg-type]
            height,
            width if width != height else 0,
            fit=FITS[preprocess["resize_mode"]],  # type: ignore[arg-type]
        )
        return Settled(
            choice,
            StreamPlan(choice.name, Sampling(fps=choice.fps), frames),
            pil_preprocessing(frames, preprocess["mean"], preprocess["std"]),
            {"fps": choice.fps, "window": 1, "stride": 1, "choice": "nearest"},
            origin=_origin(published) if published and not looks_like_file(choice.weights) else "",
            note=file_note(choice),
            found={"published": published, "preprocess": preprocess},
        )

    def load(self, settled: Settled, machine: Machine) -> Backbone:
        """The image tower, frozen."""
        import open_clip

        from pipeline.backbones.network import Network, NetworkBackbone

        if settled.plan.words is not None:
            return _load_text(settled, machine)
        tower, record = load_tower(settled)
        preprocess = settled.found["preprocess"]
        transform = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**preprocess), is_train=False
        )

        def plainly(frames: Sequence[RgbFrame]) -> torch.Tensor:
            from PIL import Image

            features: torch.Tensor = tower(transform(Image.fromarray(frames[0])).unsqueeze(0))[0]
            return features

        quick = any(type(module).__name__ == "QuickGELU" for module in tower.modules())
        network = Network(
            module=tower,
            plainly=plainly,
            weights=record,
            layout="BCHW",
            mean=tuple(preprocess["mean"]),
            std=tuple(preprocess["std"]),
            feature="encode_image, not normalised",
            libraries=("open_clip_torch", "pillow"),
            fields={"quick_gelu": quick},
        )
        return NetworkBackbone(settled, network, machine)


KIND = OpenClip()


def preprocessing_of(model: str, published: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's own preprocessing of a model with published weights: its defaults, what the tag says, the model's size."""
    import open_clip

    found = asdict(open_clip.transform.PreprocessCfg())
    found |= {key: published[key] for key in PREPROCESSING if published.get(key)}
    config = open_clip.get_model_config(model) or {}
    found["size"] = config.get("vision_cfg", {}).get("image_size", found["size"])
    return found


def load_tower(settled: Settled) -> tuple[torch.nn.Module, WeightsRecord]:
    """Image tower (float32, eval, CPU) and the record of its weights. Raises WeightsError."""
    import open_clip

    from pipeline.backbones.weights import record_of, state_digest

    choice, published = settled.choice, settled.found["published"]
    if choice.weights == RANDOM:
        model, record = _build(settled), None
    elif looks_like_file(choice.weights):
        model, record = _from_file(settled), None
    else:
        model, record = _from_tag(settled, published)
    visual: torch.nn.Module = model.visual
    visual.eval().requires_grad_(False)
    if hasattr(visual, "output_tokens"):
        visual.output_tokens = False  # type: ignore[assignment]  # CoCa gives its tokens too, which `encode_image` drops
    preprocess = dict(open_clip.get_model_preprocess_cfg(model))
    if _plain(preprocess) != _plain(settled.found["preprocess"]):  # a size that only the built network knows
        raise InputError(
            f"{choice.setting('model', choice.model)}: open_clip builds it with the preprocessing {preprocess}, other than its "
            "tables say; choose another model"
        )
    if record is None:
        record = record_of(choice, state_digest(visual.state_dict()))
    return visual, record


def _settle_text(choice: StreamChoice, published: dict[str, Any], preprocess: dict[str, Any]) -> Settled:
    """The text tower of a model with open_clip's own tokenizer. Raises InputError for one with a tokenizer of the hub."""
    import open_clip

    said = (open_clip.get_model_config(choice.model) or {}).get("text_cfg", {})
    if said.get("hf_tokenizer_name") or said.get("hf_model_name"):
        raise InputError(
            f"{choice.setting('model', choice.model)}: its text tower reads with a tokenizer of the hub, which streams of "
            "open_clip do not: choose a model with open_clip's own tokenizer, or a stream of the kind transformers"
        )
    words, sampling = text_plan(choice, int(said.get("context_length", 77)))
    return Settled(
        with_defaults(choice, reads="text"),
        StreamPlan(choice.name, Sampling(fps=1.0), FramePlan("grey", 1), words=words),
        {"tokenizer": "open_clip's byte pairs, lower case"},
        sampling,
        origin=_origin(published) if published and not looks_like_file(choice.weights) else "",
        note=file_note(choice),
        found={"published": published, "preprocess": preprocess},
    )


def _load_text(settled: Settled, machine: Machine) -> Backbone:
    import open_clip
    import torch

    from pipeline.backbones.text import TextBackbone, TextNetwork
    from pipeline.backbones.weights import record_of, state_digest

    choice, model = settled.choice, load_whole(settled)
    model.visual = torch.nn.Identity()
    tokenizer = open_clip.get_tokenizer(choice.model)
    record = record_of(choice, state_digest(model.state_dict()))

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.model.encode_text(
                ids_BL
            )  # causal: what follows the end is not looked at
            return features

    def plainly(text: str) -> torch.Tensor:
        features: torch.Tensor = model.encode_text(tokenizer([text]))[0]
        return features

    network = TextNetwork(
        module=Features().eval(),
        numbers=tokenizer.encode,
        before=(tokenizer.sot_token_id,),
        after=(tokenizer.eot_token_id,),
        pad=0,
        plainly=plainly,
        weights=record,
        feature="encode_text, not normalised",
        libraries=("open_clip_torch",),
        whole=True,
        fields={"quick_gelu": any(type(module).__name__ == "QuickGELU" for module in model.modules())},
    )
    return TextBackbone(settled, network, machine)


def load_whole(settled: Settled) -> Any:
    """The whole model, image and text tower (float32, eval, CPU). Raises WeightsError, also for a file without a text tower."""
    from pipeline.backbones.weights import load_exactly, read_state_dict

    choice = settled.choice
    if choice.weights == RANDOM:
        model = _build(settled)
    elif looks_like_file(choice.weights):
        import open_clip

        state = read_state_dict(Path(choice.weights), said=choice.setting("weights", choice.weights))
        model = _build(settled)
        if hasattr(model, "text"):
            state = open_clip.model.convert_to_custom_text_state_dict(state)
        state = {key: tensor for key, tensor in state.items() if key not in NOT_WEIGHTS}
        load_exactly(model, state, origin=f"{choice.weights} (a whole {choice.model}, with its text tower)")
    else:
        model, _ = _from_tag(settled, settled.found["published"])
    return model.eval().requires_grad_(False)


def file_note(choice: StreamChoice) -> str:
    """What a user should know who gives a file without saying what it holds: empty where nothing is open.

    A state dict holds neither activation nor preprocessing. Where the published weights of the model differ in them, the wrong
    ones give plausible, wrong features.
    """
    import open_clip

    if choice.tag or not looks_like_file(choice.weights):
        return ""
    kinds: dict[str, list[str]] = {}
    for tag in open_clip.list_pretrained_tags_by_model(choice.model):
        kinds.setdefault(_trained_with(open_clip.get_pretrained_cfg(choice.model, tag)), []).append(tag)
    if len(kinds) < 2:
        return ""
    activation = {"quick_gelu": open_clip.get_model_config(choice.model).get("quick_gelu", False)}
    own = _trained_with(_shared(choice.model) | activation)
    others = "; ".join(
        f"{', '.join(tags[:3])}{' ...' if len(tags) > 3 else ''}: {kind}"
        for kind, tags in kinds.items()
        if kind != own
    )
    return (
        f"{choice.setting('weights', choice.weights)} is run with {own}. Published weights of {choice.model} that need something "
        f"else: {others}. If the file holds one of these, say which with {choice.setting('tag', '').rstrip()}"
    )


def _shared(model: str) -> dict[str, Any]:
    """Preprocessing that all published weights of a model agree on, for random weights and files of which nothing is said."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    found = [
        {key: open_clip.get_pretrained_cfg(model, tag).get(key) for key in PREPROCESSING} for tag in tags
    ]
    return {
        key: found[0][key]
        for key in PREPROCESSING
        if found and all(one[key] == found[0][key] for one in found)
    }


def _first_tag(model: str) -> str:
    """Published weights that are taken where none are named."""
    import open_clip

    return next(iter(open_clip.list_pretrained_tags_by_model(model)), RANDOM)


def _trained_with(published: Mapping[str, Any]) -> str:
    """Activation and preprocessing of published weights in words; what is not said is open_clip's default."""
    import open_clip

    defaults = asdict(open_clip.transform.PreprocessCfg())
    mean, std, mode = (published.get(key) or defaults[key] for key in ("mean", "std", "resize_mode"))
    activation = "QuickGELU" if published.get("quick_gelu") else "GELU"
    return f"{activation}, mean {_three(mean)}, std {_three(std)}, resize {mode}"


def _three(values: Sequence[float]) -> str:
    return "/".join(f"{value:.3g}" for value in values)


def _two(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return int(height), int(width)


def _plain(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: list(v) if isinstance(v := preprocess[key], (tuple, list)) else v for key in PREPROCESSING}
    return found | {"size": _two(preprocess["size"])}


def _build(settled: Settled) -> Any:
    import open_clip

    from pipeline.backbones.base import seeded

    choice, published = settled.choice, settled.found["published"]
    try:
        with seeded(choice.seed):
            return open_clip.create_model(
                choice.model,
                pretrained=None,
                precision="fp32",
                device="cpu",
                force_quick_gelu=bool(published.get("quick_gelu", False)),
                force_preprocess_cfg={key: settled.found["preprocess"][key] for key in PREPROCESSING},
            )
    except Exception as error:  # some text towers are described on the hub: whatever its client raises
        text = (open_clip.get_model_config(choice.model) or {}).get("text_cfg", {}).get("hf_model_name")
        if not text:
            raise
        raise InputError(
            f"{choice.setting('model', choice.model)}: open_clip cannot build it ({type(error).__name__}): it needs the "
            f"description of its text tower from huggingface.co/{text}; load it once on a machine with network and copy the "
            "hub's cache folder, or choose another model"
        ) from error


def _from_file(settled: Settled) -> Any:
    from pipeline.backbones.weights import load_exactly, read_state_dict

    choice = settled.choice
    said = choice.setting("weights", choice.weights)
    state = read_state_dict(Path(choice.weights), said=said)
    model = _build(settled)
    visual = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    load_exactly(model.visual, visual or state, origin=f"{said} ({choice.setting('model', choice.model)})")
    return model


def _published(choice: StreamChoice, key: str, *, other: str) -> dict[str, Any]:
    """What open_clip says of a tag. Raises WeightsError where the model has no such tag; other: what could be given instead."""
    import open_clip

    tag = getattr(choice, key)
    tags = open_clip.list_pretrained_tags_by_model(choice.model)
    if tag not in tags:
        raise WeightsError(
            f"{choice.setting(key, tag)}: {choice.model} has no such weights; choose one of {', '.join(tags) or '(none)'}{other}"
        )
    return dict(open_clip.get_pretrained_cfg(choice.model, tag))


def _origin(published: Mapping[str, Any]) -> str:
    """Where published weights lie."""
    if published.get("hf_hub"):
        return f"huggingface.co/{str(published['hf_hub']).rstrip('/')} (file open_clip_model.safetensors)"
    return str(published.get("url") or "its publisher")


def _from_tag(settled: Settled, published: Mapping[str, Any]) -> tuple[Any, WeightsRecord]:
    import open_clip

    from pipeline.backbones.weights import WeightsRecord, state_digest

    choice = settled.choice
    try:
        model = open_clip.create_model(
            choice.model,
            pretrained=choice.weights,
            precision="fp32",
            device="cpu",
            force_quick_gelu=bool(published.get("quick_gelu", False)),
        )
    except Exception as error:  # hub clients raise dozens of types for one fact: the file is not here
        other_model = choice.is_built_in_kind and choice.model != DEFAULT_MODEL
        also = f" {choice.setting('model', choice.model)}" if other_model else ""
        raise WeightsError(
            f"{choice.setting('weights', choice.weights)}: cannot be downloaded ({type(error).__name__}). Get it from "
            f"{_origin(published)} on a machine with network, then pass {choice.setting('weights', 'PATH/TO/FILE')} "
            f"{choice.setting('tag', choice.weights).removeprefix(f'--stream {choice.name}: ')}{also}; "
            f"or use {choice.setting('weights', RANDOM)} for a dry run"
        ) from error
    return model, WeightsRecord(choice.weights, state_digest(model.visual.state_dict()))
