"""FLOPs of a forward pass (2 a multiply-add), counted on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def gflop(forward: Callable[..., Any], *inputs: torch.Tensor) -> tuple[tuple[int, ...], float]:
    """Shape of what comes out, and billions of operations."""
    with FlopCounterMode(display=False) as counter:
        shape = tuple(forward(*inputs).shape)
    return shape, counter.get_total_flops() / 1e9
