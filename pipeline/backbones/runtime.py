"""What multiplies: torch, or OpenVINO on a CPU, which fuses convolution, addition and activation into one pass over memory.

Converting a model for OpenVINO takes seconds, so the result is kept in the user's cache folder, under a name that changes with
the weights, the shapes and the library versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cache.errors import InputError
from pipeline.backbones.base import Precision, library_versions

Runtime = Literal["torch", "openvino"]
HINTS: Mapping[Precision, str] = {"fp32": "f32", "bf16": "bf16"}


def resolve_runtime(runtime: str, device: torch.device) -> Runtime:
    """`auto`: OpenVINO on a CPU where it is installed (the extra `openvino`), else torch. Raises InputError."""
    installed = find_spec("openvino") is not None
    if runtime == "auto":
        return "openvino" if device.type == "cpu" and installed else "torch"
    if runtime == "openvino" and not installed:
        raise InputError(
            "--runtime openvino: not installed; pip install 'onepass[openvino]', or use --runtime torch"
        )
    if runtime == "openvino" and device.type != "cpu":
        raise InputError("--runtime openvino runs on the CPU; use --runtime torch with --device cuda")
    if runtime == "openvino":
        return "openvino"
    if runtime == "torch":
        return "torch"
    raise InputError(f"--runtime {runtime}: choose auto, torch or openvino")


def runtime_libraries(runtime: Runtime) -> tuple[str, ...]:
    """Distributions whose versions belong to a fingerprint of this runtime."""
    return ("torch", "openvino") if runtime == "openvino" else ("torch",)


class Forward(torch.nn.Module):
    """A function of tensors as a module, for tracing."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """Features of prepared frames."""
        return self._function(frames_BTHWC)


def model_cache_folder() -> Path:
    """Where converted models are kept: $XDG_CACHE_HOME/onepass, else ~/.cache/onepass."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onepass" / "openvino"


class OpenVinoModel:
    """A module compiled for the CPU at one input shape. Callable: array of that shape and dtype to float32 features."""

    def __init__(
        self,
        make_module: Callable[[], torch.nn.Module],
        example: torch.Tensor,
        *,
        precision: Precision,
        key: str,
    ) -> None:
        import openvino

        versions = library_versions("openvino", "torch")
        identity = json.dumps([key, list(example.shape), str(example.dtype), versions], sort_keys=True)
        name = hashlib.sha256(identity.encode()).hexdigest()[:24]
        path = model_cache_folder() / f"{name}.xml"
        core = openvino.Core()
        model: Any = None
        if path.exists():
            with contextlib.suppress(RuntimeError):  # a damaged file is made again
                model = core.read_model(path)
        if model is None:
            model = _convert(make_module(), example)
            with contextlib.suppress(OSError):  # no room or no right to keep it: convert again next time
                _keep(model, path)
        self._compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": HINTS[precision],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            },
        )
        self._request = self._compiled.create_infer_request()

    def __call__(self, frames: np.ndarray[Any, Any]) -> torch.Tensor:
        """Features as float32 [B, D]."""
        return torch.from_numpy(
            np.array(self._request.infer([frames], share_inputs=True)[0], dtype=np.float32)
        )


def _convert(module: torch.nn.Module, example: torch.Tensor) -> Any:
    import openvino

    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator cannot be traced
    try:
        with torch.no_grad():
            model = openvino.convert_model(module.eval(), example_input=example, input=[list(example.shape)])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
    return model


def _keep(model: Any, path: Path) -> None:
    """Write both files under temporary names; the .xml, whose presence counts, is renamed last."""
    import openvino

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / "model.xml"
        openvino.save_model(model, part, compress_to_fp16=False)
        part.with_suffix(".bin").replace(path.with_suffix(".bin"))
        part.replace(path)
