"""`transformers`: folders of tiny models of the real classes, equal to the library's own processor and network."""

from __future__ import annotations

import importlib.util
import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version

from cache.errors import InputError, WeightsError
from cache.reader import open_cache
from pipeline.backbones.choice import parse_stream
from pipeline.backbones.kind import settle
from pipeline.backbones.kinds import transformers as kind
from pipeline.backbones.load import BackboneConfig, config_from_fingerprints, load_backbones
from tests.pipeline.backbones.conftest import moving_picture, prepared, quietly, relative_error
from tests.pipeline.backbones.flops import gflop
from tests.pipeline.trees import GOOD, make_tree, run

transformers = pytest.importorskip("transformers")
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
SWIN = {
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 4,
    "image_size": 32,
    "patch_size": 4,
}
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": SMALL,
    "deit": SMALL,
    "beit": SMALL,
    "swin": SWIN,
    "swinv2": SWIN,
    "convnext": CONVNEXT,
    "convnextv2": CONVNEXT,
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "dinov2": SMALL,
    "dinov2_with_registers": SMALL | {"num_register_tokens": 3},
    "dinov3_vit": SMALL | {"num_register_tokens": 3},
    "dinov3_convnext": {"hidden_sizes": [8, 8, 16, 24], "depths": [1, 1, 1, 1]},
    "siglip": {"vision_config": SMALL},
    "xclip": {
        "vision_config": {
            **SMALL,
            "num_frames": 4,
            "mit_hidden_size": 16,
            "mit_intermediate_size": 32,
            "mit_num_attention_heads": 2,
        },
        "text_config": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 99,
        },
        "projection_dim": 16,
        "prompt_num_attention_heads": 2,
    },
    "clip": {"vision_config": {**SMALL, "projection_dim": 16}, "projection_dim": 16},
    "videomae": {**SMALL, "num_frames": 4},
    "timesformer": {**SMALL, "num_frames": 4},
    "vjepa2": {
        **SMALL,
        "crop_size": 32,
        "frames_per_clip": 4,
        "hidden_size": 96,
        "num_attention_heads": 4,
        "pred_hidden_size": 48,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
    },
}
WIDTHS = {
    "vit": 32,
    "deit": 32,
    "beit": 32,
    "swin": 16,
    "swinv2": 16,
    "convnext": 16,
    "convnextv2": 16,
    "resnet": 16,
    "dinov2": 64,
    "dinov2_with_registers": 64,
    "dinov3_vit": 32,
    "dinov3_convnext": 24,
    "siglip": 32,
    "xclip": 16,
    "clip": 16,
    "videomae": 32,
    "timesformer": 32,
    "vjepa2": 96,
}
WINDOWS = {"videomae": 4, "timesformer": 4, "vjepa2": 4, "xclip": 4}
EXACT: dict[str, Any] = {"size": {"height": 32, "width": 32}}
SHORT: dict[str, Any] = {"size": {"shortest_edge": 32}}
CUT: dict[str, Any] = {
    "size": {"height": 36, "width": 36},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
}
SHAPES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("vit", "swin", "swinv2", "siglip", "dinov3_vit"), EXACT),
    **dict.fromkeys(("convnext", "convnextv2", "resnet"), SHORT),
    **dict.fromkeys(("deit", "beit"), CUT),
    "dinov3_convnext": {"size": {"height": 64, "width": 64}},
    "vjepa2": {"crop_size": 32},
}
"""Of the processors that do not scale the short side and crop."""


def save(folder: Path, family: str, **said: Any) -> Path:
    """A folder as the hub has it, with random weights. said: other values of the preprocessor."""
    torch.manual_seed(0)
    with kind._quietly():
        config = transformers.AutoConfig.for_model(family, **CONFIGS[family])
        kind.FAMILIES[family].build(config).save_pretrained(folder)
    config.save_pretrained(folder)
    cropped: dict[str, Any] = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    shape = SHAPES.get(family, cropped)
    getattr(transformers, kind.FAMILIES[family].processor)(**(shape | said)).save_pretrained(folder)
    return folder


def load(text: str, runtime: str = "torch") -> Any:
    config = BackboneConfig.of((text,), device="cpu", precision="fp32", runtime=runtime)
    (backbone,) = load_backbones(config).values()
    return backbone


RESIZES_LEVELS = (
    Version(metadata.version("torchvision")) >= Version("0.24")
    or torch.backends.cpu.get_cpu_capability() != "AVX512"
)


