"""Figures as PNG bytes, drawn without a display and without matplotlib's global state.

What every figure shares is here, and the confusion matrix; curves are in `heads.report.curves`, what is drawn of
a training in `heads.report.history`.
"""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heads.scoring.evaluate import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
CHARACTERS_PER_INCH = 14.5
"""Of the 8 point text at the bottom of a figure."""

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#aa4499", "#777777"
"""Told apart by colour-blind readers as well (Okabe and Ito 2008; purple after Tol)."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What stands under every figure. weights: such as "clip: openai"; random_note: loud, in their place, where some are random.

    role: what the split was used for, such as "val chose the threshold".
    """

    weights: str
    random_note: str = ""
    role: str = ""


def new_figure(width: float, height: float, provenance: Provenance) -> Figure:
    """An empty figure of width x height inches with its provenance at the bottom."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    layout: Any = figure.get_layout_engine()
    layout.set(h_pad=0.1, w_pad=0.1)
    lines = textwrap.wrap(provenance.role, int(width * CHARACTERS_PER_INCH))
    weights = provenance.random_note or f"weights: {provenance.weights}"
    lines += textwrap.wrap(weights, int(width * CHARACTERS_PER_INCH))
    colour = "firebrick" if provenance.random_note else "dimgray"
    figure.supxlabel("\n".join(lines), fontsize=8, color=colour)
    return figure


def unit_axes(axes: Axes, *, x: str, y: str) -> None:
    """Both axes from 0 to 1 with a margin that keeps lines on the border visible."""
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)


def confusion_matrix_png(
    evaluation: Evaluation, *, label_names: tuple[str, str], provenance: Provenance
) -> bytes:
    """Counts and shares of each label, titled with F1 and threshold. label_names: (negative, positive)."""
    m = evaluation.metrics
    counts = np.array([[m.true_negatives, m.false_positives], [m.false_negatives, m.true_positives]])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(5.6, 5.6, provenance)
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
    axes.set_title(f"F1 {f1} at {m.threshold_words}\n{evaluation.part}, {m.n:,} videos")
    figure.colorbar(image, ax=axes, label="share of the label", shrink=0.85)
    return png_bytes(figure)


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
