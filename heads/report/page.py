"""report.html: one page with everything that a training found, figures and pictures inlined, no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heads.report.curves import objective_words
from heads.report.mistakes import N_MISTAKES, describe_mistakes, mistaken_rows
from heads.report.training_figures import ReportFigure, final_evaluation
from heads.scoring.bootstrap import Interval
from heads.scoring.evaluate import Evaluation
from heads.scoring.thresholds import ThresholdChoice, ThresholdConfig
from heads.trained.head import TrainedHead
from heads.trained.record import PART_ROLES, TrainingRecord
from heads.trained.timeline import MEANING, choose_method
from heads.training.cross_validation import OUT_OF_FOLD

if TYPE_CHECKING:
    from cache.reader import Cache

TEMPLATE = "report.html"
COLUMNS = ("AUROC", "average precision", "F1", "precision", "recall", "accuracy", "Brier", "ECE")


@dataclass(frozen=True, slots=True)
class _Table:
    """One part of the split: its title, and a row the head and one a floor."""

    title: str
    rows: list[tuple[str, list[str]]]


def report_html(
    head: TrainedHead,
    record: TrainingRecord,
    figures: Sequence[ReportFigure],
    *,
    cache: Cache | None = None,
    src: Path | None = None,
) -> bytes:
    """The page. With `cache`, mistakes show their score over time; with `src`, a picture of their video."""
    import jinja2

    info = head.info
    part = final_evaluation(record).part
    rows = mistaken_rows(record.predictions, part, threshold=info.threshold.threshold)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(
        resources.files("heads.report").joinpath("templates", TEMPLATE).read_text("utf-8")
    )
    page = template.render(
        title=f"{info.config.model.architecture} head on {info.trained_on['dataset']}",
        random_weights=info.random_weights,
        weights=info.weights,
        facts=facts(head, record),
        columns=COLUMNS,
        tables=result_tables(record),
        notes=all_notes(head, record),
        figures=[
            {
                "title": figure.title,
                "caption": figure.caption,
                "source": f"data:image/png;base64,{base64.b64encode(figure.png).decode()}",
            }
            for figure in figures
        ],
        part=part,
        role=PART_ROLES[part],
        n_mistakes=len(rows),
        mistakes=describe_mistakes(head, record.predictions, rows[:N_MISTAKES], cache=cache, src=src),
        over_time=cache is not None,
        grid=info.grid,
        meaning=MEANING["sliding"],
        attention=choose_method(head) == "attention",
        threshold=f"{info.threshold.threshold:.4f}",
        config=json.dumps(info.config.as_dict(), indent=2),
        fingerprints=json.dumps({s.name: dict(s.fingerprint) for s in info.streams}, indent=2, default=str),
        versions=", ".join(f"{name} {version}" for name, version in info.versions.items()),
    )
    return page.encode("utf-8", "xmlcharrefreplace")


def facts(head: TrainedHead, record: TrainingRecord) -> list[tuple[str, str]]:
    """What stands at the top of the page: what was trained, on what, and how it decides."""
    info = head.info
    counts = info.trained_on["counts"]
    parts = "; ".join(
        f"{part} " + ", ".join(f"{n:,} {name}" for name, n in of.items()) for part, of in counts.items()
    )
    calibration = record.calibration
    applied = "applied" if info.config.calibration == "temperature" else "not applied"
    chose = record.chosen_on
    scored = (
        f"{chose} chose; test was scored once" if "test" in counts else f"{chose} chose, and there is no test"
    )
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in record.seconds.items())
    return [
        ("data set", f"{info.trained_on['dataset']}, {info.trained_on['n_videos']:,} videos"),
        ("split", f"{info.trained_on['split']}: {parts}"),
        (
            "selection",
            f"{scored}; {epoch_words(head, record)}",
        ),
        ("threshold", _threshold_fact(info.threshold, info.config.threshold, on=chose)),
        *_fold_facts(head, record),
        (
            "temperature",
            f"{calibration.temperature:.3f}, {applied}; log loss on {chose} {calibration.nll_before:.3f} before "
            f"and {calibration.nll_after:.3f} after",
        ),
        (
            "model",
            f"{info.config.model.architecture}, {info.config.model.pooling} pool, {info.n_parameters:,} "
            f"parameters, trained in {info.precision}, seed {info.config.seed}",
        ),
        *_portfolio_facts(head),
        ("inputs", ", ".join(f"{s.name} {s.dim} ({s.weights})" for s in info.streams)),
        ("loss", f"{info.config.loss.kind}, weight of positives {info.pos_weight:.4f}"),
        ("time", seconds),
    ]


def _portfolio_facts(head: TrainedHead) -> list[tuple[str, str]]:
    if not head.info.portfolio:
        return []
    words = [
        f"{row['name']}{' (taken)' * row['taken']} "
        + (
            row["note"]
            or f"AUROC {row['auroc']:.3f}, {row['difference']:.3f} (SE {row['standard_error']:.3f}) behind"
        )
        for row in head.info.portfolio
    ]
    return [("compared out of fold", "; ".join(words))]


def epoch_words(head: TrainedHead, record: TrainingRecord) -> str:
    """Which epoch's weights the head has, and what it is the mean of."""
    info = head.info
    if info.config.model.architecture == "logistic":
        words = "a regression, without epochs"
    elif record.cross_validation is not None:
        words = f"epoch {info.best_epoch}, the last, so that nothing chose it"
    else:
        words = f"best epoch {info.best_epoch} of {len(record.history)} by {info.config.selection}"
    if info.members > 1:
        return f"{words}; the mean of the heads of {info.members} folds"
    return words if record.cross_validation is None else f"{words}; trained on all videos of the folds"


