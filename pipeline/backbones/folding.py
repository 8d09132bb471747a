"""BatchNorm folded into the convolution before it, whatever the network calls them: the same function up to rounding."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_Model = TypeVar("_Model", bound=nn.Module)


def fold_batchnorm(model: _Model, example: Any) -> _Model:
    """Fold every BatchNorm3d that reads what a Conv3d gave into that convolution, in place; others stay.

    example: what the network takes, on the meta device, where a pass that computes nothing finds out who reads what. The network
    is in eval mode, and no convolution has a second reader.
    """
    if not any(isinstance(module, nn.BatchNorm3d) for module in model.modules()):
        return model
    for conv_name, norm_name in _pairs(model, example):
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d)
        _replace(model, conv_name, fuse_conv_bn_eval(conv, norm))
        _replace(model, norm_name, nn.Identity())
    return model


def _pairs(model: nn.Module, example: Any) -> list[tuple[str, str]]:
    """Names of a convolution and of the BatchNorm that reads it."""
    shadow = copy.deepcopy(model).to("meta")
    made: list[tuple[torch.Tensor, str]] = []
    found: list[tuple[str, str]] = []

    def watch(name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Conv3d):

            def remember(_: nn.Module, __: Any, output: torch.Tensor) -> None:
                made.append((output, name))

            module.register_forward_hook(remember)
        elif isinstance(module, nn.BatchNorm3d):

            def match(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
                found.extend((conv, name) for output, conv in made if output is inputs[0])

            module.register_forward_pre_hook(match)

    for name, module in shadow.named_modules():
        watch(name, module)
    with torch.no_grad():
        shadow(example)
    return found


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
