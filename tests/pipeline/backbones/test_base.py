"""What every backbone relies on: seeds that touch nobody else's numbers, float32 that is float32, versions by any name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
import torch

from cache.errors import DeviceError
from pipeline.backbones import base
from pipeline.backbones.base import (
    device_libraries,
    device_trouble,
    exact_float32,
    library_versions,
    memory_full,
    seeded,
)


def test_seeded_numbers_are_torchs_and_leave_the_callers_generator_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("a GPU's generator was seeded"))
    torch.default_generator.manual_seed(11)
    expected = torch.randn(3)
    torch.default_generator.manual_seed(11)
    with seeded(5):
        inside = torch.randn(3)
    assert torch.equal(torch.randn(3), expected)
    assert torch.equal(inside, torch.randn(3, generator=torch.Generator().manual_seed(5)))


def test_float32_is_exact_only_inside() -> None:
    before = torch.backends.cudnn.allow_tf32
    with pytest.raises(KeyError), exact_float32():
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
        raise KeyError
    assert torch.backends.cudnn.allow_tf32 == before


def tf32() -> dict[str, Any]:
    """What torch says, by either of its sets of names, of float32 that need not be."""

    def said(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except RuntimeError:
            return "a contradiction"

    newer = {f"{one}": one.fp32_precision for one in base._float32_of_operations()}
    return newer | {
        "convolutions": said(lambda: torch.backends.cudnn.allow_tf32),
        "products": said(lambda: torch.backends.cuda.matmul.allow_tf32),
        "all products": said(torch.get_float32_matmul_precision),
    }


@pytest.fixture
def as_they_were() -> Iterator[None]:
    newer = [(one, one.fp32_precision) for one in base._float32_of_operations()]
    yield
    if newer:
        torch.backends.fp32_precision = "none"  # type: ignore[assignment]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for one, before in newer:
        one.fp32_precision = before


OLDER: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "products": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "exact": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
}
NEWER: dict[str, Callable[[], Any]] = {
    "all tf32": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "all ieee": lambda: setattr(torch.backends, "fp32_precision", "ieee"),
    "cudnn ieee": lambda: setattr(torch.backends.cudnn, "fp32_precision", "ieee"),
    "convolutions ieee": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    "products tf32": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
}


@pytest.mark.parametrize("caller", [*OLDER, *NEWER])
def test_whatever_the_caller_set_is_exact_inside_and_given_back(caller: str, as_they_were: None) -> None:
    """torch raises where what was said by its older names contradicts the newer ones."""
    if caller in NEWER and not base._float32_of_operations():
        pytest.skip("torch before 2.9 has the older names alone")
    (OLDER | NEWER)[caller]()
    before = tf32()
    with exact_float32():
        inside = tf32()
        assert torch.equal(torch.ones(2, 2) @ torch.ones(2, 2), torch.full((2, 2), 2.0))
    assert not {True, "tf32", "bf16", "none", "a contradiction", "high"} & set(inside.values())
    assert tf32() == before


def test_a_package_counts_by_any_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "opencv-python-headless":
            return "4.9"
        raise PackageNotFoundError

    monkeypatch.setattr(base, "version", version)
    assert library_versions("opencv-python", "other") == {"opencv-python": "4.9", "other": "unknown"}


def test_a_full_device_says_what_to_type() -> None:
    assert "--batch slowfast=1," in str(memory_full("slowfast", 1))
    assert "--batch clip=64," in str(memory_full("clip", 128)) and memory_full("clip", 1).exit_code == 4
    assert "no memory for clip: use --batch clip=N, smaller than its own, or end" in str(memory_full("clip"))


@pytest.mark.parametrize(
    ("said", "way_out"),
    [
        ("CUDA error: an illegal memory access was encountered", "dmesg"),
        ("CUDA error: out of memory", "end what else runs there"),
        ("CUDA error: no kernel image is available for execution on the device", "was not built for it"),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "dmesg"),
    ],
)
def test_a_device_that_fails_is_a_sentence(said: str, way_out: str) -> None:
    """torch's own type for it is a RuntimeError too."""
    kind = getattr(torch, "AcceleratorError", RuntimeError)
    with pytest.raises(DeviceError) as failed, device_trouble(torch.device("cuda:1"), "clip"):
        raise kind(f"{said}\nCompile with `TORCH_USE_CUDA_DSA`")
    assert str(failed.value).startswith(f"the device cuda:1 failed ({said}): ") and way_out in str(
        failed.value
    )


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes differ"), NotImplementedError("Could not run 'aten::x' from the 'CUDA' backend")],
)
def test_what_is_no_failure_of_the_device_is_raised_as_it_is(error: RuntimeError) -> None:
    with pytest.raises(type(error)) as same, device_trouble(torch.device("cuda"), "clip"):
        raise error
    assert same.value is error


def test_libraries_of_the_processor_are_torch_alone() -> None:
    assert device_libraries(torch.device("cpu")) == {"torch": torch.__version__}


def test_libraries_of_a_gpu_are_cudas_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    found = device_libraries(torch.device("cuda"))
    assert found == {"torch": torch.__version__, "cuda": "13.0", "cudnn": "91900"}
