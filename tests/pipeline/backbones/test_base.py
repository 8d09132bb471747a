"""What every backbone relies on: seeds that touch nobody else's numbers, float32 that is float32, versions by any name."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
import torch

from pipeline.backbones import base
from pipeline.backbones.base import device_libraries, exact_float32, library_versions, memory_full, seeded


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


def test_libraries_of_the_processor_are_torch_alone() -> None:
    assert device_libraries(torch.device("cpu")) == {"torch": torch.__version__}
