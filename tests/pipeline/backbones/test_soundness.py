"""Convolutions that are wrong beyond what rounding explains are found before a feature is made."""

from __future__ import annotations

import pytest
import torch

from cache.errors import DeviceError
from pipeline.backbones import soundness
from pipeline.backbones.base import Precision
from pipeline.backbones.soundness import MOST_ERROR, require_sound

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of 8 pixels: a processor is slow at convolutions in bf16."""
    monkeypatch.setattr(soundness, "SIDE", 8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_sound_device_passes(precision: Precision) -> None:
    require_sound.cache_clear()
    require_sound(CPU, precision)
    errors = soundness._errors(CPU, precision)
    assert len(errors) == 2 and all(error < MOST_ERROR[precision] for error in errors.values())


def test_float32_is_compared_as_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """With TF32, which forward passes leave out, a right device would be called wrong."""
    real, seen = torch.nn.functional.conv3d, []

    def watched(*given: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return real(*given)

    monkeypatch.setattr(torch.nn.functional, "conv3d", watched)
    soundness._errors(CPU, "fp32")
    assert seen == [False, False]


@pytest.mark.parametrize("factor", [1.05, float("nan")])
def test_a_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    real = torch.nn.functional.conv3d

    def wrong(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return real(x, *rest) * (factor if x.dtype == torch.bfloat16 else 1)

    monkeypatch.setattr(torch.nn.functional, "conv3d", wrong)
    require_sound.cache_clear()
    with pytest.raises(DeviceError, match="computes convolutions wrongly in bf16 .3x3x3: relative error"):
        require_sound(CPU, "bf16")
    require_sound.cache_clear()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("GET was unable to find an engine to execute this computation"),
            "has no convolution in bf16 .GET was",
        ),
        (
            RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore"),
            "was not built for it",
        ),
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB."),
            "end what else runs there",
        ),
    ],
)
def test_a_device_that_computes_none_is_named(
    error: RuntimeError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first work that it is given: an old device, or one that others have filled."""

    def fails(*_: object) -> dict[str, float]:
        raise error

    monkeypatch.setattr(soundness, "_errors", fails)
    require_sound.cache_clear()
    with pytest.raises(DeviceError, match=said):
        require_sound(CPU, "bf16")
