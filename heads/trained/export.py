"""A head as an ONNX file: input scaling, encoder, pool, classifier and temperature in one graph.

Inputs, with batch B and every length T free:

    heads that join streams on a grid     tokens [B, T, D] float32, mask [B, T] bool (True = real)
    fusion and late heads (logistic,      NAME_tokens [B, T, D], NAME_mask [B, T], NAME_times [B, T] float32 seconds
    auto), for each stream

D of joined tokens is the streams' widths side by side in the order of the names in the metadata, joined on
the grid stream's tokens (`heads.data.grid.join_streams`). Every video needs at least one real token; what stands
in padding has no meaning. Where the head knows absent streams, such a stream is one real token of NaN, or NaN in its
columns. Outputs: probability [B] (calibrated) and logit [B] (raw), float32.

The file's metadata says which streams, grid, label names, threshold, temperature and backbone weights belong
to it (key "onepass", JSON).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cache.errors import HeadError, InputError
from cache.stores import files
from heads.trained.checkpoint import writing
from heads.trained.head import TrainedHead

METADATA_KEY = "onepass"
MISSING = "needs the packages onnx, onnxscript and onnxruntime: pip install 'onepass[onnx]'"
LARGEST_BYTES = 2_000_000_000
"""What one protobuf message may hold."""

CHECKED_SHAPES = ((1, 1), (3, 1), (1, 10), (4, 7), (2, 100))
"""(batch, length) that an export is compared with torch on."""

LARGEST_DIFFERENCE = 1e-4
"""Of a logit, relative to the larger of 1 and its size."""


@dataclass(frozen=True, slots=True)
class Compared:
    """onnxruntime against torch: largest |difference| of probabilities, and of logits (relative above 1)."""

    n_shapes: int
    probability: float
    logit: float


class _Graph(nn.Module):
    """The head with its inputs in the file's order."""

    def __init__(self, head: TrainedHead) -> None:
        super().__init__()
        self.model = head.model
        self.temperature = head.info.temperature
        self.fusion = head.info.config.model.separate_streams

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        if self.fusion:
            values, masks, times = list(inputs[0::3]), list(inputs[1::3]), list(inputs[2::3])
        else:
            values, masks = [inputs[0]], [inputs[1]]
            times = [torch.zeros_like(inputs[0][:, :, 0])]  # these heads do not look at time
        logit_B = self.model(values, masks, times)
        return torch.sigmoid(logit_B / self.temperature), logit_B


def input_names(head: TrainedHead) -> list[str]:
    """Names of the graph's inputs, in order."""
    if not head.info.config.model.separate_streams:
        return ["tokens", "mask"]
    return [f"{stream.name}_{part}" for stream in head.info.streams for part in ("tokens", "mask", "times")]


def example_inputs(head: TrainedHead, *, batch: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    """Random tokens as the head expects them to be spread, with padding of random length.

    Of several streams, the second and later ones are one token longer, as each has its own length.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    names = input_names(head)
    step = len(names) // len(head.model.input_scalings())
    for c, scaling in enumerate(head.model.input_scalings()):
        own_length = length + c
        values = torch.randn(batch, own_length, sum(scaling.stream_dims), generator=generator)
        if scaling.kind == "standard":
            values = values * scaling.std + scaling.mean
        real = torch.randint(1, own_length + 1, (batch, 1), generator=generator)
        real[0] = own_length
        mask = torch.arange(own_length) < real
        times = torch.arange(own_length).float().expand(batch, -1) + 0.5
        for name, value in zip(names[c * step : (c + 1) * step], (values, mask, times), strict=False):
            found[name] = value.contiguous()
    return found


def export_onnx(head: TrainedHead, path: str | Path) -> Path:
    """Write the head as one ONNX file, atomically.

    Raises InputError without what the extra `onnx` asks for, for another suffix than .onnx and for heads
    above 2 GB, StorageFull or HeadError when the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise InputError(f"{path}: an ONNX file ends in .onnx")
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"ONNX export {MISSING}") from error
    if torch.torch_version.TorchVersion(torch.__version__) < "2.8":  # 2.6 fails within its exporter
        raise InputError(f"ONNX export needs torch 2.8 or newer, and {torch.__version__} is installed")
    if head.info.n_parameters * 4 >= LARGEST_BYTES:
        raise InputError(f"{head.info.n_parameters:,} parameters do not fit one ONNX file (2 GB)")
    inputs = example_inputs(head, batch=3, length=7)
    dynamic = torch.export.Dim.DYNAMIC
    graph = _Graph(head).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's notes on its own workings
        program = torch.onnx.export(
            graph,
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            dynamic_shapes={"inputs": tuple({0: dynamic, 1: dynamic} for _ in inputs)},
            input_names=list(inputs),
            output_names=["probability", "logit"],
        )
    assert program is not None
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(metadata(head))
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, proto.SerializeToString())
    return path


def metadata(head: TrainedHead) -> dict[str, Any]:
    """What a user of the file must know, as JSON values."""
    info = head.info
    return {
        "architecture": info.config.model.architecture,
        "streams": [{"name": s.name, "dim": s.dim, "fingerprint": dict(s.fingerprint)} for s in info.streams],
        "grid": info.grid,
        "label_names": list(info.label_names),
        "threshold": info.threshold.threshold,
        "temperature": info.temperature,
        "weights": info.weights,
        "random_weights": info.random_weights,
    }


def compare_with_torch(
    head: TrainedHead, path: str | Path, *, shapes: Sequence[tuple[int, int]] = CHECKED_SHAPES
) -> Compared:
    """Run the file in onnxruntime (CPU) and the head in torch on random tokens of every (batch, length).

    Raises InputError without onnxruntime, HeadError when they differ by more than 1e-4.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"checking an ONNX file {MISSING}") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    graph = _Graph(head).eval()
    worst = [0.0, 0.0]
    for seed, (batch, length) in enumerate(shapes):
        inputs = example_inputs(head, batch=batch, length=length, seed=seed)
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        with torch.no_grad():
            expected = [value.numpy() for value in graph(*inputs.values())]
        for i in range(2):
            worst[i] = max(worst[i], _difference(found[i], expected[i]))
    if max(worst) > LARGEST_DIFFERENCE:
        raise HeadError(
            f"{path}: onnxruntime and torch differ by {max(worst):.2g}, above {LARGEST_DIFFERENCE:g}; "
            "report this with the head's model settings"
        )
    return Compared(len(shapes), *worst)


def _difference(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.max(np.abs(found - expected) / np.maximum(1.0, np.abs(expected))))
