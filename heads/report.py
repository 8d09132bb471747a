"""report.html: one page with everything that a training found, figures and pictures inlined, no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heads.bootstrap import Interval
from heads.evaluate import Evaluation
from heads.figures_curves import objective_words
from heads.report_figures import ReportFigure, final_evaluation
from heads.report_mistakes import N_MISTAKES, describe_mistakes, mistaken_rows
from heads.timeline import MEANING, choose_method
from heads.train import PART_ROLES, TrainingRecord
from heads.trained import TrainedHead

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
        resources.files("heads").joinpath("templates", TEMPLATE).read_text("utf-8")
    )
    page = template.render(
        title=f"{info.config.model.architecture} head on {info.trained_on['dataset']}",
        random_weights=info.random_weights,
        weights=info.weights,
        facts=facts(head, record),
        columns=COLUMNS,
        tables=result_tables(record),
        notes=info.notes,
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
    choice = info.threshold
    interval = f"; 95 % interval {choice.interval}" if choice.interval else "; no interval"
    if choice.interval:
        rough = ", so few that it is rough" if choice.interval.rough else ""
        interval += f" over {choice.interval.n_groups} source groups{rough}"
    counts = info.trained_on["counts"]
    parts = "; ".join(
        f"{part} " + ", ".join(f"{n:,} {name}" for name, n in of.items()) for part, of in counts.items()
    )
    calibration = record.calibration
    applied = "applied" if info.config.calibration == "temperature" else "not applied"
    scored = "val chose; test was scored once" if "test" in counts else "val chose, and there is no test"
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in record.seconds.items())
    return [
        ("data set", f"{info.trained_on['dataset']}, {info.trained_on['n_videos']:,} videos"),
        ("split", f"{info.trained_on['split']}: {parts}"),
        (
            "selection",
            f"{scored}; best epoch {info.best_epoch} of {len(record.history)} by {info.config.selection}",
        ),
        (
            "threshold",
            f"{choice.threshold:.4f} by {objective_words(info.config.threshold)} on val; alike from "
            f"{choice.plateau_low:.4f} to {choice.plateau_high:.4f}{interval}",
        ),
        (
            "temperature",
            f"{calibration.temperature:.3f}, {applied}; log loss on val {calibration.nll_before:.3f} before "
            f"and {calibration.nll_after:.3f} after",
        ),
        (
            "model",
            f"{info.config.model.architecture}, {info.config.model.pooling} pool, {info.n_parameters:,} "
            f"parameters, trained in {info.precision}, seed {info.config.seed}",
        ),
        ("inputs", ", ".join(f"{s.name} {s.dim} ({s.weights})" for s in info.streams)),
        ("loss", f"{info.config.loss.kind}, weight of positives {info.pos_weight:.4f}"),
        ("time", seconds),
    ]


def result_tables(record: TrainingRecord) -> list[_Table]:
    """Test first where there is one, then val, then train; floors stand under the head."""
    order = {"test": 0, "val": 1, "train": 2}
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
    return f"{value:.3f}" + (f" ({interval.low:.2f} to {interval.high:.2f})" if interval else "")
