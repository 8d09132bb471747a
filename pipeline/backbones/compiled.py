"""`--gpu-engine compile`: a forward pass of kernels that torch's compiler makes, one for many steps, for batches of one shape.

It rounds elsewhere than the steps one by one, so a fingerprint says `runtime: compile`; and nothing but its features tells
whether it is right. So a batch of noise is run through both before a video is: within the parity bound, the same bits when it
is run again, and in another place of the batch where the steps one by one give the same bits there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cache.errors import DeviceError
from pipeline.backbones.base import MAX_RELATIVE_ERROR, MIN_COSINE, Precision, memory_full

BACKEND = "inductor"
MOST_PASSES = 256
"""Passes of one process that are compiled (streams times devices); torch stops at 8."""
LONGEST_REASON = 200
"""Letters of what torch says: some of its errors are pages."""

Forward = Callable[[torch.Tensor], torch.Tensor]


def compiled(forward: Forward, blank: torch.Tensor, *, name: str, precision: Precision) -> Forward:
    """The pass, compiled for the shape of `blank` and compared with `forward`. Raises DeviceError, with the way out.

    Default mode: its kernels are chosen by rules. Where torch can be told so, none is chosen by how fast it was just now, for
    two processes must make the same bits.
    """
    import torch._dynamo
    import torch._inductor.config as inductor

    if torch._dynamo.config.disable:
        raise _no_way(name, "TORCH_COMPILE_DISABLE or TORCHDYNAMO_DISABLE is set")
    by_rules = BACKEND == "inductor" and hasattr(inductor, "deterministic")
    options: dict[str, Any] | None = {"deterministic": True} if by_rules else None
    fast: Forward = torch.compile(forward, fullgraph=True, dynamic=False, backend=BACKEND, options=options)
    frames = _noise(blank)
    with torch._dynamo.config.patch(cache_size_limit=MOST_PASSES), _in_a_sentence(name, len(blank)):
        found, again, turned = fast(frames), fast(frames), _turned(fast, frames)
    expected = forward(frames)
    keeps_bits = torch.equal(found, turned) or not torch.equal(expected, _turned(forward, frames))
    if not torch.equal(found, again) or not keeps_bits:
        raise _no_way(name, "features are not the same bits when a batch is run again or in another order")
    if said := _apart(found, expected, precision):
        raise _no_way(name, said)
    return fast


def _turned(forward: Forward, frames: torch.Tensor) -> torch.Tensor:
    """The same features, made in other places of the batch."""
    return forward(frames.roll(1, 0)).roll(-1, 0)


def _noise(blank: torch.Tensor) -> torch.Tensor:
    """A batch of that shape and kind: all grey levels, or noise of unit variance; drawn on the processor."""
    drawn: dict[str, Any] = {"generator": torch.Generator().manual_seed(0), "device": "cpu"}
    if blank.is_floating_point():
        return torch.randn(blank.shape, **drawn).to(blank)
    high = 256 if blank.dtype == torch.uint8 else 255 * 128
    return torch.randint(0, high, blank.shape, dtype=blank.dtype, **drawn).to(blank.device)


def _apart(found: torch.Tensor, expected: torch.Tensor, precision: Precision) -> str:
    """What tells two passes' features [B, D] apart beyond the parity bound, or nothing."""
    if precision == "fp32":
        error = float(((found - expected).abs().amax(1) / expected.abs().amax(1)).max())
        ok, said = (
            error <= MAX_RELATIVE_ERROR,
            f"a relative error of {error:.2g}, at most {MAX_RELATIVE_ERROR:g}",
        )
    else:
        cosine = float(torch.nn.functional.cosine_similarity(found, expected).min())
        ok, said = cosine >= MIN_COSINE, f"a cosine of {cosine:.4f}, at least {MIN_COSINE:g}"
    return "" if ok else f"features differ from those of the steps one by one ({said})"  # NaN differs


@contextmanager
def _in_a_sentence(name: str, batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise memory_full(name, batch_size) from error
    except (
        Exception
    ) as error:  # a compiler, what it calls, and what those call: any of them may be missing or wrong
        inner = getattr(error, "inner_exception", error)
        said = next((line.strip() for line in str(inner).splitlines() if line.strip()), "")
        raise _no_way(name, f"{type(inner).__name__}: {said[:LONGEST_REASON]}") from error


def _no_way(name: str, why: str) -> DeviceError:
    return DeviceError(
        f"--gpu-engine compile: {name} cannot be compiled with torch {torch.__version__} here ({why}): use --gpu-engine graph"
    )
