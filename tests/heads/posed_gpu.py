"""A GPU that is none, for training: tensors that say that they lie on "cuda", compute on the processor, and meet no others.

What CUDA refuses is refused: an operation on tensors of both devices (a scalar of the processor may join in, as there), and
`.numpy()`. Results are the processor's, so that a training "on CUDA" can be compared with one on the processor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU, POSED = torch.device("cuda:0"), torch.device("cpu"), torch.device("meta")
"""Below Python a posed tensor's device is "meta": of CUDA's, torch asks a driver."""
MAY_MIX = frozenset({"_to_copy", "copy_"})


class MixedDevices(AssertionError):
    """Tensors of two devices in one operation."""


class PosedTensor(torch.Tensor):
    """plain: the same on the processor."""

    plain: torch.Tensor
    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, plain: torch.Tensor) -> PosedTensor:
        posed: PosedTensor = torch.Tensor._make_wrapper_subclass(
            cls, plain.shape, strides=plain.stride(), dtype=plain.dtype, device=POSED
        )
        posed.plain = plain.detach()
        return posed

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Posed({self.plain!r})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(function, args, kwargs or {})


def _computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the processor; posed, where it was asked of a posed tensor or for the device."""
    name = function.__name__.partition(".")[0]
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    posed = [one for one in given if isinstance(one, PosedTensor)]
    aside = [one for one in given if not isinstance(one, PosedTensor) and one.dim() > 0]
    if posed and aside and name not in MAY_MIX:
        raise MixedDevices(f"{function}: {[tuple(one.shape) for one in aside]} on the processor")
    on_device = bool(posed)
    if name == "copy_":
        on_device = isinstance(args[0], PosedTensor)
    if (target := kwargs.get("device")) is not None:
        on_device = torch.device(target).type == POSED.type
        kwargs = {**kwargs, "device": CPU}
    bare_args, bare_kwargs = tree_map(
        lambda leaf: leaf.plain if isinstance(leaf, PosedTensor) else leaf, (args, kwargs)
    )
    made = function(*bare_args, **bare_kwargs)
    if not on_device:
        return made
    same = {id(one.plain): one for one in posed}  # an operation in place gives back what it was given

    def pose(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return same[id(leaf)] if id(leaf) in same else PosedTensor(leaf)

    return tree_map(pose, made)


class _Factories(TorchDispatchMode):
    """What is made for the device is posed."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        target = kwargs.get("device")
        posed = any(isinstance(leaf, PosedTensor) for leaf in tree_leaves((args, kwargs)))
        if posed or (target is not None and torch.device(target).type == POSED.type):
            return _computed(function, args, kwargs)
        return function(*args, **kwargs)


class _Named(TorchFunctionMode):
    """The device's name, in whatever calls it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.device:
            args, kwargs = tree_map(_below_python, (tuple(args), kwargs or {}))
        return function(*args, **(kwargs or {}))


def _below_python(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return POSED
    return POSED if isinstance(value, str) and value.partition(":")[0] == "cuda" else value


@contextlib.contextmanager
def posed_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch sees one device."""
    states = {"cuda": torch.Generator().manual_seed(0).get_state()}

    def seed(value: int) -> None:
        states["cuda"] = torch.Generator().manual_seed(value).get_state()

    for name, stand_in in {
        "is_available": lambda: True,
        "device": lambda _: contextlib.nullcontext(),
        "manual_seed": seed,
        "get_rng_state": lambda *_: states["cuda"].clone(),
        "set_rng_state": lambda state, *_: states.__setitem__("cuda", state.clone()),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Named(), _Factories():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
