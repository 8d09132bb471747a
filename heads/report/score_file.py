"""Scores as a file, .csv or .jsonl: a row a video and a row a reject."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cache.errors import InputError
from cache.process.outputs import require_output, write_output
from cache.schema import UNKNOWN_LABEL
from heads.data.rows import VideoRows, read_rows
from heads.scoring.evaluate import evaluate
from heads.scoring.metrics import Probabilities
from heads.trained.head import Predictions, TrainedHead
from heads.trained.record import UNSEEN
from heads.trained.seen import NOT_RECORDED, SeenVideos

if TYPE_CHECKING:
    from cache.reader import Cache

SUFFIXES = (".csv", ".jsonl")
COLUMNS = (
    *("id", "probability", "decision", "label", "threshold", "weights"),
    *("reject_reason", "reject_detail", "path"),
)
"""label: what the video is by its label, where it has one. path: the argument that the row came from, as it was given.
Ids are unique within one path only.
"""

NO_STREAM = "no-stream"
"""reject_reason of a stored video that has none of the streams that the head reads."""
RESAMPLES = 1000
SCORES = (
    ("AUROC", "auroc"),
    ("average precision", "average_precision"),
    ("F1", "f1"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("accuracy", "accuracy"),
)

Row = dict[str, Any]


def require_score_file(path: Path) -> None:
    """Raise InputError unless scores can be written to `path`."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"--out {path}: scores are written as .csv or .jsonl")
    require_output("--out", path)


def score_rows(predictions: Predictions, cache: Cache, *, path: str) -> list[Row]:
    """A row a video of the cache and a row a reject."""
    labels, decisions = cache.videos.label, predictions.decisions
    unscored = np.isnan(predictions.probabilities)
    rows = [
        {
            **dict.fromkeys(COLUMNS),
            "id": predictions.ids[index],
            "probability": None if unscored[index] else float(predictions.probabilities[index]),
            "decision": decisions[index] or None,
            "label": cache.label_names[label]
            if cache.label_names and (label := int(labels[index])) >= 0
            else None,
            "threshold": predictions.threshold,
            "weights": predictions.weights,
            "reject_reason": NO_STREAM if unscored[index] else None,
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
    if len(scored) > len(highest):
        first += f"; the {len(highest)} highest:"
    return [first, *(f"  {row['probability']:.4f} {row['decision']} {row['id']}" for row in highest)]


def agreement_lines(predictions: Predictions, cache: Cache, head: TrainedHead) -> list[str]:
    """Where the videos carry labels, how the scores compare with them: those that the head has not seen in full, and what
    is to be thought of the others.
    """
    if not len(cache):
        return []
    rows = read_rows(cache)
    known = np.flatnonzero(rows.labels != UNKNOWN_LABEL)
    if not len(known):
        return []
    if rows.label_names != head.info.label_names:
        return [
            f"the labels here are {' and '.join(rows.label_names)}: they cannot be compared with the head's decisions"
        ]
    probabilities = predictions.probabilities[rows.order]
    known = known[~np.isnan(probabilities[known])]
    if not len(known):
        return []
    seen = SeenVideos.of_head(head.info)
    if seen is None:
        told = [_scores_line("", rows, known, probabilities, predictions.threshold), f"note: {NOT_RECORDED}"]
        return [line for line in told if line]
    overlap = seen.overlap(rows, known)
    lines = []
    if not overlap.seen.all():
        unseen = known[~overlap.seen]
        lines.append(
            _scores_line(" that the head has not seen", rows, unseen, probabilities, predictions.threshold)
        )
    if overlap.seen.any():
        lines.append(f"seen by the head: {overlap.words()}; how it scores those says nothing of new ones")
    return lines


def _scores_line(
    which: str, rows: VideoRows, some: npt.NDArray[np.int64], probabilities: Probabilities, threshold: float
) -> str:
    """One line of what `onepass evaluate` says in full."""
    found = evaluate(
        "head",
        UNSEEN,
        rows.labels[some],
        probabilities[some],
        threshold=threshold,
        groups=[rows.groups[row] for row in some],
        n_resamples=RESAMPLES,
    )
    m = found.metrics
    parts = [
        f"{name} {'undefined' if value is None else f'{value:.3f}'}"
        + (
            f" [{interval.low:.2f}, {interval.high:.2f}]{interval.mark}"
            if (interval := found.intervals.get(key))
            else ""
        )
        for name, key in SCORES
        for value in (getattr(m, key),)
    ]
    share = m.n_positive / m.n
    return (
        f"against the labels of {m.n} videos{which}, at the stored threshold: {', '.join(parts)}; flagging everything has F1 "
        f"{2 * share / (1 + share):.3f}. onepass evaluate says more"
    )
