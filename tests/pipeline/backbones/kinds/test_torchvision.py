"""Networks of torchvision: as published, folded, from files, and through the pipeline."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache.errors import InputError, WeightsError
from cache.reader import open_cache
from pipeline.backbones.choice import parse_stream
from pipeline.backbones.kind import settle
from pipeline.backbones.kinds.torchvision import CARDS, KIND, load_model, weights_url, without_last_layer
from pipeline.backbones.load import BackboneConfig, config_from_fingerprints, load_backbones
from pipeline.decoding.frames import prepare_frame
from pipeline.verify import compare_video, verdicts
from tests.pipeline.backbones.conftest import moving_picture
from tests.pipeline.backbones.kinds.checks import (
    counted_gflop,
    error_against_plain,
    every_network,
    loaded,
    saved,
    trained,
)
from tests.pipeline.trees import run
from tests.videos import write_video

SMALL = "mc=torchvision:mc3_18,weights=random"
OTHERS = [name for name in CARDS if name != "mc3_18"]


def model_of(text: str) -> Any:
    return load_model(settle(parse_stream(text)))[0]


@pytest.mark.parametrize("runtime", ["torch", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_file_is_run_as_plainly(runtime: str, tmp_path: Path) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    path = saved(trained(model_of(SMALL)), tmp_path / "mc3_18-a90a0ba3.pth")
    backbone = loaded(f"mc=torchvision:mc3_18,weights={path}", runtime=runtime, batch_sizes=(("mc", 1),))
    assert backbone.dim == 512
    assert error_against_plain(backbone) <= 1e-3
    fields = backbone.fingerprint()
    assert fields["weights"]["tag"] == "file"
    assert fields["sampling"] == {"fps": 15.0, "window": 16, "stride": 16, "choice": "nearest"}
    assert (fields["preprocessing"]["scaled"], fields["preprocessing"]["size"]) == ([128, 171], 112)


@pytest.mark.parametrize("name", ["mc3_18", "mvit_v1_b", "swin3d_t"])
@pytest.mark.parametrize("shape", [(120, 160), (360, 640), (241, 177), (128, 171)])
def test_frames_are_those_of_the_transforms_up_to_one_grey_level(name: str, shape: tuple[int, int]) -> None:
    """Of uint8 videos torchvision's resize gives whole grey levels; ties of halves fall either way, nothing else differs."""
    from torchvision.models import get_model_weights

    card = CARDS[name]
    plan = settle(parse_stream(f"a=torchvision:{name}")).plan.frames
    transform = get_model_weights(name)["DEFAULT"].transforms(mean=(0.0,) * 3, std=(1.0,) * 3)
    (frame,) = moving_picture(1, *shape)
    frame = np.clip(frame // 2 + np.arange(shape[1], dtype=np.uint8)[None, :, None] // 3, 0, 255).astype(
        np.uint8
    )
    found = prepare_frame(frame, plan).astype(int)
    video_TCHW = torch.from_numpy(frame).permute(2, 0, 1)[None].contiguous()
    expected = (transform(video_TCHW)[:, 0] * 255).round().permute(1, 2, 0).numpy().astype(int)
    assert found.shape == (card.look.crop, card.look.crop, 3)
    differs = np.abs(found - expected)
    assert differs.max() <= 1
    assert (differs > 0).mean() < 1e-3


