"""AdamW by torch's fused kernel, called directly.

`torch.optim` imports torch's compiler at its first use, 2.7 s of a command that otherwise takes 3 s to its first step. The
kernel is private to torch: where a version lacks it, `torch.optim` steps in its place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BETA1, BETA2 = 0.9, 0.999
EPS = 1e-8
"""The defaults of `torch.optim.AdamW`."""


class AdamW:
    """What `torch.optim.AdamW(groups, fused=True)` computes (Loshchilov and Hutter 2019).

    groups: dicts of `params` (float tensors), `lr` and `weight_decay`, and `divisor`, a scalar tensor that gradients are divided
    by, or None; all read at every step. A parameter without a gradient is left alone.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.param_groups = groups
        self._state: dict[Tensor, tuple[Tensor, Tensor, Tensor]] = {}
        self._by_optim: dict[int, Any] = {}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step for every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            if not hasattr(torch, "_fused_adamw_"):
                self._step_by_optim(group, parameters)
                continue
            means, squares, steps = zip(*(self._state_of(p) for p in parameters), strict=True)
            torch._foreach_add_(list(steps), 1)
            torch._fused_adamw_(
                parameters,
                [p.grad for p in parameters],
                list(means),
                list(squares),
                [],
                list(steps),
                lr=group["lr"],
                beta1=BETA1,
                beta2=BETA2,
                weight_decay=group["weight_decay"],
                eps=EPS,
                amsgrad=False,
                maximize=False,
                grad_scale=group.get("divisor"),
            )

    def _state_of(self, parameter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of gradients, mean of their squares, and the number of steps, which the kernel reads as float32."""
        if parameter not in self._state:
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            self._state[parameter] = (torch.zeros_like(parameter), torch.zeros_like(parameter), step)
        return self._state[parameter]

    def _step_by_optim(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """The same step by `torch.optim`, one optimiser a group, which keeps its own state."""
        divisor = group.get("divisor")
        if divisor is not None:
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad.div_(divisor)
        optimiser = self._by_optim.get(id(group))
        if optimiser is None:
            optimiser = self._by_optim[id(group)] = torch.optim.AdamW(
                group["params"], betas=(BETA1, BETA2), eps=EPS, foreach=True
            )
        for own in optimiser.param_groups:
            own["lr"], own["weight_decay"] = group["lr"], group["weight_decay"]
        optimiser.step()
