"""Precision-recall, ROC and threshold curves. Every curve says which split it is on.

Shape legend: V videos of one part of a split.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from heads.report.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    Provenance,
    new_figure,
    png_bytes,
    unit_axes,
)
from heads.scoring.bootstrap import Interval
from heads.scoring.cuts import cut_points, f_beta
from heads.scoring.evaluate import Evaluation
from heads.scoring.metrics import Labels, Probabilities
from heads.scoring.thresholds import ThresholdChoice, ThresholdConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOOR_MARKERS = ("s", "^", "D", "v", "P", "X", "p", "*")
"""One a floor, over again where there are more."""


def pr_curve_png(
    labels: Labels,
    probabilities: Probabilities,
    evaluation: Evaluation,
    floors: Sequence[Evaluation],
    *,
    provenance: Provenance,
) -> bytes:
    """Precision against recall of every cut, the decision point, and each floor at its own threshold."""
    cuts = cut_points(labels, probabilities)
    m = evaluation.metrics
    figure = new_figure(6.0, 6.0, provenance)
    axes = figure.subplots()
    score = _with_interval(
        "average precision", m.average_precision, evaluation.intervals["average_precision"]
    )
    # as average precision sums it: a cut's precision holds for all recall down to that of the next cut
    hits = cuts.recall > 0
    recall, precision = (
        np.append(cuts.recall[hits], 0.0),
        np.append(cuts.precision[hits], cuts.precision[hits][-1]),
    )
    axes.step(recall, precision, where="post", color=BLUE, label=f"head, {score}")
    share = m.n_positive / m.n
    axes.axhline(share, color=GREY, ls="--", lw=1, label=f"chance: share of positives, {share:.3f}")
    if m.precision is not None and m.recall is not None:
        axes.plot(
            m.recall,
            m.precision,
            "o",
            color=BLUE,
            ms=8,
            label=f"head at {m.threshold_words}",
            zorder=5,
        )
    for marker, floor in zip(cycle(FLOOR_MARKERS), floors, strict=False):
        if floor.metrics.precision is not None and floor.metrics.recall is not None:
            _floor_point(axes, floor.metrics.recall, floor.metrics.precision, floor.name, marker)
    unit_axes(axes, x="recall", y="precision")
    axes.set_title(f"Precision and recall on {_subject(evaluation)}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=8)
    return png_bytes(figure)


def roc_curve_png(
    labels: Labels,
    probabilities: Probabilities,
    evaluation: Evaluation,
    floors: Sequence[Evaluation],
    *,
    provenance: Provenance,
) -> bytes:
    """True positive rate against false positive rate of every cut, the decision point, and each floor."""
    from sklearn.metrics import roc_curve

    false_rate, true_rate, _ = roc_curve(labels, probabilities, drop_intermediate=False)
    figure = new_figure(6.0, 6.6, provenance)
    axes = figure.subplots()
    m = evaluation.metrics
    score = _with_interval("AUROC", m.auroc, evaluation.intervals["auroc"])
    axes.plot(false_rate, true_rate, color=BLUE, label=f"head, {score}")
    axes.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="chance, AUROC 0.5")
    point = _rates(evaluation)
    axes.plot(*point, "o", color=BLUE, ms=8, label=f"head at {m.threshold_words}", zorder=5)
    for marker, floor in zip(cycle(FLOOR_MARKERS), floors, strict=False):
        name = floor.name if floor.metrics.auroc is None else f"{floor.name}, AUROC {floor.metrics.auroc:.3f}"
        _floor_point(axes, *_rates(floor), name, marker)
    unit_axes(axes, x="false positive rate", y="true positive rate (recall)")
    axes.set_aspect("equal")
    axes.set_title(f"ROC on {_subject(evaluation)}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=8)
    return png_bytes(figure)


def threshold_curve_png(
    labels: Labels,
    probabilities: Probabilities,
    choice: ThresholdChoice,
    *,
    config: ThresholdConfig,
    part: str,
    label_names: tuple[str, str],
    provenance: Provenance,
) -> bytes:
    """F1, precision and recall over all thresholds, the chosen one with its bootstrap interval and plateau.

    Below it, every video's score by label: what the threshold cuts through.
    """
    cuts = cut_points(labels, probabilities)
    figure = new_figure(7.2, 6.4, provenance)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    edges = np.concatenate([cuts.low, cuts.high[-1:]])
    lines = [("F1", cuts.f1, BLUE, 2.2)]
    if config.objective == "fbeta":
        lines.append(
            (
                f"F-beta, beta {config.beta:g}",
                f_beta(cuts.precision, cuts.recall, beta=config.beta),
                GREEN,
                2.2,
            )
        )
    lines += [("precision", cuts.precision, ORANGE, 1.2), ("recall", cuts.recall, PURPLE, 1.2)]
    for name, values, colour, width in lines:
        shown = values.copy()
        if name == "precision":
            shown[-1] = np.nan  # nothing is flagged there
        upper.stairs(shown, edges, baseline=None, color=colour, lw=width, label=name)
    if choice.interval is not None:
        upper.axvspan(
            choice.interval.low,
            choice.interval.high,
            color=GREY,
            alpha=0.18,
            lw=0,
            label=f"95 % interval {choice.interval}, {choice.interval.n_groups} source groups",
        )
    upper.axvspan(
        choice.plateau_low, choice.plateau_high, color=BLUE, alpha=0.18, lw=0, label="decides the same"
    )
    for axes in (upper, lower):
        axes.axvline(choice.threshold, color="black", lw=1.2, ls="--", label="chosen threshold")
    unit_axes(upper, x="", y="F1, precision, recall")
    upper.set_title(
        f"Threshold {choice.threshold:.4f} by {objective_words(config)}, F1 {choice.f1:.3f}\n"
        f"on {part}: {len(labels):,} videos, {int((labels == 1).sum()):,} positive"
    )
    for row, (label, colour) in enumerate(((0, GREEN), (1, ORANGE))):
        scores = probabilities[labels == label]
        lower.plot(scores, np.full(len(scores), row), "|", color=colour, ms=11, alpha=0.7)
    lower.set_yticks([0, 1], label_names)
    lower.set_ylim(-0.6, 1.6)
    lower.set_xlabel("threshold, and the score of every video by label")
    handles, names = upper.get_legend_handles_labels()
    lower.legend(handles, names, loc="upper center", bbox_to_anchor=(0.45, -0.6), ncols=3, fontsize=8)
    return png_bytes(figure)


def objective_words(config: ThresholdConfig) -> str:
    """The objective with its number, such as "precision at recall >= 0.9"."""
    words = {
        "f1": "F1",
        "fbeta": f"F-beta, beta {config.beta:g}",
        "precision-at-recall": f"precision at recall >= {config.floor:g}",
        "recall-at-precision": f"recall at precision >= {config.floor:g}",
        "false-alarms-per-hour": f"recall at <= {config.max_false_alarms_per_hour:g} false alarms/h",
    }[config.objective]
    return words if config.grid == "exact" else f"{words}, {config.grid} grid"


def _rates(evaluation: Evaluation) -> tuple[float, float]:
    m = evaluation.metrics
    return m.false_positives / max(m.n - m.n_positive, 1), m.true_positives / max(m.n_positive, 1)


def _floor_point(axes: Axes, x: float, y: float, name: str, marker: str) -> None:
    axes.plot(x, y, marker, mfc="white", mec="black", ms=7, ls="none", label=f"floor: {name}", zorder=4)


def _subject(evaluation: Evaluation) -> str:
    m = evaluation.metrics
    return f"{evaluation.part}: {m.n:,} videos, {m.n_positive:,} positive"


def _with_interval(name: str, value: float | None, interval: Interval | None) -> str:
    if value is None:
        return f"{name} undefined"
    return f"{name} {value:.3f}" + (f" ({interval})" if interval is not None else "")
