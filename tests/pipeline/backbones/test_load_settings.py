"""Settings of streams and models: what is out of range or cannot be followed is named as it was given."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from cache.errors import InputError, WeightsError
from pipeline.backbones.base import resolve_device, resolve_precision
from pipeline.backbones.kind import settle
from pipeline.backbones.kinds.open_clip import load_tower
from pipeline.backbones.kinds.pytorchvideo import load_model
from pipeline.backbones.load import (
    BackboneConfig,
    config_from_fingerprints,
    load_backbones,
    parse_batch_sizes,
)
from pipeline.backbones.runtime import resolve_runtime
from tests.pipeline.backbones.conftest import clip_choice, slowfast_choice
from tests.pipeline.fake_cuda import fake_cuda

CPU = torch.device("cpu")


def test_unknown_names_are_answered_with_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"--clip-model ViT-B32.*did you mean .*ViT-B-32"):
        load_tower(settle(clip_choice(model="ViT-B32")))
    with pytest.raises(WeightsError, match=r"--clip-weights opnai: ViT-B-32 has no such weights.*openai"):
        load_tower(settle(clip_choice(weights="opnai")))
    with pytest.raises(WeightsError, match="--slowfast-weights k400: choose kinetics400"):
        load_model(settle(slowfast_choice(weights="k400")))


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"streams": ()}, "--streams"),
        ({"streams": ("clip", "clip")}, "--streams"),
        ({"streams": ("sound",)}, "--streams sound"),
        ({"clip_fps": 0.0}, "--clip-fps"),
        ({"clip_fps": float("nan")}, "--clip-fps"),
        ({"clip_fps": float("inf")}, "--clip-fps"),
        ({"slowfast_stride": 0}, "--slowfast-stride"),
        ({"slowfast_stride": 33}, "--slowfast-stride"),
        ({"gpu_engine": "fast"}, "--gpu-engine"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**64}, "--seed"),
    ],
)
def test_settings_out_of_range_name_their_flag(changes: dict[str, Any], flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        BackboneConfig.of(**changes).settled()


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "meta", "mps", "cpu:", "", "cuda:77"])
def test_devices_that_are_not_here(device: str) -> None:
    with pytest.raises(InputError, match="--device"):
        resolve_device(device)


def test_precisions() -> None:
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("auto", CPU) in ("fp32", "bf16")
    with pytest.raises(InputError, match="--precision fp16 needs a GPU"):
        resolve_precision("fp16", CPU)
    with pytest.raises(InputError, match="--precision fp8: choose auto, fp32, bf16, fp16"):
        resolve_precision("fp8", CPU)


def test_what_a_gpu_multiplies_is_asked_of_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch asks the current one, and calls bf16 supported where it emulates it."""
    native = {"cuda:0": True, "cuda:1": False}

    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or native[device.on]

    with fake_cuda(monkeypatch) as device:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
        assert [resolve_precision("auto", torch.device(name)) for name in native] == ["bf16", "fp16"]


def test_runtimes() -> None:
    assert resolve_runtime("torch", CPU) == "torch"
    assert resolve_runtime("auto", torch.device("cuda")) == "torch"
    with pytest.raises(InputError, match="--runtime openvino"):
        resolve_runtime("openvino", torch.device("cuda"))
    with pytest.raises(InputError, match="--runtime tflite: choose auto, torch, openvino"):
        resolve_runtime("tflite", CPU)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "--precision fp16 needs a GPU"),
        ({"precision": "fp32", "own": "precision=fp16"}, "--stream a: precision=fp16 needs a GPU"),
        ({"precision": "fp32", "runtime": "tflite"}, "--runtime tflite: choose"),
        ({"precision": "fp32", "own": "runtime=openvino"}, "--stream a: runtime=openvino: not installed"),
    ],
)
def test_a_setting_is_named_as_it_was_given(
    asked: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.backbones import runtime

    monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    text = ",".join(filter(None, ("a=pytorchvideo:x3d_xs,weights=random", asked.pop("own", ""))))
    with pytest.raises(InputError, match=says):
        load_backbones(BackboneConfig.of((text,), **({"device": "cpu", "precision": "fp16"} | asked)))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"imported": "sha256:1"},
        {"stream": "clip", "model": "elsewhere", "weights": "theirs"},
        {
            "stream": "clip",
            "model": "elsewhere",
            "weights": {"tag": "random", "seed": 0},
            "precision": "fp32",
        },
        {"stream": "other", "model": "m", "weights": {"tag": "t"}, "precision": "fp32", "runtime": "torch"},
    ],
)
def test_features_made_elsewhere_are_refused_in_one_line(fields: dict[str, Any]) -> None:
    model = fields.get("model", "an unknown model")
    with pytest.raises(
        InputError, match=f"stream clip was made by {model}, .*a cache that holds it can be scored"
    ):
        config_from_fingerprints({"clip": fields})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["slowfast"], "--batch slowfast: write STREAM=N"),
        (["slowfast=x"], "--batch slowfast=x: write STREAM=N"),
        (["clip=1", "clip=2"], "--batch clip=2: write STREAM=N, such as slowfast=4, each stream once"),
        (["sound=4"], "--batch sound=4: no such stream; choose from clip, slowfast"),
        (["clip=0"], "--batch clip=0: between 1 and 4096"),
    ],
)
def test_batches_as_typed(given: list[str], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        BackboneConfig.of(batch_sizes=parse_batch_sizes(given))