def _threshold_fact(choice: ThresholdChoice, config: ThresholdConfig, *, on: str) -> str:
    interval = "no interval"
    if choice.interval:
        caveat = f" ({choice.interval.caveat()})" if choice.interval.caveat() else ""
        bounds = f"{choice.interval.low:.3f} to {choice.interval.high:.3f}"
        interval = f"95 % interval {bounds} over {choice.interval.n_groups} source groups{caveat}"
    return (
        f"{choice.threshold:.4f} by {objective_words(config)} on {on}; alike from {choice.plateau_low:.4f} to "
        f"{choice.plateau_high:.4f}; {interval}"
    )


def _fold_facts(head: TrainedHead, record: TrainingRecord) -> list[tuple[str, str]]:
    folds = record.cross_validation
    if folds is None:
        return []
    thresholds = ", ".join(f"{fold.threshold:.4f}" for fold in folds.folds)
    return [
        (
            "cross-validation",
            f"{folds.k} folds by source group, {len(folds.table):,} videos; thresholds {thresholds}, each "
            "chosen on the other folds",
        ),
    ]


def all_notes(head: TrainedHead, record: TrainingRecord) -> tuple[str, ...]:
    """Notes on the head."""
    return head.info.notes


def result_tables(record: TrainingRecord) -> list[_Table]:
    """Test first where there is one, then out of fold, then val, then train; floors stand under the head."""
    order = {"test": 0, OUT_OF_FOLD: 1, "val": 2, "train": 3}
    tables = []
    for evaluation in sorted(record.evaluations, key=lambda e: order[e.part]):
        m = evaluation.metrics
        floors = [floor for floor in record.floors if floor.part == evaluation.part]
        tables.append(
            _Table(
                f"{evaluation.part}: {m.n:,} videos, {m.n_positive:,} positive; {PART_ROLES[evaluation.part]}",
                [(row.name, _cells(row)) for row in (evaluation, *floors)],
            )
        )
    return tables


def _cells(evaluation: Evaluation) -> list[str]:
    m: Any = evaluation.metrics
    keys = ("auroc", "average_precision", "f1", "precision", "recall", "accuracy", "brier", "ece")
    return [_cell(getattr(m, key), evaluation.intervals.get(key)) for key in keys]


def _cell(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3f}" + (
        f" ({interval.low:.2f} to {interval.high:.2f}){interval.mark}" if interval else ""
    )
