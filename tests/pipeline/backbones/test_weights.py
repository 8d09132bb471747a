"""Weights files in the formats in which models are published, and everything that is no such file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from cache.errors import WeightsError
from pipeline.backbones.choice import looks_like_file
from pipeline.backbones.weights import (
    WeightsRecord,
    load_exactly,
    read_state_dict,
    state_digest,
)

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "n": torch.tensor(3)}


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"model_state": STATE, "cfg": "text", "epoch": 3},
        {"state_dict": STATE},
        {"model": STATE},
        {"state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()}, "optimizer": {}},
        {f"module.{name}": tensor for name, tensor in STATE.items()},
    ],
    ids=["plain", "pytorchvideo", "training checkpoint", "model", "data parallel", "plain data parallel"],
)
@pytest.mark.parametrize("suffix", [".pt", ".pyth", ".bin"])
def test_published_wrappings(content: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(content, path)
    assert same(read_state_dict(path, said="--clip-weights FILE"))


def test_safetensors_and_the_old_format(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.safetensors")
    assert same(read_state_dict(tmp_path / "weights.safetensors", said="--x FILE"))
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_state_dict(tmp_path / "old.pth", said="--x FILE"))


def test_torchscript_is_refused(tmp_path: Path) -> None:
    """openai's own .pt files are such archives; loading one would run the code inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(WeightsError, match=r"--clip-weights .*TorchScript.*safetensors"):
        read_state_dict(tmp_path / "ViT-B-32.pt", said="--clip-weights FILE")


class Evil:
    """Pickles to a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"model_state": STATE, "extra": Evil(tmp_path / "executed")}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="cannot be read as weights") as caught:
        read_state_dict(tmp_path / "evil.pt", said="--x FILE")
    assert "weights_only" not in str(caught.value)  # torch's advice
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.pt", b"", "cannot be read as weights"),
        ("text.pt", b"not weights\n" * 10, "cannot be read as weights"),
        ("text.safetensors", b"not weights\n" * 10, "cannot be read as weights"),
        ("huge.safetensors", b"\xff" * 64, "cannot be read as weights"),
    ],
)
def test_what_is_no_weights_file_is_named(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"--x .*{name}: {words}.*damaged download"):
        read_state_dict(tmp_path / name, said=f"--x {tmp_path / name}")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(2), {}], ids=str)
def test_files_without_named_tensors_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        read_state_dict(tmp_path / "x.pt", said="--x FILE")


def test_a_missing_file_says_what_may_be_given(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"--x .*: no such file; give a path to weights, a published tag, or random"
    ):
        read_state_dict(tmp_path / "nowhere.pt", said="--x FILE")
    with pytest.raises(WeightsError, match="is a folder"):
        read_state_dict(tmp_path, said="--x FILE")  # a folder


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    suffix=st.sampled_from([".pt", ".pth", ".safetensors"]),
    cut=st.booleans(),
)
def test_a_damaged_file_is_an_error_of_ours_or_is_read(
    seed: int, suffix: str, cut: bool, tmp_path: Path
) -> None:
    """Flipped bytes and cuts make torch and zipfile raise a dozen types; the user sees one."""
    path = tmp_path / f"damaged{suffix}"
    if suffix == ".safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=suffix == ".pt")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    if cut:
        del data[int(rng.integers(0, len(data))) :]
    for at in rng.integers(0, max(1, len(data)), 3):
        if data:
            data[at] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read_state_dict(path, said=f"--x {path}")
        except WeightsError as error:
            assert str(path) in str(error)
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())


def test_load_exactly_names_everything_that_does_not_fit() -> None:
    module = nn.Linear(3, 2)
    load_exactly(module, {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, origin="x")
    assert bool((module.weight == 1).all())
    bad = {
        "weight": torch.zeros(2, 4),
        "extra": torch.zeros(1),
        **{f"more{n}": torch.zeros(1) for n in range(5)},
    }
    with pytest.raises(WeightsError) as caught:
        load_exactly(module, bad, origin="--clip-weights FILE")
    text = str(caught.value)
    assert text.startswith("--clip-weights FILE: does not fit the model: ")
    assert "missing: bias" in text
    assert "not in the model: extra, more0, more1 and 3 more" in text
    assert "wrong shape: weight is [2, 4] not [2, 3]" in text
    assert bool((module.weight == 1).all())  # nothing was loaded


def test_a_digest_is_of_names_types_shapes_and_bytes() -> None:
    digest = state_digest(STATE)
    assert digest == state_digest(dict(reversed(STATE.items())))
    assert digest == "sha256:" + digest[7:] and len(digest) == 7 + 64
    others = [
        {**STATE, "n": torch.tensor(4)},
        {**STATE, "n": torch.tensor(3, dtype=torch.int32)},
        {**STATE, "a.weight": STATE["a.weight"].reshape(3, 2)},
        {name.replace("bias", "b"): tensor for name, tensor in STATE.items()},
        {**STATE, "a.bias": torch.ones(2, dtype=torch.bfloat16)},
    ]
    assert len({digest, *(state_digest(other) for other in others)}) == 6
    strided = torch.arange(6.0).reshape(3, 2).t()
    assert state_digest({"x": strided}) == state_digest({"x": strided.contiguous()})


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("openai", False),
        ("laion2b_s34b_b79k", False),
        ("random", False),
        ("w/file", True),
        ("x.pt", True),
        ("SLOWFAST_8x8_R50.pyth", True),
        ("open_clip_model.safetensors", True),
        ("../x.bin", True),
    ],
)
def test_files_and_tags_are_told_apart(weights: str, expected: bool) -> None:
    assert looks_like_file(weights) is expected


def test_the_fingerprint_keeps_no_file_name() -> None:
    assert WeightsRecord("file", "sha256:aa", file="/home/x/w.pt").as_fields() == {
        "tag": "file",
        "digest": "sha256:aa",
    }
    assert WeightsRecord("random", "sha256:bb", seed=3).as_fields()["seed"] == 3
