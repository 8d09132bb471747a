"""What a training writes beside its checkpoint: metrics, history, predictions, figures and report.html."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from cache.errors import StorageFull
from cache.stores import files
from heads.report.page import report_html
from heads.report.training_figures import FIGURE_FILES, training_figures
from heads.trained.checkpoint import save_head, writing
from heads.trained.head import TrainedHead
from heads.trained.record import TrainingRecord
from heads.training.cross_validation import CrossValidation
from heads.training.fit import EpochRow

if TYPE_CHECKING:
    from cache.reader import Cache

METRICS_FILE = "metrics.json"
HISTORY_FILE = "history.csv"
PREDICTIONS_FILE = "predictions.csv"
CROSS_VALIDATION_FILE = "cross_validation.csv"
REPORT_FILE = "report.html"
WRITTEN = (METRICS_FILE, HISTORY_FILE, PREDICTIONS_FILE, CROSS_VALIDATION_FILE, REPORT_FILE, *FIGURE_FILES)
"""Beside a head: those of an earlier training would look like this one's until they are replaced."""


def write_training(
    head: TrainedHead, folder: str | Path, *, cache: Cache | None = None, src: str | Path | None = None
) -> dict[str, Path]:
    """Save the head and everything its training left; returns what was written by name.

    cache: the one it was trained on; with it report.html shows the score over time of the worst mistakes.
    src: root of the videos, for a picture of each. Raises ValueError for a head that was loaded rather than
    trained, StorageFull or HeadError as `save_head`.
    """
    if head.training is None:
        raise ValueError("this head was loaded from disk; only a fresh training has a history to write")
    folder = save_head(head, folder, stale=WRITTEN)
    figures = training_figures(head, head.training)
    folds = head.training.cross_validation
    root = None if src is None else Path(src)
    contents = {
        "metrics": (METRICS_FILE, metrics_json(head, head.training)),
        "history": (HISTORY_FILE, history_csv(head.training.history)),
        "predictions": (PREDICTIONS_FILE, predictions_csv(head, head.training)),
        **(
            {}
            if folds is None
            else {"cross-validation": (CROSS_VALIDATION_FILE, folds_csv(folds, head.info.label_names))}
        ),
        **{figure.name: (figure.file, figure.png) for figure in figures},
        "report": (REPORT_FILE, report_html(head, head.training, figures, cache=cache, src=root)),
    }
    written = {"head": folder}
    try:
        with writing(folder):
            for name, (file, data) in contents.items():
                files.replace(folder / file, data)
                written[name] = folder / file
    except StorageFull as error:
        raise StorageFull(
            f"{error}. The head itself is written whole; {file} and what comes after it are not"
        ) from error
    return written


def metrics_json(head: TrainedHead, record: TrainingRecord) -> bytes:
    """The head and its floors on every part, calibration, threshold and notes, with which split did what;
    cross_validation is null where it was not asked for.
    """
    values: dict[str, Any] = {
        "weights": head.info.weights,
        "random_weights": head.info.random_weights,
        "split": record.split.origin,
        "chosen_on": record.chosen_on,
        "scored_once_on": "test" if len(record.split.test) else None,
        "head": {e.part: e.as_dict() for e in record.evaluations},
        "floors": {f"{e.name} on {e.part}": e.as_dict() for e in record.floors},
        "threshold": head.info.threshold.as_dict(),
        "calibration": {"applied": head.info.config.calibration, **asdict(record.calibration)},
        "cross_validation": None if record.cross_validation is None else record.cross_validation.as_dict(),
        "best_epoch": head.info.best_epoch,
        "pos_weight": head.info.pos_weight,
        "members": head.info.members,
        "portfolio": [dict(row) for row in head.info.portfolio],
        "notes": list(head.info.notes),
        "seconds": dict(record.seconds),
    }
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def history_csv(history: Sequence[EpochRow]) -> bytes:
    """One line an epoch; an undefined value is an empty cell."""
    return csv_bytes(list(history[0].as_dict()), (row.as_dict().values() for row in history))


def predictions_csv(head: TrainedHead, record: TrainingRecord) -> bytes:
    """One line a video: id, label, split, probability, decision; label and decision by name."""
    table, names = record.predictions, head.info.label_names
    decisions = table.probabilities >= head.info.threshold.threshold
    rows = zip(
        table.ids,
        named(table.labels, names),
        table.splits,
        table.probabilities.tolist(),
        named(decisions, names),
        strict=True,
    )
    return csv_bytes(["id", "label", "split", "probability", "decision"], rows)


def folds_csv(folds: CrossValidation, label_names: tuple[str, str]) -> bytes:
    """One line a video: id, label, fold, probability, threshold, decision, label and decision by name; the threshold is
    what the other folds choose.
    """
    table = folds.table
    rows = zip(
        table.ids,
        named(table.labels, label_names),
        table.folds.tolist(),
        table.probabilities.tolist(),
        table.thresholds.tolist(),
        named(table.flagged, label_names),
        strict=True,
    )
    return csv_bytes(["id", "label", "fold", "probability", "threshold", "decision"], rows)


def named(labels: npt.NDArray[Any], names: tuple[str, str]) -> list[str]:
    return [names[int(label)] for label in labels]


def csv_bytes(header: list[str], rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
