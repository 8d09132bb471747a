"""Figures of a leaderboard as PNG bytes: what each setting does, what it costs, and where thresholds lie."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from heads.ablation.grid import short_name
from heads.ablation.leaderboard import Leaderboard, Row
from heads.report.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, Provenance, new_figure, png_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_THRESHOLDS = 40
MOST_WITH_INTERVALS = 120
PANELS_A_LINE = 3
FLOOR_LINES = tuple(product(("--", ":", "-."), (GREY, PURPLE, GREEN)))
"""Dash and colour, one a floor, over again where there are more."""
BEYOND_WORTH = 0.25
"""A floor further below the lowest cell than this share of the cells' spread is left out of the panels."""


def effects_png(board: Leaderboard) -> bytes | None:
    """Every cell by each swept setting, with the median of each value; None when nothing was swept."""
    keys = [key for key in board.swept if len({dict(row.settings)[key] for row in board.rows}) > 1]
    rows = [row for row in board.rows if row.scores[board.metric] is not None]
    if not keys or len(rows) < 2:
        return None
    columns = min(PANELS_A_LINE, len(keys))
    lines = -(-len(keys) // columns)
    figure = new_figure(3.9 * columns + 0.4, 3.5 * lines + 0.6, _provenance(board))
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes, key in zip(panels, keys, strict=False):
        _effect_panel(axes, board, rows, key)
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for place, axes in enumerate(panels[: len(keys)]):
        if place % columns == 0:
            axes.set_ylabel(board.metric_name)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, fontsize=8, frameon=False)
    return png_bytes(figure)


def _effect_panel(axes: Axes, board: Leaderboard, rows: Sequence[Row], key: str) -> None:
    values = list(dict.fromkeys(dict(row.settings)[key] for row in board.rows))
    values.sort(key=_natural)
    spread = np.random.default_rng(0)
    members = {value: [row for row in rows if dict(row.settings)[key] == value] for value in values}
    scores = {value: [row.scores[board.metric] or 0.0 for row in found] for value, found in members.items()}
    for place, value in enumerate(values):
        offsets = _offsets(len(scores[value]), spread)
        bars = [(at, row.interval) for at, row in zip(offsets, members[value], strict=True) if row.interval]
        if bars and len(rows) <= MOST_WITH_INTERVALS:
            axes.vlines(
                [place + at for at, _ in bars],
                [interval.low for _, interval in bars],
                [interval.high for _, interval in bars],
                color=BLUE,
                alpha=0.3,
                lw=1.3,
                label="its 95 % interval" if place == 0 else "_",
            )
        label = "a cell" if place == 0 else None
        axes.plot(
            place + offsets, scores[value], "o", color=BLUE, ms=4.5, alpha=0.55, mec="none", label=label
        )
        if scores[value]:
            middle = float(np.median(scores[value]))
            label = "median" if place == 0 else None
            axes.plot([place - 0.3, place + 0.3], [middle, middle], color=ORANGE, lw=2.2, label=label)
    everything = [score for found in scores.values() for score in found]
    room = BEYOND_WORTH * (max(everything) - min(everything)) + 0.01
    for floor, (dash, colour) in zip(board.floors, cycle(FLOOR_LINES), strict=False):
        score = floor.scores[board.metric]
        if score is not None and score >= min(everything) - room:
            axes.axhline(score, color=colour, ls=dash, lw=1.1, label=floor.label)
    axes.set_xticks(range(len(values)), [textwrap.fill(value, 14) for value in values], fontsize=8)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_title(short_name(key), fontsize=10)
    axes.grid(alpha=0.25, axis="y")


def _offsets(n: int, spread: np.random.Generator) -> npt.NDArray[np.float64]:
    """Places of n cells beside each other: even where they are few, so that their intervals can be told apart."""
    if n > 12:
        return spread.uniform(-0.3, 0.3, n).astype(np.float64)
    half = min(0.12, 0.5 / max(n, 1)) * (n - 1) / 2
    return np.linspace(-half, half, n, dtype=np.float64)


def _natural(value: str) -> tuple[int, float, str]:
    """Numbers by size, before words in the order of the alphabet."""
    try:
        return (0, float(value), "")
    except ValueError:
        return (1, 0.0, value)


def cost_png(board: Leaderboard) -> bytes | None:
    """The metric against training time; None where no cell has a score."""
    rows = [row for row in board.rows if row.scores[board.metric] is not None]
    if not rows:
        return None
    figure = new_figure(6.4, 4.6, _provenance(board))
    axes = figure.subplots()
    for name, colour, members in (
        ("cell", BLUE, [row for row in rows if not row.is_baseline]),
        ("baseline", ORANGE, [row for row in rows if row.is_baseline]),
    ):
        if not members:
            continue
        scores = np.array([row.scores[board.metric] or 0.0 for row in members])
        seconds = np.array([row.seconds for row in members])
        axes.plot(seconds, scores, "o", color=colour, label=name, mec="white", ms=7, zorder=3)
        bars = [
            (s, sc, row.interval) for s, sc, row in zip(seconds, scores, members, strict=True) if row.interval
        ]
        if bars and len(rows) <= MOST_THRESHOLDS:
            axes.vlines(
                [s for s, _, _ in bars],
                [i.low for _, _, i in bars],
                [i.high for _, _, i in bars],
                color=colour,
                alpha=0.3,
                lw=1.4,
            )
    best = rows[0]
    label = f"best: {textwrap.shorten(best.label, 60)}"
    axes.plot(
        best.seconds,
        best.scores[board.metric] or 0.0,
        "*",
        color=GREEN,
        mec="white",
        ms=15,
        label=label,
        zorder=4,
    )
    axes.set_xlim(left=0)
    axes.set_xlabel("training time of all runs of a cell (s)")
    axes.set_ylabel(board.metric_name)
    figure.legend(loc="outside upper left", ncols=3, fontsize=8, frameon=False)
    axes.grid(alpha=0.25)
    return png_bytes(figure)


def thresholds_png(board: Leaderboard) -> bytes | None:
    """Threshold of each cell, best first, with its range over seeds and folds; None where there is none."""
    rows = [row for row in board.rows if row.threshold_mean is not None][:MOST_THRESHOLDS]
    if not rows:
        return None
    figure = new_figure(6.4, 1.6 + 0.2 * len(rows), _provenance(board))
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    means = [row.threshold_mean or 0.0 for row in rows]
    axes.hlines(
        places,
        [row.threshold_low or 0.0 for row in rows],
        [row.threshold_high or 0.0 for row in rows],
        color=BLUE,
        alpha=0.4,
        lw=4,
    )
    axes.plot(means, places, "o", color=BLUE, ms=4.5)
    axes.set_yticks(places, [f"{row.rank}  {textwrap.shorten(row.label, 48)}" for row in rows], fontsize=7)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.8, len(rows) - 0.2)
    axes.set_xlabel("threshold: mean, and range over seeds and folds")
    axes.grid(alpha=0.25, axis="x")
    return png_bytes(figure)


def _provenance(board: Leaderboard) -> Provenance:
    role = f"{board.n_videos:,} videos from {board.n_groups:,} source groups; split: {board.split}"
    return Provenance(board.weights, board.random_note, role)
