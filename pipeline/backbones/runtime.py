"""What multiplies: torch, what torch's compiler makes for CUDA (`compiled.py`), or OpenVINO on a CPU, which fuses convolution,
addition and activation into one pass over memory.

OpenVINO runs several forward passes side by side, each on its share of the cores. One pass on all cores waits in every layer for
the slowest core, and decode workers make some core slow all the time.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import InputError
from pipeline.backbones.base import Pending, Precision
from pipeline.backbones.choice import RUNTIMES
from pipeline.backbones.converted import converted

Runtime = Literal["torch", "openvino", "compile"]
HINTS: Mapping[Precision, str] = {"fp32": "f32", "bf16": "bf16"}


def resolve_runtime(runtime: str, device: torch.device, *, said: str = "") -> Runtime:
    """`auto`: OpenVINO on a CPU where it is installed (the extra `openvino`), else torch.

    said: how it was given, where not as `--runtime`. Raises InputError with it.
    """
    said = said or f"--runtime {runtime}"
    installed = find_spec("openvino") is not None
    if runtime == "auto":
        return "openvino" if device.type == "cpu" and installed else "torch"
    if runtime == "openvino" and not installed:
        raise InputError(f"{said}: not installed; pip install 'onepass[openvino]', or use torch")
    if runtime == "openvino" and device.type != "cpu":
        raise InputError(f"{said} runs on the CPU; use torch with --device cuda")
    if runtime == "openvino":
        return "openvino"
    if runtime == "compile" and device.type != "cuda":
        raise InputError(
            f"{said} needs a CUDA device, and the models run on the {device.type} here: give --device cuda, or make features "
            "with torch (the two are never mixed)"
        )
    if runtime == "compile":
        return "compile"
    if runtime == "torch":
        return "torch"
    raise InputError(f"{said}: choose {', '.join(RUNTIMES)}")


def runtime_libraries(runtime: Runtime) -> tuple[str, ...]:
    """Distributions whose versions belong to a fingerprint of this runtime."""
    return {"torch": ("torch",), "openvino": ("torch", "openvino"), "compile": ("torch", "triton")}[runtime]


class Forward(torch.nn.Module):
    """A function of tensors as a module, for tracing."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """Features of prepared frames."""
        return self._function(frames_BTHWC)


class OpenVinoModel:
    """A module compiled for the CPU at one input shape, `n_streams` passes at a time. A `ForwardQueue`.

    Callable too: array of that shape and dtype to float32 features, on the first stream.
    """

    def __init__(
        self,
        make_module: Callable[[], torch.nn.Module],
        example: torch.Tensor,
        *,
        precision: Precision,
        key: str,
        n_streams: int = 1,
    ) -> None:
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(
            converted(core, make_module, example, key),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": HINTS[precision],
                "NUM_STREAMS": n_streams,
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            },
        )
        self.n_streams = n_streams
        self._passes = [_Pass(compiled.create_infer_request()) for _ in range(n_streams)]
        # a pass that ends after Python has ended aborts the process
        weakref.finalize(self, wait_for, tuple(self._passes))

    def __call__(self, frames: NDArray[Any]) -> torch.Tensor:
        """Features as float32 [B, D]."""
        return torch.from_numpy(self.start(frames).features())

    def start(self, frames: NDArray[Any]) -> Pending:
        """Start a batch on a free stream; `frames` stays untouched until it is done."""
        free = next(one for one in self._passes if not one.busy)
        free.start(frames)
        return free


class _Pass:
    """One stream's forward pass; used again once its features were fetched."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._frames: NDArray[Any] | None = None
        self._ended_seconds = 0.0
        request.set_callback(self._end, None)

    @property
    def busy(self) -> bool:
        return self._frames is not None

    def start(self, frames: NDArray[Any]) -> None:
        self._frames = frames  # the compiled model reads it in place
        self._ended_seconds = 0.0
        self._request.start_async([frames], share_inputs=True)

    def _end(self, _: object) -> None:
        self._ended_seconds = time.perf_counter()

    @property
    def ended_seconds(self) -> float:
        return self._ended_seconds or time.perf_counter()

    def poll(self, timeout_seconds: float = 0.0) -> bool:
        return bool(self._request.wait_for(int(timeout_seconds * 1000)))

    def features(self) -> NDArray[np.float32]:
        self._request.wait()
        found = np.array(self._request.get_output_tensor(0).data, dtype=np.float32)
        self._frames = None
        return found


def wait_for(passes: Sequence[_Pass]) -> None:
    """Until no pass is under way; what they gave is dropped."""
    for one in passes:
        if one.busy:
            one.features()
