"""Figures as PNG bytes, drawn without a display and without matplotlib's global state."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from heads.evaluate import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150


def confusion_matrix_png(evaluation: Evaluation, *, label_names: tuple[str, str], weights: str) -> bytes:
    """Counts and shares of each label, titled with F1 and threshold. label_names: (negative, positive)."""
    from matplotlib.figure import Figure

    m = evaluation.metrics
    counts = np.array([[m.true_negatives, m.false_positives], [m.false_negatives, m.true_positives]])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(5.4, 5.0), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.08)  # type: ignore[union-attr, call-arg]
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            axes.text(
                column,
                row,
                f"{counts[row, column]:,}\n{shares[row, column]:.1%}",
                ha="center",
                va="center",
                fontsize=13,
                color="white" if shares[row, column] > 0.55 else "black",
            )
    axes.set_xticks([0, 1], label_names)
    axes.set_yticks([0, 1], label_names, rotation=90, va="center")
    axes.set_xlabel("decision")
    axes.set_ylabel("label")
    f1 = "undefined" if m.f1 is None else f"{m.f1:.3f}"
    axes.set_title(f"F1 {f1} at threshold {m.threshold:.3f}\n{evaluation.part}, {m.n:,} videos")
    figure.colorbar(image, ax=axes, label="share of the label", shrink=0.85)
    figure.supxlabel(f"weights: {weights}", fontsize=8, color="dimgray")
    return png_bytes(figure)


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
