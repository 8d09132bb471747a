"""Networks of pytorchvideo's zoo: as published, folded, from files, and through the pipeline."""

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
from pipeline.backbones.kinds.pytorchvideo import (
    KIND,
    ZOO,
    checkpoint_url,
    load_model,
    without_projection,
)
from pipeline.backbones.load import BackboneConfig, config_from_fingerprints, load_backbones
from pipeline.backbones.trial import worst_cosine
from pipeline.verify import compare_video, verdicts
from tests.pipeline.backbones.kinds.checks import (
    counted_gflop,
    error_against_plain,
    every_network,
    loaded,
    quietly,
    saved,
    trained,
)
from tests.pipeline.trees import run
from tests.videos import write_video

SMALL = "x3d=pytorchvideo:x3d_xs,weights=random"
OTHERS = [name for name in ZOO if name not in ("x3d_xs", "slowfast_r50")]


def model_of(text: str) -> Any:
    return quietly(lambda: load_model(settle(parse_stream(text))))[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x3d_xs after a training, as the zoo publishes it."""
    folder = tmp_path_factory.mktemp("zoo")
    return saved(trained(model_of(SMALL)), folder / "X3D_XS.pyth", "model_state")


@pytest.mark.parametrize("runtime", ["torch", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_file_of_the_zoo_is_run_as_plainly(runtime: str, checkpoint: Path) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    backbone = loaded(f"x3d=pytorchvideo:x3d_xs,weights={checkpoint}", runtime=runtime)
    assert backbone.dim == 2048
    assert error_against_plain(backbone) <= 1e-3
    fields = backbone.fingerprint()
    assert fields["weights"]["tag"] == "file" and "seed" not in fields["weights"]
    assert fields["sampling"] == {"fps": 2.5, "window": 4, "stride": 4, "choice": "nearest"}
    assert fields["preprocessing"]["size"] == 182


def test_a_pool_that_torch_lacks_in_bf16_is_computed_in_float32(checkpoint: Path) -> None:
    """On a CPU; the others of the zoo but SlowFast and MViT have the same one, and so has torchvision's s3d."""
    backbone = loaded(f"x3d=pytorchvideo:x3d_xs,weights={checkpoint}", runtime="torch", precision="bf16")
    assert backbone.fingerprint()["precision"] == "bf16"
    assert worst_cosine(backbone, torch.device("cpu")) > 0.999


def test_the_feature_is_what_the_published_network_projects() -> None:
    """Its scores are the projection of the feature, averaged over the 2x2 positions of 182 pixels."""
    model = model_of(SMALL)
    trained(model)
    pixels = torch.randn(1, 3, 4, 182, 182, generator=torch.Generator().manual_seed(0))
    proj = copy.deepcopy(model.blocks[-1].proj)
    model.blocks[-1].activation = None
    with torch.no_grad():
        scores = model(pixels)
        features = without_projection(model)(pixels)
        torch.testing.assert_close(proj(features), scores, rtol=1e-4, atol=1e-5)


def test_what_is_said_of_the_zoo_is_what_the_package_says() -> None:
    """URLs and sizes in the names of the checkpoints."""
    quietly(lambda: __import__("pytorchvideo.models.hub"))
    from pytorchvideo.models.hub import csn, r2plus1d, resnet, slowfast, vision_transformers, x3d

    published: dict[str, str] = {}
    for module in (csn, r2plus1d, resnet, slowfast, vision_transformers, x3d):
        published |= module.checkpoint_paths
    assert {name: checkpoint_url(name) for name in ZOO} == {name: published[name] for name in ZOO}
    for card in ZOO.values():
        if not card.file.startswith(("X3D", "SLOWFAST")):
            assert f"_{card.frames}x{card.every}" in card.file


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a=pytorchvideo:x3d_xl", "model=x3d_xl: pytorchvideo has no such model; did you mean x3d_"),
        ("a=pytorchvideo:x3d_xs,stride=5", "--stream a: stride=5: between 1 and 4"),
        (
            "a=pytorchvideo:x3d_xs,weights=k600",
            "--stream a: weights=k600: choose kinetics400, a file, or random",
        ),
        ("a=pytorchvideo:x3d_xs,size=224", "pytorchvideo streams have no such setting"),
        ("a=pytorchvideo:x3d_xs,head=2", "pytorchvideo has no key 'head'"),
    ],
)
def test_what_the_zoo_does_not_have(text: str, says: str) -> None:
    with pytest.raises((InputError, WeightsError)) as caught:
        settle(parse_stream(text))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_do_not_fit_or_cannot_be_had(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(checkpoint, weights_only=True)["model_state"]
    state.pop("blocks.5.proj.weight")
    other = saved(state, tmp_path / "headless.pyth", "model_state")
    with pytest.raises(WeightsError, match=r"--stream x3d: weights=.*headless\.pyth: does not fit the model"):
        model_of(f"x3d=pytorchvideo:x3d_xs,weights={other}")

    def offline(url: str, **_: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(WeightsError, match=r"Get https://.*/X3D_XS\.pyth .* weights=PATH/TO/X3D_XS\.pyth"):
        model_of("x3d=pytorchvideo:x3d_xs")


@pytest.mark.slow
def test_it_is_extracted_verified_and_leads_back_to_the_choice(tmp_path: Path) -> None:
    src = tmp_path / "data"
    for number, seconds in enumerate((0.5, 1.2)):
        write_video(src / f"v{number}.mp4", seconds=seconds, seed=number)
    config = BackboneConfig.of((f"{SMALL},fps=5,stride=2",), device="cpu", precision="fp32", runtime="torch")
    report = run(src, tmp_path / "a.zarr", backbones=config, dtype="float32")
    assert report.stored == 2 and report.adds_up
    with open_cache(tmp_path / "a.zarr") as cache:
        info = cache.streams["x3d"]
        assert info.dim == 2048
        again = config_from_fingerprints({"x3d": info.fingerprint}, device="cpu")
        assert again.streams[0].weights == "random" and again.streams[0].model == "x3d_xs"
        assert (again.streams[0].fps, again.streams[0].stride) == (5.0, 2)
        backbones = load_backbones(again)
        assert backbones["x3d"].fingerprint().items() <= info.fingerprint.items()
        path = src / cache.videos.row(0).id
        found = compare_video(cache, 0, path, backbones, rng=np.random.default_rng(0)).comparisons
        (verdict,) = verdicts(cache, found)
        assert verdict.ok


@pytest.mark.slow
@every_network
@pytest.mark.parametrize("name", ZOO)
def test_widths_and_flop_are_the_counted_ones(name: str) -> None:
    settled = settle(parse_stream(f"a=pytorchvideo:{name},weights=random"))
    model = without_projection(model_of(f"a=pytorchvideo:{name},weights=random"))
    if name.startswith("slowfast"):
        body = model

        class Pathways(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = body

            def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
                features: torch.Tensor = self.body([x_BCTHW[:, :, ::4], x_BCTHW])
                return features

        model = Pathways()
    (example,) = [e for e in KIND.examples() if f":{name}," in e.choice]
    width, gflop = counted_gflop(model, settled)
    assert width == example.width and gflop == pytest.approx(example.gflop, abs=0.01)


@pytest.mark.slow
@every_network
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
@pytest.mark.parametrize("name", OTHERS)
def test_every_network_is_run_as_plainly(name: str, runtime: str, tmp_path: Path) -> None:
    state = trained(model_of(f"a=pytorchvideo:{name},weights=random"))
    path = saved(state, tmp_path / "w.pyth", "model_state")
    backbone = loaded(f"a=pytorchvideo:{name},weights={path}", runtime=runtime, batch_sizes=(("a", 1),))
    assert backbone.dim == ZOO[name].width
    assert error_against_plain(backbone) <= 1e-3
