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
from heads.trained.evaluation import source_scores
from heads.trained.head import TrainedHead
from heads.trained.record import PART_ROLES, PredictionTable, TrainingRecord
from heads.trained.timeline import MEANING, pools_by_attention
from heads.training.cross_validation import OUT_OF_FOLD

if TYPE_CHECKING:
    from cache.reader import Cache

TEMPLATE = "report.html"
MOST_SOURCES = 15
"""Source groups that a page lists, the worst first."""

COLUMNS = ("AUROC", "average precision", "F1", "precision", "recall", "accuracy", "Brier", "ECE")


@dataclass(frozen=True, slots=True)
class ResultTable:
    """One part of the split: its title, and a row the head and one a floor."""

    title: str
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """What a page shows. part: whose mistakes and sources; table: the predictions that hold it."""

    title: str
    facts: list[tuple[str, str]]
    tables: list[ResultTable]
    notes: tuple[str, ...]
    figures: Sequence[ReportFigure]
    part: str
    table: PredictionTable


def report_html(
    head: TrainedHead,
    record: TrainingRecord,
    figures: Sequence[ReportFigure],
    *,
    cache: Cache | None = None,
    src: Path | None = None,
) -> bytes:
    """The page of a training. With `cache`, mistakes show their score over time; with `src`, a picture of their video."""
    page = Page(
        title=f"{head.info.config.model.architecture} head on {head.info.trained_on['dataset']}",
        facts=facts(head, record),
        tables=result_tables(record),
        notes=all_notes(head, record),
        figures=figures,
        part=final_evaluation(record).part,
        table=record.predictions,
    )
    return page_html(head, page, cache=cache, src=src)


def page_html(head: TrainedHead, page: Page, *, cache: Cache | None = None, src: Path | None = None) -> bytes:
    """One page, figures and pictures inlined. With `cache`, mistakes show their score over time; with `src`, a picture."""
    import jinja2

    info = head.info
    threshold = info.threshold.threshold
    rows = mistaken_rows(page.table, page.part, threshold=threshold)
    own = page.table.rows_of(page.part)
    sources = source_scores(page.table.at(own), threshold)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(
        resources.files("heads.report").joinpath("templates", TEMPLATE).read_text("utf-8")
    )
    html = template.render(
        title=page.title,
        random_weights=info.random_weights,
        weights=info.weights,
        facts=page.facts,
        columns=COLUMNS,
        tables=page.tables,
        notes=page.notes,
        figures=[
            {
                "title": figure.title,
                "caption": figure.caption,
                "source": f"data:image/png;base64,{base64.b64encode(figure.png).decode()}",
            }
            for figure in page.figures
        ],
        part=page.part,
        role=PART_ROLES[page.part],
        sources=sources[:MOST_SOURCES],
        n_sources=len(sources),
        label_names=info.label_names,
        n_mistakes=len(rows),
        mistakes=describe_mistakes(head, page.table, rows[:N_MISTAKES], cache=cache, src=src),
        over_time=cache is not None,
        grid=info.grid,
        meaning=MEANING["sliding"],
        attention=pools_by_attention(head),
        threshold=f"{threshold:.4f}",
        config=json.dumps(info.config.as_dict(), indent=2),
        fingerprints=json.dumps({s.name: dict(s.fingerprint) for s in info.streams}, indent=2, default=str),
        versions=", ".join(f"{name} {version}" for name, version in info.versions.items()),
    )
    return html.encode("utf-8", "xmlcharrefreplace")


def facts(head: TrainedHead, record: TrainingRecord) -> list[tuple[str, str]]:
    """What stands at the top of the page: what was trained, on what, and how it decides."""
    info = head.info
    counts = info.trained_on["counts"]
    parts = "; ".join(
        f"{part} " + ", ".join(f"{n:,} {name}" for name, n in of.items()) for part, of in counts.items()
    )
    ignored = ", the cache's own splits ignored" if info.config.data.ignore_splits else ""
    calibration = record.calibration
    applied = "applied" if info.config.calibration == "temperature" else "not applied"
    chose = record.chosen_on
    scored = (
        f"{chose} chose; test was scored once" if "test" in counts else f"{chose} chose, and there is no test"
    )
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in record.seconds.items())
    return [
        ("data set", f"{info.trained_on['dataset']}, {info.trained_on['n_videos']:,} videos"),
        ("split", f"{info.trained_on['split']}{ignored}: {parts}"),
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
        f"{choice.threshold:.4f} by {objective_words(config)} on {on}; any from {choice.plateau_low:.4f} to "
        f"{choice.plateau_high:.4f} decides the same; {interval}"
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


def result_tables(record: TrainingRecord) -> list[ResultTable]:
    """Test first where there is one, then out of fold, then val, then train; floors stand under the head."""
    order = {"test": 0, OUT_OF_FOLD: 1, "val": 2, "train": 3}
    tables = []
    for evaluation in sorted(record.evaluations, key=lambda e: order[e.part]):
        floors = [floor for floor in record.floors if floor.part == evaluation.part]
        tables.append(result_rows(evaluation, floors))
    return tables


def result_rows(head: Evaluation, floors: Sequence[Evaluation]) -> ResultTable:
    """The head above its floors."""
    m = head.metrics
    return ResultTable(
        f"{head.part}: {m.n:,} videos, {m.n_positive:,} positive; {PART_ROLES[head.part]}",
        [(row.name, _cells(row)) for row in (head, *floors)],
    )


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
