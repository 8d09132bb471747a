"""`onepass export-onnx`: a trained head as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export_onnx_command(
    head: Annotated[Path, typer.Option(help="Folder of a trained head.")],
    out: Annotated[Path, typer.Option(help="File to write, .onnx.")] = Path("head.onnx"),
) -> None:
    """Write a head as ONNX, with free batch and length, and compare it with torch in onnxruntime."""
    from heads.trained.folder import require_head

    require_head(head)
    from cache.process.outputs import require_output
    from heads.trained.export import compare_with_torch, export_onnx, input_names
    from heads.trained.head import TrainedHead

    require_output("--out", out)
    trained = TrainedHead.load(head)
    info = trained.info
    path = export_onnx(trained, out)
    compared = compare_with_torch(trained, path)
    lines = [
        f"head       {head}: {info.config.model.architecture}, weights {info.weights}",
        *([f"           {info.random_note}"] if info.random_note else []),
        f"onnx       {path}: {path.stat().st_size:,} bytes; inputs {', '.join(input_names(trained))}; "
        "outputs probability, logit",
        f"streams    {', '.join(f'{s.name} {s.dim}' for s in info.streams)}, on the tokens of {info.grid}; "
        f"threshold {info.threshold.threshold:.6f} is in the file's metadata",
        f"checked    onnxruntime against torch on {compared.n_shapes} shapes: probabilities differ by at most "
        f"{compared.probability:.1g}, logits by {compared.logit:.1g}",
    ]
    for line in lines:
        typer.echo(line)
