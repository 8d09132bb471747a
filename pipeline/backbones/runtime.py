"""What multiplies: torch, what torch's compiler makes for CUDA (`compiled.py`), or OpenVINO on a CPU, which fuses convolution,
addition and activation into one pass over memory.

OpenVINO runs several forward passes side by side, each on its share of the cores. One pass on all cores waits in every layer for
the slowest core, and decode workers make some core slow all the time.

Converting a model for OpenVINO takes seconds, so the result is kept in the user's cache folder, under a name that changes with
the weights, the shapes and the library versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import InputError
from pipeline.backbones.base import Pending, Precision, library_versions
from pipeline.backbones.choice import RUNTIMES

Runtime = Literal["torch", "openvino", "compile"]
HINTS: Mapping[Precision, str] = {"fp32": "f32", "bf16": "bf16"}


def cache_folder() -> Path:
    """Where converted models are kept: $XDG_CACHE_HOME/onepass, else ~/.cache/onepass."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onepass"


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

        versions = library_versions("openvino", "torch")
        identity = json.dumps([key, list(example.shape), str(example.dtype), versions], sort_keys=True)
        name = hashlib.sha256(identity.encode()).hexdigest()[:24]
        path = cache_folder() / "openvino" / f"{name}.xml"
        core = openvino.Core()
        model: Any = None
        if path.exists():
            with contextlib.suppress(RuntimeError):  # a damaged file is made again
                model = core.read_model(path)
        if model is None:
            model = _convert(make_module(), example)
            with contextlib.suppress(OSError):  # no room or no right to keep it: convert again next time
                _keep(model, path)
        compiled = core.compile_model(
            model,
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


def _convert(module: torch.nn.Module, example: torch.Tensor) -> Any:
    import openvino

    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator cannot be traced
    try:
        with torch.no_grad(), _telemetry_declined():
            model = openvino.convert_model(module.eval(), example_input=example, input=[list(example.shape)])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
    return model


@contextlib.contextmanager
def _telemetry_declined() -> Iterator[None]:
    """OpenVINO's converter tells its makers of every model, through a dozen forks; a moderator's machine tells nobody."""
    try:
        import openvino_telemetry
        from openvino.tools.ovc.telemetry_stub import Telemetry
    except ImportError:  # its own stub is used then
        yield
        return
    own = openvino_telemetry.Telemetry
    openvino_telemetry.Telemetry = Telemetry
    try:
        yield
    finally:
        openvino_telemetry.Telemetry = own


def _keep(model: Any, path: Path) -> None:
    """Write both files under temporary names; the .xml, whose presence counts, is renamed last."""
    import openvino

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / "model.xml"
        openvino.save_model(model, part, compress_to_fp16=False)
        part.with_suffix(".bin").replace(path.with_suffix(".bin"))
        part.replace(path)
