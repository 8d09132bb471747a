"""Which backbones a run loads, from where, and what is said when they cannot be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cache.errors import DeviceError, InputError, WeightsError
from cache.fingerprint import is_random, weights_name
from pipeline.backbones import base, soundness
from pipeline.backbones.kind import settle
from pipeline.backbones.kinds import open_clip as clip
from pipeline.backbones.kinds import pytorchvideo
from pipeline.backbones.kinds.open_clip import load_tower
from pipeline.backbones.kinds.pytorchvideo import load_model
from pipeline.backbones.load import (
    BackboneConfig,
    config_from_fingerprints,
    load_backbones,
    parse_batch_sizes,
)
from tests.pipeline.backbones.conftest import clip_choice, quietly, slowfast_choice


def tiny_clip(model: str, **changes: Any) -> Any:
    config = BackboneConfig.of(
        streams=("clip",), clip_model=model, device="cpu", precision="fp32", runtime="torch", **changes
    )
    return load_backbones(config)["clip"]


# --- random and files ---------------------------------------------------------------------------------------


def test_random_weights_follow_from_the_seed_alone(tiny_model: str) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    one, same, other = (tiny_clip(tiny_model, clip_weights="random", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's random numbers are touched
    digests = [b.fingerprint()["weights"]["digest"] for b in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]
    frames = torch.zeros(16, 1, 32, 32, 3, dtype=torch.uint8)
    assert torch.equal(one.embed(frames), same.embed(frames))
    assert is_random(one.fingerprint()) and weights_name(other.fingerprint()) == "random (seed 1)"


def test_slowfast_random_weights_follow_from_the_seed(backbone: Any) -> None:
    _, record = load_model(settle(slowfast_choice(weights="random", seed=0)))
    assert record.as_fields() == backbone("slowfast", "fp32").fingerprint()["weights"]
    assert record.seed == 0


@pytest.mark.parametrize("wrap", ["model", "tower", "safetensors"])
def test_clip_files_of_the_whole_model_and_of_the_tower(wrap: str, tiny_model: str, tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(7)
    model = quietly(lambda: open_clip.create_model(tiny_model, pretrained=None))
    state = model.state_dict() if wrap != "tower" else model.visual.state_dict()
    path = tmp_path / ("w.safetensors" if wrap == "safetensors" else "w.pt")
    if wrap == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    loaded = tiny_clip(tiny_model, clip_weights=str(path))
    fields = loaded.fingerprint()["weights"]
    assert fields["tag"] == "file" and "seed" not in fields and str(tmp_path) not in json.dumps(fields)
    frames = torch.randint(0, 256, (16, 1, 32, 32, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(getattr(model.visual, f"image_{name}")) for name in ("mean", "std"))
    pixels = ((frames[:, 0].float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.embed(frames), model.eval().encode_image(pixels), rtol=1e-4, atol=1e-5
        )


PUBLISHED = {
    "quick": {"quick_gelu": True},
    "plain": {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)},
    "default": {},
}


@pytest.fixture
def published_tags(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny model, as if three kinds of weights had been published for it."""
    import open_clip

    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda _: list(PUBLISHED))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda _, tag: PUBLISHED[tag])
    return tiny_model


