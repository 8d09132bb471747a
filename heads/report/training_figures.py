"""The figures of one training, each with its file name and a caption that names the split it is on."""

from __future__ import annotations

from dataclasses import dataclass

from heads.report.curves import pr_curve_png, roc_curve_png, threshold_curve_png
from heads.report.figures import Provenance, confusion_matrix_png
from heads.report.history import history_png, reliability_png
from heads.scoring.calibration import probabilities
from heads.scoring.evaluate import Evaluation
from heads.trained.head import TrainedHead
from heads.trained.record import PART_ROLES, TrainingRecord

FIGURE_FILES = (
    *("confusion_matrix.png", "threshold_curve.png", "pr_curve.png", "roc_curve.png", "reliability.png"),
    "history.png",
)
"""What `training_figures` may draw."""


@dataclass(frozen=True, slots=True, eq=False)
class ReportFigure:
    """One PNG: its name, its file, its title and what it shows."""

    name: str
    file: str
    title: str
    caption: str
    png: bytes


def final_evaluation(record: TrainingRecord) -> Evaluation:
    """The head on test where there is one, else on what chose: val, or out of fold."""
    return next((e for e in record.evaluations if e.part == "test"), record.evaluations[0])


def training_figures(head: TrainedHead, record: TrainingRecord) -> tuple[ReportFigure, ...]:
    """All figures; those of the result are on test where there is one, else on val."""
    final = final_evaluation(record)
    part = final.part
    floors = [floor for floor in record.floors if floor.part == part]
    table = record.predictions
    chose = record.chosen_on
    rows, val = table.rows_of(part), table.rows_of(chose)
    labels, scores, logits = table.labels[rows], table.probabilities[rows], table.logits[rows]
    info = head.info

    def provenance(role: str) -> Provenance:
        return Provenance(info.weights, info.random_note, role)

    result = provenance(PART_ROLES[part])
    temperature = record.calibration.temperature
    fitted = f"the temperature was fitted on {chose} scores" + (
        ", on these same videos" if part == chose else ""
    )
    out_of_fold = record.cross_validation is not None
    history_on = "the held-out fold, mean of the folds" if out_of_fold else "val"
    drawn = [
        (
            "confusion matrix",
            "confusion_matrix.png",
            f"Confusion matrix, {part}",
            f"Decisions against labels on {part}; {PART_ROLES[part]}.",
            confusion_matrix_png(final, label_names=info.label_names, provenance=result),
        ),
        (
            "threshold curve",
            "threshold_curve.png",
            f"Threshold, {chose}",
            f"F1, precision and recall on {chose} over every threshold. Grey: the threshold's bootstrap interval "
            f"by source group.{'' if out_of_fold else ' The weights of the epoch were chosen on val as well.'}",
            threshold_curve_png(
                table.labels[val],
                table.probabilities[val],
                info.threshold,
                config=info.config.threshold,
                part=chose,
                label_names=info.label_names,
                provenance=provenance(f"{chose} scores chose this threshold"),
            ),
        ),
        (
            "PR curve",
            "pr_curve.png",
            f"Precision and recall, {part}",
            f"Every cut of the scores on {part}, with each floor at its own threshold; {PART_ROLES[part]}.",
            pr_curve_png(labels, scores, final, floors, provenance=result),
        ),
        (
            "ROC curve",
            "roc_curve.png",
            f"ROC, {part}",
            f"Every cut of the scores on {part}, with each floor at its own threshold; {PART_ROLES[part]}.",
            roc_curve_png(labels, scores, final, floors, provenance=result),
        ),
        (
            "reliability",
            "reliability.png",
            f"Reliability, {part}",
            f"Share of positives against probability on {part}, before and after temperature scaling; {fitted}.",
            reliability_png(
                labels,
                probabilities(logits),
                probabilities(logits, temperature=temperature),
                temperature=temperature,
                applied=info.config.calibration == "temperature",
                part=part,
                ece=final.intervals["ece"],
                provenance=provenance(fitted),
            ),
        ),
        (
            "loss by epoch",
            "history.png",
            "Training, train and held out",
            f"Loss on train and on {history_on} by epoch; each epoch's best threshold, with F1 and AUROC, on {history_on}.",
            history_png(
                record.history,
                best_epoch=info.best_epoch,
                provenance=provenance(
                    "the last epoch is kept"
                    if out_of_fold
                    else f"val chose the epoch, by {info.config.selection}"
                ),
            ),
        ),
    ]
    return tuple(ReportFigure(*fields) for fields in drawn)
