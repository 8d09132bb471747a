"""What a forward pass on a device asks of the host, seen without a device: tensors on `meta` stand for those on it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

VALUES = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal.default")
"""Operations whose answer the host waits for."""


class HostWatch(TorchDispatchMode):
    """Notes every operation that would copy from or to the host, or wait for a value. Nothing of the kind can be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        given, made = (_tensors((args, kwargs)), _tensors(out))
        on_device = any(tensor.is_meta for tensor in (*given, *made))
        # a number of the host is an argument of a kernel; more than one has to be copied
        of_host = any(not tensor.is_meta and tensor.dim() > 0 for tensor in (*given, *made))
        if on_device and (of_host or any(word in str(function) for word in VALUES)):
            self.asked.append(str(function))
        return out


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
