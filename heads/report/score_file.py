"""Scores as a file, .csv or .jsonl: a row a video and a row a reject."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import InputError
from cache.process.outputs import require_output, write_output
from heads.trained.head import Predictions, TrainedHead

if TYPE_CHECKING:
    from cache.reader import Cache

SUFFIXES = (".csv", ".jsonl")
COLUMNS = ("id", "probability", "decision", "threshold", "weights", "reject_reason", "reject_detail", "path")
"""path: the argument that the row came from, as it was given. Ids are unique within one path only."""

Row = dict[str, Any]


def require_score_file(path: Path) -> None:
    """Raise InputError unless scores can be written to `path`."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"--out {path}: scores are written as .csv or .jsonl")
    require_output("--out", path)


def score_rows(predictions: Predictions, cache: Cache, *, path: str) -> list[Row]:
    """A row a video of the cache and a row a reject."""
    rows = [
        {
            **dict.fromkeys(COLUMNS),
            "id": predictions.ids[index],
            "probability": float(predictions.probabilities[index]),
            "decision": predictions.decisions[index],
            "threshold": predictions.threshold,
            "weights": predictions.weights,
            "path": path,
        }
        for index in range(len(predictions))
    ]
    rejects = cache.rejects
    for video_id, reason, detail in zip(rejects.id, rejects.reason, rejects.detail, strict=True):
        found = {"id": str(video_id), "reject_reason": str(reason), "reject_detail": str(detail)}
        rows.append({**dict.fromkeys(COLUMNS), **found, "path": path})
    return rows


def write_scores(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file in one step. Raises InputError or StorageFull where it cannot be written."""
    text = io.StringIO(newline="")
    if path.suffix == ".jsonl":
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    # a path may hold bytes that are no UTF-8: they are kept
    write_output("--out", path, text.getvalue().encode("utf-8", "surrogateescape"))


def score_lines(rows: Sequence[Row], head: TrainedHead) -> list[str]:
    """How many were scored, flagged and rejected, and the five highest scores."""
    scored = [row for row in rows if row["reject_reason"] is None]
    positive = head.info.label_names[1]
    flagged = sum(row["decision"] == positive for row in scored)
    first = (
        f"scored {len(scored)} videos: {flagged} {positive} at threshold {head.info.threshold.threshold:.4f}; "
        f"{len(rows) - len(scored)} rejected; weights {head.info.weights}"
    )
    highest = sorted(scored, key=lambda row: -row["probability"])[:5]
    return [first, *(f"  {row['probability']:.4f} {row['decision']} {row['id']}" for row in highest)]


def agreement_line(predictions: Predictions, labels: Any) -> str | None:
    """Where the videos carry labels (-1: none), how the decisions compare with them."""
    from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

    known = labels >= 0
    if not known.any():
        return None
    truth, flagged = labels[known], predictions.flagged[known]
    scores = ", ".join(
        f"{name} {score(truth, flagged, **options):.4f}"
        for name, score, options in (
            ("accuracy", accuracy_score, {}),
            ("precision", precision_score, {"zero_division": 0}),
            ("recall", recall_score, {"zero_division": 0}),
            ("F1", f1_score, {"zero_division": 0}),
        )
    )
    return f"against the labels of {int(known.sum())} videos, at the stored threshold: {scores}"