@pytest.mark.parametrize("runtime", ["torch", pytest.param("openvino", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", CONFIGS)
def test_features_equal_the_library_s_own(family: str, runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    model = load(f"x=transformers:{save(tmp_path, family)}", runtime)
    assert model.dim == WIDTHS[family] and model.plan.sampling.window == WINDOWS.get(family, 1)
    fingerprint = json.dumps(model.fingerprint()["preprocessing"])
    assert ("7 fractional bits" in fingerprint) == family.startswith("dinov3")
    for height, width in ((121, 163), (170, 120), (40, 40)):
        frames = moving_picture(model.plan.sampling.window, height, width)
        batch = prepared(frames, model).repeat(model.batching.batch_size, *[1] * 4)
        error = relative_error(model.embed(batch)[0].numpy(), model.embed_plainly(frames))
        # frames of images are the library's bit for bit or to 1/128 of a level, those of videos to a grey level, which
        # torchvision before 0.24 moves in a ninth of the values where the processor has AVX-512: it resizes floats there
        of_video = kind.FAMILIES[family].processor.endswith("VideoProcessor")
        assert error <= (1e-4 if not of_video else 1e-3 if RESIZES_LEVELS else 6e-3)


CLASSIFIERS = {
    "vit": "ViTForImageClassification",
    "deit": "DeiTForImageClassification",
    "beit": "BeitForImageClassification",
    "swin": "SwinForImageClassification",
    "swinv2": "Swinv2ForImageClassification",
    "convnext": "ConvNextForImageClassification",
    "convnextv2": "ConvNextV2ForImageClassification",
    "resnet": "ResNetForImageClassification",
    "dinov2": "Dinov2ForImageClassification",
    "dinov2_with_registers": "Dinov2WithRegistersForImageClassification",
    "timesformer": "TimesformerForVideoClassification",
}


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_the_feature_is_what_the_classifier_sees(family: str, tmp_path: Path) -> None:
    """The last layer of the model's own classifier, undone."""
    name = CLASSIFIERS[family]
    config = transformers.AutoConfig.for_model(family, **CONFIGS[family])
    classifier = getattr(transformers, name)(config).eval()
    save(tmp_path, family)
    with kind._quietly():
        classifier.save_pretrained(tmp_path)
    seen = []
    classifier.classifier.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    model = load(f"x=transformers:{tmp_path}")
    pixels = torch.randn(*((1, 4) if family == "timesformer" else (1,)), 3, 32, 32)
    with torch.no_grad():
        classifier(pixels)
        found = model._network.module(pixels)
    torch.testing.assert_close(found, seen[0].flatten(1))


@pytest.mark.parametrize("family", ["xclip", "siglip"])
def test_the_feature_is_what_the_whole_model_compares_with_texts(family: str, tmp_path: Path) -> None:
    """Before the prompts of X-CLIP and without the text tower, whose tensors are not part of the digest."""
    save(tmp_path, family)
    config = transformers.AutoConfig.for_model(family, **CONFIGS[family])
    torch.manual_seed(1)
    whole = transformers.AutoModel.from_config(config).eval()
    with kind._quietly():
        whole.save_pretrained(tmp_path)
    model = load(f"x=transformers:{tmp_path}")
    state = model._network.module.model.state_dict()
    assert not [name for name in state if name.startswith("text")]
    pixels = torch.randn(*((1, 4) if family == "xclip" else (1,)), 3, 32, 32)
    with torch.no_grad():
        ask = whole.get_video_features if family == "xclip" else whole.get_image_features
        torch.testing.assert_close(model._network.module(pixels), ask(pixel_values=pixels).pooler_output)


@pytest.mark.parametrize(("side", "said"), [(32, ("short", (36, 36))), (384, ("exact", (384, 384)))])
def test_convnext_s_processor_crops_small_pictures_and_warps_large_ones(
    side: int, said: Any, tmp_path: Path
) -> None:
    folder = save(tmp_path, "convnext", size={"shortest_edge": side})
    frames = settle(parse_stream(f"x=transformers:{folder}")).plan.frames
    assert (frames.fit, frames.box) == said and frames.size == side


def test_a_folder_is_the_same_wherever_it_lies(tmp_path: Path) -> None:
    save(tmp_path / "a", "vit")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    one, other = (load(f"x=transformers:{tmp_path / name}").fingerprint() for name in "ab")
    assert one == other and str(tmp_path) not in json.dumps(one)
    assert one["weights"]["tag"] == "file" and one["model"].startswith("vit:ViTModel@sha256:")
    with pytest.raises(InputError, match="the x model came from a folder: .*--weights-file x=FOLDER"):
        config_from_fingerprints({"x": one})
    again = config_from_fingerprints({"x": one}, files={"x": str(tmp_path / "b")}, device="cpu")
    assert load_backbones(again)["x"].fingerprint() == one
    random = load(f"x=transformers:{tmp_path / 'a'},weights=random,seed=5").fingerprint()
    assert random["weights"]["tag"] == "random" and random["weights"]["digest"] != one["weights"]["digest"]
    again = config_from_fingerprints({"x": random}, files={"x": str(tmp_path / "a")}, device="cpu")
    assert load_backbones(again)["x"].fingerprint() == random


def test_it_is_extracted(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "videomae")
    asked = f"mae=transformers:{folder},stride=2"
    config = BackboneConfig.of((asked,), device="cpu", precision="fp32", runtime="torch")
    assert run(make_tree(tmp_path / "data"), tmp_path / "a.zarr", backbones=config).stored == len(GOOD)
    with open_cache(tmp_path / "a.zarr") as cache:
        fields = cache.streams["mae"].fingerprint
        assert cache.streams["mae"].dim == 32
    (again,) = config_from_fingerprints({"mae": fields}, files={"mae": str(folder)}).streams
    assert again == parse_stream(f"{asked},weights=published,fps=7.5,precision=fp32,runtime=torch")


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    """The library would fill them with random values."""
    from safetensors.torch import load_file, save_file

    file = save(tmp_path, "vit") / "model.safetensors"
    state = load_file(file)
    del state["layernorm.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack 1 tensors of ViTModel, such as layernorm\.weight"):
        load(f"x=transformers:{tmp_path}")


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"do_resize": False}, "has do_resize off"),
        ({"do_normalize": False}, "has do_normalize off"),
        ({"rescale_factor": 1 / 127.5}, "scales to other values than 0 to 1"),
        ({"resample": 0}, "resamples with PIL's filter 0"),
        ({"do_center_crop": False}, "crops to nothing"),
    ],
)
def test_preprocessing_that_is_not_done_here(said: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        settle(parse_stream(f"x=transformers:{save(tmp_path, 'clip', **said)}"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x=transformers", "name a folder, a model on the hub, or one of videomae"),
        ("x=transformers:vit", "a model type alone has no weights; give a folder"),
        ("x=transformers:/no/such/folder", "no such folder, and no model type"),
        ("x=transformers:vit,weights=w.pt", "take the weights of the folder or hub name"),
        ("x=transformers:vit,weights=random,size=64", "transformers streams have no such setting"),
        ("x=transformers:videomae,weights=random,stride=17", "stride=17: between 1 and 16 grid samples"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(text: str, says: str) -> None:
    with pytest.raises((InputError, WeightsError)) as caught:
        settle(parse_stream(text))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_folders_that_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot be read \(.*a folder needs config\.json"):
        settle(parse_stream(f"x=transformers:{tmp_path}"))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match="holds a gpt2 model; streams are made of videomae"):
        settle(parse_stream(f"x=transformers:{tmp_path}"))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(WeightsError, match=r"cannot be read \(OSError"):
        settle(parse_stream(f"x=transformers:{tmp_path}"))


def test_code_that_lies_in_a_folder_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit('run')")
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}'
    )
    with pytest.raises(WeightsError, match="cannot be read"):
        settle(parse_stream(f"x=transformers:{tmp_path}"))


def test_the_hub_out_of_reach_and_the_package_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    with pytest.raises(
        WeightsError, match=r"cannot be downloaded \(OSError\).*huggingface\.co/facebook/x on a machine"
    ):
        settle(parse_stream("v=transformers:facebook/x"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'onepass\[transformers\]'"):
        settle(parse_stream("v=transformers:facebook/x"))


@pytest.mark.slow
@pytest.mark.parametrize("example", [e for e in kind.KIND.examples() if not e.reads], ids=str)
def test_examples_are_as_wide_and_as_dear_as_said(example: Any) -> None:
    settled = settle(parse_stream(example.choice))
    config, plan = settled.found["config"], settled.plan
    family = kind.FAMILIES[config.model_type]
    side, window = plan.frames.size, plan.sampling.window
    frames = (1, window) if window > 1 else (1,)
    with torch.device("meta"):
        model = quietly(lambda: getattr(transformers, family.network)(config, **dict(family.options)).eval())
        shape, found = gflop(lambda pixels: family.take(model, pixels), torch.zeros(*frames, 3, side, side))
    assert shape == (1, example.width) and found == pytest.approx(example.gflop, rel=0.01)
