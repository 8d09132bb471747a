"""Where heads are trained: the CPU, or a CUDA device where there is one."""

from __future__ import annotations

from typing import Literal

import torch

from cache.errors import InputError

Device = Literal["auto", "cpu", "cuda"]


def resolve_device(device: Device) -> torch.device:
    """auto is CUDA where there is one. Raises InputError for cuda without a device, and for another word."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"the device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device; use --device cpu")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
