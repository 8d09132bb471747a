"""Where heads are trained: the CPU, on one thread or all, or a CUDA device where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from cache.errors import InputError

Device = Literal["auto", "cpu", "cuda"]

LEAST_FOR_THREADS = 1e9
"""Multiplications a step below which one thread trains. A step of so few has many small operations, at whose ends threads
wait for each other: on two busy cores `--model auto` on 187 clips took 471 s of processor time with two threads and 79 s
with one.
"""


def resolve_device(device: Device) -> torch.device:
    """auto is CUDA where there is one. Raises InputError for cuda without a device, and for another word."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"the device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device; use --device cpu")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


@contextmanager
def threads_for(multiplications: float, device: torch.device) -> Iterator[None]:
    """One torch thread inside where a training step multiplies so little; what there was before, afterwards."""
    before = torch.get_num_threads()
    if device.type == "cpu" and multiplications < LEAST_FOR_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