def test_what_is_said_of_the_models_is_what_their_weights_say() -> None:
    """Files, sizes, mean, std, and the frames and rate with which they were scored."""
    from torchvision.models import get_model_weights

    for name, card in CARDS.items():
        published = get_model_weights(name)
        assert {entry.name.lower() for entry in published} == set(card.files)
        assert published["DEFAULT"].name.lower() == next(iter(card.files))
        for entry in published:
            assert (
                weights_url(parse_stream(f"a=torchvision:{name},weights={entry.name.lower()}")) == entry.url
            )
            transform = entry.transforms()
            assert tuple(transform.resize_size) == card.look.box
            assert tuple(transform.crop_size) == (card.look.crop,) * 2
            assert (tuple(transform.mean), tuple(transform.std)) == (card.look.mean, card.look.std)
            assert transform.interpolation.value == "bilinear"
            said = entry.meta["_docs"]
            assert f"frame_rate={card.fps:g}`" in said and f"clip_len={card.frames}`" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a=torchvision:r3d", "model=r3d: torchvision has no such model; did you mean s3d, r3d_18"),
        ("a=torchvision:s3d,stride=129", "--stream a: stride=129: between 1 and 128"),
        (
            "a=torchvision:swin3d_b,weights=v1",
            "choose kinetics400_v1, kinetics400_imagenet22k_v1, a file, or random",
        ),
        ("a=torchvision:s3d,size=224", "torchvision streams have no such setting"),
    ],
)
def test_what_torchvision_does_not_have(text: str, says: str) -> None:
    with pytest.raises((InputError, WeightsError)) as caught:
        settle(parse_stream(text))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_do_not_fit_or_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(model_of("a=torchvision:s3d,weights=random").state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"--stream mc: weights=.*w\.pth: does not fit the model"):
        model_of(f"mc=torchvision:mc3_18,weights={path}")
    asked: list[tuple[str, bool]] = []

    def offline(url: str, *, check_hash: bool, **_: Any) -> Any:
        asked.append((url, check_hash))
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(
        WeightsError, match=r"Get https://.*/s3d-d76dad2f\.pth .* weights=PATH/TO/s3d-d76dad2f"
    ):
        model_of("a=torchvision:s3d")
    assert asked == [("https://download.pytorch.org/models/s3d-d76dad2f.pth", True)]


@pytest.mark.slow
def test_it_is_extracted_verified_and_leads_back_to_the_choice(tmp_path: Path) -> None:
    src = tmp_path / "data"
    for number, seconds in enumerate((0.5, 1.2)):
        write_video(src / f"v{number}.mp4", seconds=seconds, seed=number)
    config = BackboneConfig.of((f"{SMALL},stride=8",), device="cpu", precision="fp32", runtime="torch")
    report = run(src, tmp_path / "a.zarr", backbones=config, dtype="float32")
    assert report.stored == 2 and report.adds_up
    with open_cache(tmp_path / "a.zarr") as cache:
        info = cache.streams["mc"]
        assert info.dim == 512
        again = config_from_fingerprints({"mc": info.fingerprint}, device="cpu")
        assert (again.streams[0].model, again.streams[0].stride) == ("mc3_18", 8)
        backbones = load_backbones(again)
        assert backbones["mc"].fingerprint().items() <= info.fingerprint.items()
        path = src / cache.videos.row(0).id
        found = compare_video(cache, 0, path, backbones, rng=np.random.default_rng(0)).comparisons
        (verdict,) = verdicts(cache, found)
        assert verdict.ok


@pytest.mark.slow
@every_network
@pytest.mark.parametrize("name", CARDS)
def test_widths_and_flop_are_the_counted_ones(name: str) -> None:
    text = f"a=torchvision:{name},weights=random"
    (example,) = [e for e in KIND.examples() if f":{name}," in e.choice]
    model = without_last_layer(model_of(text), CARDS[name])
    width, gflop = counted_gflop(model, settle(parse_stream(text)))
    assert width == example.width and gflop == pytest.approx(example.gflop, abs=0.01)


@pytest.mark.slow
def test_the_feature_is_what_the_published_networks_score() -> None:
    model = model_of(SMALL)
    last = copy.deepcopy(model.fc)
    pixels = torch.randn(1, 3, 16, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = model(pixels)
        torch.testing.assert_close(last(without_last_layer(model, CARDS["mc3_18"])(pixels)), scores)


@pytest.mark.slow
@every_network
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
@pytest.mark.parametrize("name", OTHERS)
def test_every_network_is_run_as_plainly(name: str, runtime: str, tmp_path: Path) -> None:
    path = saved(trained(model_of(f"a=torchvision:{name},weights=random")), tmp_path / "w.pth")
    backbone = loaded(f"a=torchvision:{name},weights={path}", runtime=runtime, batch_sizes=(("a", 1),))
    assert backbone.dim == CARDS[name].width
    assert error_against_plain(backbone) <= 1e-3
