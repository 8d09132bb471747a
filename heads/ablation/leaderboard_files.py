"""A leaderboard as CSV and as one HTML page: everything inlined, no network."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from cache.stores import files
from heads.ablation.grid import short_name
from heads.ablation.leaderboard import METRIC_NAMES, METRICS, Leaderboard, Row
from heads.ablation.leaderboard_figures import cost_png, effects_png, thresholds_png
from heads.ablation.record import LEADERBOARD_FILE, require_own_folder, write_record
from heads.trained.checkpoint import writing

TEMPLATE = "leaderboard.html"
CSV_FILE = LEADERBOARD_FILE
HTML_FILE = "leaderboard.html"

FIGURES: tuple[tuple[Callable[[Leaderboard], bytes | None], str, str], ...] = (
    (
        effects_png,
        "What each setting does",
        "One point a cell with its 95 % interval by source group, so every other setting varies within a column; the bar is the "
        "median.",
    ),
    (cost_png, "What it costs", "Time is each run's share of the time that heads trained together took."),
    (
        thresholds_png,
        "Where thresholds lie",
        "A wide range means that a decision at one threshold will not carry over.",
    ),
)


def write_leaderboard(board: Leaderboard, folder: Path, *, command: str = "") -> dict[str, Path]:
    """Write both files; returns them by name.

    Raises InputError where the folder holds the leaderboard of another sweep, StorageFull or HeadError as
    `heads.trained.checkpoint.writing`.
    """
    written = {"leaderboard": folder / CSV_FILE, "page": folder / HTML_FILE}
    if board.sweep is not None:
        require_own_folder(folder, board.sweep)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if board.sweep is not None:
            write_record(folder, board.sweep)
        files.replace(written["leaderboard"], leaderboard_csv(board))
        files.replace(written["page"], leaderboard_html(board, command=command))
    return written


def leaderboard_csv(board: Leaderboard) -> bytes:
    """One line a cell, then one a floor; a column each for what was swept. An undefined value is empty."""
    text = io.StringIO()
    rows = [_csv_row(board, row, kind="cell") for row in board.rows]
    rows += [_csv_row(board, row, kind="floor") for row in board.floors]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _csv_row(board: Leaderboard, row: Row, *, kind: str) -> dict[str, Any]:
    settings = dict(row.settings)
    return {
        "rank": row.rank,
        "kind": kind,
        "label": row.label,
        **{f"setting:{key}": settings.get(key) for key in board.swept},
        "baseline": int(row.is_baseline),
        **{str(name): score for name, score in row.scores.items()},
        "ranked_by": board.metric,
        "low": row.interval and row.interval.low,
        "high": row.interval and row.interval.high,
        "rough": row.interval and int(row.interval.rough),
        "rarer_groups": row.interval and row.interval.n_rarer_groups,
        "resamples": row.interval and row.interval.n_resamples,
        "resamples_drawn": row.interval and row.interval.n_drawn,
        "seed_sd": row.seed_sd,
        "delta": row.delta,
        "delta_low": row.delta_interval and row.delta_interval.low,
        "delta_high": row.delta_interval and row.delta_interval.high,
        "threshold": row.threshold_mean,
        "threshold_low": row.threshold_low,
        "threshold_high": row.threshold_high,
        "threshold_drift": row.threshold_drift,
        "degenerate_runs": row.n_degenerate,
        "best_epoch": row.best_epoch,
        "runs": row.n_runs,
        "seconds": round(row.seconds, 3),
        "parameters": row.n_parameters,
        "precision": row.precision,
        "failed": "; ".join(row.failed),
        "weights": board.weights,
        "random_weights": int(bool(board.random_note)),
        "fingerprint": " ".join(f"{name}:{digest}" for name, digest in board.fingerprints.items()),
        "cache_digest": board.cache_digest,
    }


def leaderboard_html(board: Leaderboard, *, command: str = "") -> bytes:
    """The page: facts, a table that sorts by a click on its head, figures, fingerprints."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = _number
    environment.filters["signed"] = _signed
    template = environment.from_string(
        resources.files("heads.ablation").joinpath("templates", TEMPLATE).read_text("utf-8")
    )
    made = ((draw(board), title, caption) for draw, title, caption in FIGURES)
    page = template.render(
        board=board,
        command=command,
        facts=_facts(board, command),
        swept=[(key, short_name(key)) for key in board.swept],
        metrics=[(name, METRIC_NAMES[name]) for name in METRICS],
        scale=_scale(board),
        figures=[
            {"title": title, "caption": caption, "source": _inline(png)}
            for png, title, caption in made
            if png is not None
        ],
        fingerprints=json.dumps(board.fingerprint_details, indent=2, sort_keys=True),
    )
    return page.encode("utf-8", "surrogateescape")


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _facts(board: Leaderboard, command: str) -> list[tuple[str, str]]:
    facts = [
        ("cache", f"{board.dataset}, files digest {board.cache_digest}"),
        ("weights", board.weights),
        ("fingerprints", ", ".join(f"{name} {digest}" for name, digest in board.fingerprints.items())),
        ("split", board.split),
        (
            "scored on",
            f"{board.n_videos:,} videos, {board.n_positive:,} positive, from {board.n_groups:,} source groups",
        ),
        (
            "ranked by",
            f"{board.metric_name}, mean over seeds; in brackets 95 % bootstrap intervals by source group",
        ),
    ]
    return [*facts, ("command", command)] if command else facts


def _scale(board: Leaderboard) -> tuple[float, float]:
    """Ends of the axis that intervals in the table are drawn on."""
    rows = [*board.rows, *board.floors]
    ends = [row.scores[board.metric] for row in board.rows]
    ends += [
        end
        for row in rows
        if row.interval and row in board.rows
        for end in (row.interval.low, row.interval.high)
    ]
    known = [end for end in ends if end is not None]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    room = max(0.02, 0.05 * (high - low))
    return max(0.0, low - room), min(1.0, high + room)


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:+.{digits}f}"
