"""What `onepass evaluate --out` writes: metrics, predictions, sources, figures and report.html."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cache.errors import InputError
from cache.stores import files
from heads.report.curves import objective_words, pr_curve_png, roc_curve_png, threshold_curve_png
from heads.report.figures import Provenance, confusion_matrix_png
from heads.report.history import reliability_png
from heads.report.outputs import METRICS_FILE, PREDICTIONS_FILE, REPORT_FILE, csv_bytes, named
from heads.report.page import Page, page_html, result_rows
from heads.report.training_figures import ReportFigure
from heads.scoring.calibration import probabilities
from heads.trained.checkpoint import writing
from heads.trained.evaluation import HeadEvaluation
from heads.trained.folder import INFO_FILE
from heads.trained.head import TrainedHead
from heads.trained.record import PART_ROLES

if TYPE_CHECKING:
    from cache.reader import Cache

SOURCES_FILE = "sources.csv"
FLOORS_ROLE = "floors are fitted on these videos themselves, out of fold by source group"


def require_folder(folder: Path) -> None:
    """Raise InputError where the folder holds a head, whose own report would be replaced."""
    if (folder / INFO_FILE).exists():
        raise InputError(
            f"--out {folder} is the folder of a head, and its report would be replaced; give another"
        )


def write_evaluation(
    head: TrainedHead, found: HeadEvaluation, folder: Path, *, cache: Cache, src: Path | None = None
) -> dict[str, Path]:
    """Write everything; returns it by name. src: root of the videos, for pictures of mistakes.

    Raises InputError for the folder of a head, StorageFull or HeadError as `heads.trained.checkpoint.writing`.
    """
    require_folder(folder)
    figures = evaluation_figures(head, found)
    contents = {
        "metrics": (METRICS_FILE, _metrics(head, found)),
        "predictions": (PREDICTIONS_FILE, predictions_csv(head, found)),
        "sources": (SOURCES_FILE, sources_csv(found)),
        **{figure.name: (figure.file, figure.png) for figure in figures},
        "report": (REPORT_FILE, page_html(head, evaluation_page(head, found, figures), cache=cache, src=src)),
    }
    written = {}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, (file, data) in contents.items():
            files.replace(folder / file, data)
            written[name] = folder / file
    return written


def evaluation_page(head: TrainedHead, found: HeadEvaluation, figures: tuple[ReportFigure, ...]) -> Page:
    """What report.html shows of it."""
    return Page(
        title=f"{head.info.config.model.architecture} head evaluated on {found.where}",
        facts=evaluation_facts(head, found),
        tables=[result_rows(found.head, found.floors)],
        notes=found.notes,
        figures=figures,
        part=found.part,
        table=found.table,
    )


def evaluation_facts(head: TrainedHead, found: HeadEvaluation) -> list[tuple[str, str]]:
    """What was scored with what, for terminal and page."""
    info, choice = head.info, head.info.threshold
    m = found.head.metrics
    alarms = "durations are unknown"
    if found.false_alarms_per_hour is not None:
        alarms = f"{found.false_alarms_per_hour:.1f} an hour of {info.label_names[0]} video"
    seen = "not recorded in the head" if found.overlap is None else found.overlap.words()
    return [
        ("cache", f"{found.where}: {m.n:,} labelled videos, {m.n_positive:,} {info.label_names[1]}, "
                  f"{len(found.sources):,} source groups"),
        ("head", f"{info.config.model.architecture}, trained on {info.trained_on['dataset']}"),
        ("seen before", f"{seen}: {PART_ROLES[found.part]}"),
        ("threshold", f"{choice.threshold:.4f}, stored in the head, by {objective_words(info.config.threshold)}"),
        ("false alarms", alarms),
        ("floors", FLOORS_ROLE.removeprefix("floors are ")),
    ]  # fmt: skip


def evaluation_figures(head: TrainedHead, found: HeadEvaluation) -> tuple[ReportFigure, ...]:
    """Confusion matrix, curves and reliability, all on the videos scored."""
    info, table, part = head.info, found.table, found.part
    role = PART_ROLES[part]
    provenance = Provenance(info.weights, info.random_note, f"{role}; {FLOORS_ROLE}")
    here = replace(
        info.threshold,
        f1=found.head.metrics.f1 or 0.0,
        plateau_low=info.threshold.threshold,
        plateau_high=info.threshold.threshold,
    )
    curves = (table.labels, table.probabilities, found.head, found.floors)
    return (
        ReportFigure(
            "confusion matrix",
            "confusion_matrix.png",
            f"Confusion matrix, {part} videos",
            f"Decisions at the stored threshold against labels; {role}.",
            confusion_matrix_png(found.head, label_names=info.label_names, provenance=provenance),
        ),
        ReportFigure(
            "threshold curve",
            "threshold_curve.png",
            f"The stored threshold on {part} videos",
            "F1, precision and recall here over every threshold. Dashed: the stored one, with its interval as it was chosen.",
            threshold_curve_png(
                table.labels,
                table.probabilities,
                here,
                config=info.config.threshold,
                part=f"{part} videos",
                label_names=info.label_names,
                provenance=replace(provenance, role=f"the threshold is the stored one; {role}"),
            ),
        ),
        ReportFigure(
            "PR curve",
            "pr_curve.png",
            f"Precision and recall, {part} videos",
            f"Every cut of the scores, with each floor at its own threshold; {role}.",
            pr_curve_png(*curves, provenance=provenance),
        ),
        ReportFigure(
            "ROC curve",
            "roc_curve.png",
            f"ROC, {part} videos",
            f"Every cut of the scores, with each floor at its own threshold; {role}.",
            roc_curve_png(*curves, provenance=provenance),
        ),
        ReportFigure(
            "reliability",
            "reliability.png",
            f"Reliability, {part} videos",
            f"Share of positives against probability, without and with the stored temperature; {role}.",
            reliability_png(
                table.labels,
                probabilities(table.logits),
                table.probabilities,
                temperature=info.temperature,
                applied=True,
                part=f"{part} videos",
                ece=found.head.intervals["ece"],
                provenance=replace(provenance, role=f"the temperature is the stored one; {role}"),
            ),
        ),
    )


def _metrics(head: TrainedHead, found: HeadEvaluation) -> bytes:
    values = {
        "weights": head.info.weights,
        "random_weights": head.info.random_weights,
        "threshold": head.info.threshold.as_dict(),
        **found.as_dict(),
    }
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def predictions_csv(head: TrainedHead, found: HeadEvaluation) -> bytes:
    """One line a video; seen: the part of the head that the video or its source group is known from, "" for none."""
    table, names = found.table, head.info.label_names
    seen = found.overlap.parts if found.overlap is not None else ("unknown",) * len(table.ids)
    decisions = table.probabilities >= head.info.threshold.threshold
    rows = zip(
        table.ids,
        named(table.labels, names),
        table.groups,
        table.probabilities.tolist(),
        named(decisions, names),
        seen,
        strict=True,
    )
    return csv_bytes(["id", "label", "source", "probability", "decision", "seen"], rows)


def sources_csv(found: HeadEvaluation) -> bytes:
    """One line a source group, worst first."""
    rows = [(s.group, s.n, s.n_positive, s.n_missed, s.n_false_alarms, s.log_loss) for s in found.sources]
    return csv_bytes(["source", "videos", "positive", "missed", "false_alarms", "log_loss"], rows)