@pytest.mark.parametrize("tag", ["", *PUBLISHED])
def test_a_file_of_a_published_tag_runs_as_it_was_trained(
    tag: str, published_tags: str, tmp_path: Path
) -> None:
    """A state dict holds neither activation nor preprocessing: the tag gives them, on record and in the features."""
    import open_clip

    trained_with = PUBLISHED[tag] if tag else {}
    torch.manual_seed(7)
    quick = bool(trained_with.get("quick_gelu"))
    model = quietly(
        lambda: open_clip.create_model(published_tags, pretrained=None, force_quick_gelu=quick)
    ).eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    loaded = tiny_clip(published_tags, clip_weights=str(tmp_path / "w.pt"), clip_tag=tag)
    fields = loaded.fingerprint()
    assert fields["quick_gelu"] is quick
    assert fields["weights"].get("published_as", "") == tag
    assert weights_name(fields) == (f"file ({tag})" if tag else "file")
    frames = torch.randint(0, 256, (16, 1, 32, 32, 3), dtype=torch.uint8)
    mean, std = (
        torch.tensor(trained_with.get(name) or getattr(model.visual, f"image_{name}"))
        for name in ("mean", "std")
    )
    pixels = ((frames[:, 0].float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = model.encode_image(pixels)
    torch.testing.assert_close(loaded.embed(frames), expected, rtol=1e-4, atol=1e-5)
    plain = loaded.embed_plainly([frames[0, 0].numpy()])
    torch.testing.assert_close(torch.from_numpy(plain), expected[0], rtol=1e-3, atol=1e-4)
    again = config_from_fingerprints({"clip": fields}, files={"clip": str(tmp_path / "w.pt")})
    assert again.streams[0].tag == tag


def test_a_compiled_model_is_not_taken_for_one_of_another_activation(
    published_tags: str, tmp_path: Path
) -> None:
    """The same tensors, compiled before with GELU: the kept model must not answer for QuickGELU."""
    pytest.importorskip("openvino")
    import open_clip

    torch.manual_seed(7)
    model = quietly(lambda: open_clip.create_model(published_tags, pretrained=None))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    found = {}
    for tag in ("", "quick"):
        for runtime in ("openvino", "torch"):
            loaded = load_backbones(
                BackboneConfig.of(
                    streams=("clip",),
                    clip_model=published_tags,
                    clip_weights=str(tmp_path / "w.pt"),
                    clip_tag=tag,
                    device="cpu",
                    precision="fp32",
                    runtime=runtime,
                )
            )["clip"]
            generator = torch.Generator().manual_seed(0)
            shape = (loaded.batching.batch_size, 1, 32, 32, 3)
            frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
            found[tag, runtime] = loaded.embed(frames)[0]
    for tag in ("", "quick"):
        torch.testing.assert_close(found[tag, "openvino"], found[tag, "torch"], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found["", "torch"], found["quick", "torch"], rtol=1e-3, atol=1e-4)


def test_a_file_that_may_need_another_activation_is_pointed_out(published_tags: str) -> None:
    note = clip.file_note(clip_choice(model=published_tags, weights="w.pt"))
    assert "w.pt is run with GELU, mean 0.481/0.458/0.408" in note and "--clip-tag" in note
    assert "quick: QuickGELU" in note and "plain: GELU, mean 0.5/0.4/0.3" in note and "default:" not in note
    for silent in (
        clip_choice(model=published_tags, weights="w.pt", tag="quick"),
        clip_choice(model=published_tags, weights="random"),
    ):
        assert clip.file_note(silent) == ""


def test_the_default_model_s_own_tags_differ() -> None:
    note = clip.file_note(clip_choice(weights="w.pt"))
    assert "openai, laion400m_e31" in note and "QuickGELU" in note
    assert "laion2b_s34b_b79k" not in note  # trained with what the file is run with


def test_a_tag_needs_a_file_and_has_to_exist(published_tags: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--clip-tag quick: says what a file holds"):
        tiny_clip(published_tags, clip_weights="random", clip_tag="quick")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"--clip-tag nothing: tiny-vit has no such weights.*quick, plain"):
        tiny_clip(published_tags, clip_weights=str(tmp_path / "w.pt"), clip_tag="nothing")


def test_a_slowfast_file_as_pytorchvideo_publishes_it(tmp_path: Path) -> None:
    source, record = load_model(settle(slowfast_choice(weights="random", seed=4)))
    torch.save({"model_state": source.state_dict()}, tmp_path / "SLOWFAST_8x8_R50.pyth")
    _, loaded = load_model(settle(slowfast_choice(weights=str(tmp_path / "SLOWFAST_8x8_R50.pyth"))))
    assert loaded.tag == "file" and loaded.digest == record.digest and loaded.seed is None
    state = {name: t for name, t in source.state_dict().items() if not name.startswith("blocks.6")}
    torch.save({"model_state": state}, tmp_path / "headless.pyth")
    with pytest.raises(WeightsError, match=r"--slowfast-weights .*headless.*missing: blocks\.6\.proj"):
        load_model(settle(slowfast_choice(weights=str(tmp_path / "headless.pyth"))))


def test_weights_of_another_model_are_refused(tiny_model: str, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"--clip-model tiny-vit\): does not fit the model: missing: "):
        tiny_clip(tiny_model, clip_weights=str(tmp_path / "w.pt"))


# --- tags without a network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "where"),
    [("openai", "timm/vit_base_patch32_clip_224.openai"), ("laion2b_s34b_b79k", "laion/CLIP-ViT-B-32")],
)
def test_a_clip_tag_without_network_says_what_to_get(
    tag: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("open_clip.create_model", offline)
    with pytest.raises(WeightsError) as caught:
        load_tower(settle(clip_choice(weights=tag)))
    text = str(caught.value)
    assert "cannot be downloaded (OSError)" in text and f"huggingface.co/{where}" in text
    assert f"--clip-weights PATH/TO/FILE --clip-tag {tag};" in text
    assert "--clip-weights random" in text


def test_kinetics400_without_network_says_what_to_get(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(WeightsError) as caught:
        load_model(settle(slowfast_choice()))
    text = str(caught.value)
    assert (
        pytorchvideo.checkpoint_url("slowfast_r50") in text
        and str(Path(torch.hub.get_dir()) / "checkpoints") in text
    )
    assert "--slowfast-weights PATH/TO/SLOWFAST_8x8_R50.pyth" in text


def test_kinetics400_is_loaded_whole_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    source, record = load_model(settle(slowfast_choice(weights="random", seed=9)))

    def published(url: str, **options: Any) -> dict[str, Any]:
        assert url == pytorchvideo.checkpoint_url("slowfast_r50") and options["weights_only"] is True
        return {"model_state": source.state_dict()}

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", published)
    _, loaded = load_model(settle(slowfast_choice()))
    assert loaded.as_fields() == {"tag": "kinetics400", "digest": record.digest}


@pytest.mark.parametrize(
    "change", [{"resize_mode": "squash"}, {"interpolation": "bilinear"}, {"size": (32, 64)}]
)
def test_preprocessing_other_than_was_settled_is_refused(
    change: dict[str, Any], tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    own = open_clip.get_model_preprocess_cfg
    monkeypatch.setattr(open_clip, "get_model_preprocess_cfg", lambda model: {**own(model), **change})
    with pytest.raises(InputError, match="--clip-model tiny-vit: open_clip builds it with the preprocessing"):
        tiny_clip(tiny_model, clip_weights="random")


# --- settings -----------------------------------------------------------------------------------------------


def test_the_order_of_streams_does_not_depend_on_the_flag(backbone: Any, tiny_model: str) -> None:
    config = BackboneConfig.of(
        streams=("slowfast", "clip"),
        clip_model=tiny_model,
        clip_weights="random",
        slowfast_weights="random",
        device="cpu",
        precision="fp32",
        runtime="torch",
    )
    assert list(load_backbones(config)) == ["clip", "slowfast"]


def test_fingerprints_lead_back_to_the_settings(backbone: Any, tiny_model: str) -> None:
    loaded = tiny_clip(tiny_model, clip_weights="random", seed=5, clip_fps=4.0)
    prints = json.loads(json.dumps({"clip": loaded.fingerprint()}))
    config = config_from_fingerprints(prints, device="cpu")
    (choice,) = config.streams
    assert (choice.name, choice.kind, choice.model, choice.weights, choice.seed, choice.fps) == (
        *("clip", "open_clip", tiny_model, "random", 5, 4.0),
    )
    assert (choice.precision, choice.runtime) == ("fp32", "torch")
    assert load_backbones(config)["clip"].fingerprint() == loaded.fingerprint()
    whole = config_from_fingerprints({"slowfast": backbone("slowfast", "fp32").fingerprint()})
    assert whole.streams[0].stride == 32 and whole.streams[0].weights == "random"


def test_fingerprints_that_cannot_be_followed(tiny_model: str) -> None:
    fields = tiny_clip(tiny_model, clip_weights="random").fingerprint()
    from_file = {**fields, "weights": {"tag": "file", "digest": "sha256:0"}}
    with pytest.raises(InputError, match="--clip-weights FILE"):
        config_from_fingerprints({"clip": from_file})
    assert config_from_fingerprints({"clip": from_file}, files={"clip": "w.pt"}).streams[0].weights == "w.pt"
    with pytest.raises(InputError, match="--weights-file sound=w.pt: no such stream; choose from clip"):
        config_from_fingerprints({"clip": from_file}, files={"clip": "w.pt", "sound": "w.pt"})
    with pytest.raises(InputError, match="stream audio was made by tiny-vit"):
        config_from_fingerprints({"audio": fields})


def test_streams_keep_their_own_precision(tiny_model: str) -> None:
    fields = tiny_clip(tiny_model, clip_weights="random").fingerprint()
    other = {
        **fields,
        "stream": "slowfast",
        "model": "slowfast_r50",
        "sampling": {"stride": 32},
        "precision": "bf16",
    }
    config = config_from_fingerprints({"clip": fields, "slowfast": other})
    assert [choice.precision for choice in config.streams] == ["fp32", "bf16"]


def test_quick_gelu_is_on_record(tiny_model: str) -> None:
    tower, _ = quietly(lambda: load_tower(settle(clip_choice("ViT-B-32-quickgelu", weights="random"))))
    assert any(type(module).__name__ == "QuickGELU" for module in tower.modules())
    assert tiny_clip(tiny_model, clip_weights="random").fingerprint()["quick_gelu"] is False


def test_a_batch_that_was_asked_for_is_taken(tiny_model: str) -> None:
    config = BackboneConfig.of(
        streams=("clip",),
        clip_model=tiny_model,
        clip_weights="random",
        device="cpu",
        runtime="torch",
        batch_sizes=parse_batch_sizes(["clip=3"]),
    )
    assert load_backbones(config)["clip"].batching.batch_size == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory."),
            "the device has no memory for clip: use --batch clip=N",
        ),
        (
            RuntimeError("CUDA error: misaligned address\nmore"),
            r"the device cpu failed .CUDA error: misaligned address.",
        ),
    ],
)
def test_a_device_in_trouble_while_a_model_is_loaded_is_a_sentence(
    error: RuntimeError, said: str, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch.nn.Module, "to", fails)
    with pytest.raises(DeviceError, match=said):
        tiny_clip(tiny_model, clip_weights="random")


def test_every_device_is_asked_for_sound_convolutions_before_a_model_is_loaded(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def require_sound(device: torch.device, precision: str) -> None:
        asked.append((str(device), precision))
        if len(asked) == 4:
            raise DeviceError("computes convolutions wrongly")

    monkeypatch.setattr(soundness, "require_sound", require_sound)
    monkeypatch.setattr(base, "resolve_devices", lambda _: (torch.device("cuda:0"), torch.device("cuda:1")))
    config = BackboneConfig.of(
        (
            f"a=open_clip:{tiny_model},weights=random,precision=bf16",
            f"b=open_clip:{tiny_model},weights=random",
        ),
        device="all",
        precision="fp32",
    )
    with pytest.raises(DeviceError, match="wrongly"):
        load_backbones(config)
    assert asked == [(device, precision) for device in ("cuda:0", "cuda:1") for precision in ("bf16", "fp32")]
