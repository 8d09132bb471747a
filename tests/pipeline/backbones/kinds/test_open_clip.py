"""`open_clip` settles every published tag to the preprocessing that open_clip itself would take."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from cache.errors import InputError
from pipeline.backbones.choice import RANDOM, StreamChoice, parse_stream
from pipeline.backbones.kind import settle
from pipeline.backbones.kinds import open_clip as kind
from pipeline.backbones.load import BackboneConfig, config_from_fingerprints
from tests.pipeline.backbones.conftest import moving_picture, prepared, quietly, relative_error
from tests.pipeline.backbones.flops import gflop
from tests.pipeline.trees import GOOD, make_tree, run

PAIRS = open_clip.list_pretrained()


def settled(model: str, weights: str, tag: str = "") -> Any:
    return settle(StreamChoice("x", "open_clip", model, weights=weights, tag=tag))


def own_preprocessing(model: str, tag: str) -> dict[str, Any]:
    """As `open_clip.create_model` merges it: defaults, then the tag, then the model's own size."""
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    found = merge_preprocess_dict(PreprocessCfg(), open_clip.get_pretrained_cfg(model, tag))
    return {**found, "size": open_clip.get_model_config(model)["vision_cfg"]["image_size"]}


def test_every_published_tag_settles_as_open_clip_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pt").touch()
    assert len(PAIRS) >= 185  # of open_clip 3.0
    for model, tag in PAIRS:
        found, of_file = settled(model, tag), settled(model, "w.pt", tag)
        assert kind._plain(found.found["preprocess"]) == kind._plain(own_preprocessing(model, tag)), (
            model,
            tag,
        )
        assert found.preprocessing == of_file.preprocessing and found.plan == of_file.plan
        assert found.origin and not of_file.note


def test_random_weights_see_what_all_published_ones_agree_on() -> None:
    defaults = asdict(open_clip.transform.PreprocessCfg())
    for model in open_clip.list_models():
        found = settled(model, RANDOM).found["preprocess"]
        published = [own_preprocessing(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
        for key in kind.PREPROCESSING:
            values = {str(one[key]) for one in published} or {str(defaults[key])}
            if len(values) == 1:
                assert str(found[key]) in values, (model, key)


BUILT = {
    "ViT-B-32": "openai",  # bicubic, short side
    "ViT-B-16-SigLIP": "webli",  # a timm tower, squashed, mean 0.5
    "MobileCLIP-S1": "datacompdr",  # a timm tower, bilinear, values 0 to 1
    "ViT-L-14-CLIPA": "datacomp1b",  # bilinear, squashed, ImageNet's mean
    "PE-Core-T-16-384": "meta",
    "RN50x4": "openai",
    "convnext_base_w_320": "laion_aesthetic_s13b_b82k",
}


@pytest.mark.parametrize("model", BUILT)
def test_a_built_network_says_the_same(model: str) -> None:
    """Built on the meta device: all but the numbers."""
    found = settled(model, BUILT[model])
    published = open_clip.get_pretrained_cfg(model, BUILT[model])

    def build() -> Any:
        with torch.device("meta"):
            return open_clip.create_model(
                model, device="meta", force_preprocess_cfg={k: published.get(k) for k in kind.PREPROCESSING}
            )

    own = open_clip.get_model_preprocess_cfg(quietly(build))
    assert kind._plain(own) == kind._plain(found.found["preprocess"])


def test_a_text_tower_that_lies_elsewhere_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to the hub\nto load this file")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(
        InputError, match=r"model=roberta-ViT-B-32: open_clip cannot build it \(OSError.*roberta-base"
    ) as caught:
        kind.load_tower(settled("roberta-ViT-B-32", RANDOM))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preprocessing", [{}, {"resize_mode": "squash", "interpolation": "bilinear"}])
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_features_equal_the_plainly_run_tower(
    runtime: str, preprocessing: dict[str, Any], tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.backbones.load import load_backbones

    pytest.importorskip(runtime)
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda _: ["only"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"mean": (0.5,) * 3, **preprocessing})
    config = BackboneConfig.of(
        (f"tiny=open_clip:{tiny_model},weights=random,runtime={runtime}",), device="cpu", precision="fp32"
    )
    model = load_backbones(config)["tiny"]
    frame = moving_picture(1, 121, 163)[0]
    batch = prepared([frame], model).repeat(model.batching.batch_size, 1, 1, 1, 1)
    assert relative_error(model.embed(batch)[0].numpy(), model.embed_plainly([frame])) <= 1e-3


@pytest.mark.slow
def test_a_tower_that_gives_its_tokens_too_is_asked_for_the_feature_alone() -> None:
    """CoCa's: what is stored is its `encode_image`."""
    from PIL import Image

    from pipeline.backbones.load import load_backbones

    config = BackboneConfig.of(
        ("coca=open_clip:coca_ViT-B-32,weights=random",), device="cpu", runtime="torch", precision="fp32"
    )
    coca = load_backbones(config)["coca"]
    tower, _ = kind.load_tower(config.settled()[0])
    whole, _, transform = open_clip.create_model_and_transforms("coca_ViT-B-32")
    whole.eval().visual.load_state_dict(tower.state_dict())
    frame = moving_picture(1, 121, 163)[0]
    with torch.inference_mode():
        features = whole.encode_image(transform(Image.fromarray(frame))[None], normalize=False)  # type: ignore[operator, index]
    expected = features[0].numpy()
    assert expected.shape == (coca.dim,)
    assert relative_error(coca.embed_plainly([frame]), expected) <= 1e-6
    assert relative_error(coca.embed(prepared([frame], coca))[0].numpy(), expected) <= 1e-3


def test_it_is_extracted_and_leads_back_to_its_choice(tiny_model: str, tmp_path: Path) -> None:
    from cache.reader import open_cache

    asked = f"tiny=open_clip:{tiny_model},weights=random,seed=3,fps=4"
    config = BackboneConfig.of((asked,), device="cpu", precision="fp32", runtime="torch")
    assert run(make_tree(tmp_path / "data"), tmp_path / "a.zarr", backbones=config).stored == len(GOOD)
    with open_cache(tmp_path / "a.zarr") as cache:
        fields = cache.streams["tiny"].fingerprint
    again = config_from_fingerprints({"tiny": fields}).streams[0]
    assert again == parse_stream(f"{asked},precision=fp32,runtime=torch")


@pytest.mark.slow
@pytest.mark.parametrize("example", [e for e in kind.KIND.examples() if not e.reads], ids=str)
def test_examples_are_as_wide_and_as_dear_as_said(example: Any) -> None:
    found = settle(parse_stream(example.choice))

    def tower() -> Any:
        with torch.device("meta"):
            return open_clip.create_model(found.choice.model, device="meta").visual.eval()

    height, width = found.plan.frames.shape[:2]
    shape, cost = gflop(quietly(tower), torch.zeros(1, 3, height, width, device="meta"))
    assert shape == (1, example.width) and cost == pytest.approx(example.gflop, rel=0.01)
