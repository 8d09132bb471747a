"""Whether a CUDA device computes convolutions rightly: asked once a process, before any feature is made.

Versions of cuDNN were published whose bf16 convolutions of some shapes are wrong (9.10.2: pytorch/pytorch#163539), and nothing
else would notice: features of such a device are plausible and wrong. So convolutions of the kinds that the backbones use are
compared with float32 on the processor.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from cache.errors import DeviceError
from pipeline.backbones.base import DTYPES, Precision, device_name, exact_float32, raise_failure
from pipeline.backbones.slowfast_planes import Conv

MOST_ERROR = {"fp32": 1e-4, "fp16": 2e-3, "bf16": 2e-2}
"""Relative error (of norms) that rounding explains; on an H200 it was 3e-3 in bf16."""
CHANNELS, FRAMES, SIDE = 64, 4, 32


@functools.cache
def require_sound(device: torch.device, precision: Precision) -> None:
    """Raises DeviceError where a convolution on the device is off by more than its precision explains, or cannot be run."""
    try:
        errors = _errors(device, precision)
    except RuntimeError as error:  # the first work that the device is given
        raise_failure(device, error)
        other = "--device cpu" if precision == "fp32" else "--precision fp32"
        raise DeviceError(
            f"the device {device} has no convolution in {precision} ({str(error).partition(chr(10))[0]}), with torch "
            f"{torch.__version__}: install another version of torch, or use {other}"
        ) from error
    for what, off in errors.items():
        if off <= MOST_ERROR[precision]:
            continue  # NaN is no small error
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        raise DeviceError(
            f"{device_name(device)} computes convolutions wrongly in {precision} ({what}: relative error {off:.2g}, at most "
            f"{MOST_ERROR[precision]:g}), with torch {torch.__version__} and cuDNN {cudnn}: install another version of torch, or "
            "use --precision fp32"
        )


@torch.inference_mode()
def _errors(device: torch.device, precision: Precision) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    dtype = DTYPES[precision]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)  # the same rounded numbers on both sides

    x, aside = (random(1, FRAMES, SIDE, SIDE, CHANNELS) for _ in range(2))
    weight, bias = random(CHANNELS, CHANNELS, 3, 3) / 24, random(CHANNELS)
    cube = random(CHANNELS, CHANNELS, 3, 3, 3) / 42

    def fused(to: torch.device, kind: torch.dtype) -> torch.Tensor:
        planes = weight.to(to, kind).contiguous(memory_format=torch.channels_last)
        return Conv(planes, bias.to(to, kind), (1, 1), (1, 1), "space")(
            x.to(to, kind), plus=aside.to(to, kind)
        )

    def volume(to: torch.device, kind: torch.dtype) -> torch.Tensor:
        kernel = cube.to(to, kind).contiguous(memory_format=torch.channels_last_3d)
        return F.conv3d(x.to(to, kind).permute(0, 4, 1, 2, 3), kernel, bias.to(to, kind), 1, 1)

    found = {}
    with exact_float32():
        for name, run in (("3x3 with shortcut and ReLU", fused), ("3x3x3", volume)):
            expected = run(torch.device("cpu"), torch.float32)
            got = run(device, dtype).float().cpu()
            found[name] = float((got - expected).norm() / expected.norm())
    return found
