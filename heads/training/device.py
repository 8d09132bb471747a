"""Where heads are trained: the CPU, or a CUDA device where that is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from cache.errors import DeviceError, InputError
from cache.process.device_errors import device_failure

Device = Literal["auto", "cpu", "cuda"]
GPU_LEFT_ALONE = "trained on the CPU, where a command gives the same head again to the bit; --device cuda trains on the GPU"


def resolve_device(device: Device) -> torch.device:
    """auto is the CPU: on CUDA two runs of one command need not give the same bits.

    Raises InputError for cuda without a device, and for another word.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"the device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device; use --device cpu")
    return torch.device("cuda" if device == "cuda" else "cpu")


def device_note(device: Device) -> str | None:
    """What a user with a GPU is told who did not say where to train."""
    return GPU_LEFT_ALONE if device == "auto" and torch.cuda.is_available() else None


@contextlib.contextmanager
def device_trouble(device: torch.device | None) -> Iterator[None]:
    """Raises DeviceError where the device's memory is full and where it failed."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceError(
            f"the memory of {device} is full: give a smaller --batch-size, end what else runs there (nvidia-smi names it), "
            "or use --device cpu"
        ) from error
    except RuntimeError as error:
        failure = device_failure(device, error)
        if failure is None:
            raise
        raise failure from error
