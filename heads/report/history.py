"""What is drawn of a training: loss and threshold by epoch, and reliability before and after calibration."""

from __future__ import annotations

from collections.abc import Sequence
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
from heads.scoring.metrics import ECE_BINS, Labels, Probabilities, expected_calibration_error
from heads.training.fit import EpochRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def history_png(history: Sequence[EpochRow], *, best_epoch: int, provenance: Provenance) -> bytes:
    """Loss of train and val by epoch, and below it the best threshold, F1 and AUROC of each epoch on val."""
    figure = new_figure(8.4, 6.2, provenance)
    upper, lower = figure.subplots(2, 1, sharex=True)
    epochs = [row.epoch for row in history]
    marker = "o" if len(history) < 15 else None
    lines: list[tuple[Axes, str, list[float | None], str]] = [
        (upper, "train, with dropout", [row.train_loss for row in history], ORANGE),
        (upper, "val", [row.val_loss for row in history], BLUE),
        (lower, "threshold, before\ntemperature scaling", [row.threshold for row in history], GREEN),
        (lower, "F1 at that threshold", [row.f1 for row in history], PURPLE),
        (lower, "AUROC", [row.auroc for row in history], BLUE),
    ]
    for axes, name, values, colour in lines:
        numbers = np.array([np.nan if value is None else value for value in values])
        axes.plot(epochs, numbers, color=colour, marker=marker, ms=4, label=name)
    for axes in (upper, lower):
        axes.axvline(best_epoch, color=GREY, ls="--", lw=1, label=f"best epoch, {best_epoch}")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.02), frameon=False)
    upper.set_ylim(bottom=0)
    upper.set_ylabel("loss")
    upper.set_title(f"Loss and threshold over {len(history)} epochs")
    lower.set_ylim(-0.02, 1.02)
    lower.set_ylabel("on val")
    lower.set_xlabel("epoch")
    lower.xaxis.get_major_locator().set_params(integer=True)
    return png_bytes(figure)


def reliability_png(
    labels: Labels,
    before: Probabilities,
    after: Probabilities,
    *,
    temperature: float,
    applied: bool,
    part: str,
    provenance: Provenance,
) -> bytes:
    """Share of positives against mean probability by bin, before and after temperature scaling.

    Bins are those of the ECE (15 of equal width); bars are Wilson's 95 % intervals, which take videos as
    independent. Below: how many videos each bin holds.
    """
    figure = new_figure(9.0, 5.8, provenance)
    grid = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[4, 1])
    titles = ("before scaling (temperature 1)", f"after scaling (temperature {temperature:.3f})")
    used = 1 if applied else 0
    for column, (scores, title) in enumerate(zip((before, after), titles, strict=True)):
        upper, lower = grid[0, column], grid[1, column]
        _reliability(upper, labels, scores)
        ece = expected_calibration_error(labels, scores)
        brier = float(np.mean((scores - labels) ** 2))
        kept = ", used by the head" if column == used else ""
        upper.set_title(f"{title}{kept}\nECE {ece:.3f}, Brier {brier:.3f}", fontsize=10)
        lower.hist(scores, bins=ECE_BINS, range=(0, 1), color=BLUE, alpha=0.6)
        lower.set_xlabel("probability")
        lower.grid(alpha=0.25)
    grid[0, 0].set_ylabel("share of positives in the bin")
    grid[1, 0].set_ylabel("videos")
    figure.suptitle(
        f"Reliability on {part}: {len(labels):,} videos, {int((labels == 1).sum()):,} positive\n"
        "(a dot is the videos of one bin, with 95 % interval; dashed: perfectly calibrated)",
        fontsize=11,
    )
    return png_bytes(figure)


def _reliability(axes: Axes, labels: Labels, scores: Probabilities) -> None:
    from scipy.stats import binomtest

    bins = np.searchsorted(np.linspace(0.0, 1.0, ECE_BINS + 1)[1:-1], scores)
    counts = np.bincount(bins, minlength=ECE_BINS)
    held = counts > 0
    n = counts[held]
    mean = np.bincount(bins, weights=scores, minlength=ECE_BINS)[held] / n
    positive = np.bincount(bins[labels == 1], minlength=ECE_BINS)[held]
    share = positive / n
    found = [
        binomtest(k, of).proportion_ci(method="wilson")
        for k, of in zip(positive.tolist(), n.tolist(), strict=True)
    ]
    low, high = (np.array([getattr(interval, end) for interval in found]) for end in ("low", "high"))
    axes.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1)
    axes.errorbar(
        mean,
        share,
        yerr=np.stack([share - low, high - share]).clip(min=0),
        fmt="o",
        color=BLUE,
        ecolor=GREY,
        elinewidth=1,
        ms=5,
    )
    unit_axes(axes, x="", y="")
