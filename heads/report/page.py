"""report.html: one page with everything that a training found, figures and pictures inlined, no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from heads.report import words
from heads.report.mistakes import N_MISTAKES, describe_mistakes, mistaken_rows
from heads.report.training_figures import ReportFigure, final_evaluation
from heads.scoring.evaluate import Evaluation
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


@dataclass(frozen=True, slots=True)
class ResultTable:
    """One part of the split: its title, and a row the head and one a floor."""

    title: str
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """What a page shows. part: whose mistakes and sources; table: the predictions that hold it."""

    title: str
    facts: words.Facts
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
        notes=head.info.notes,
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
        random_note=info.random_note,
        weights=info.weights,
        facts=page.facts,
        columns=[name for name, _ in words.RESULT_COLUMNS],
        tables=page.tables,
        notes=page.notes,
        portfolio=words.portfolio_rows(head),
        portfolio_columns=words.PORTFOLIO_COLUMNS,
        portfolio_title=words.PORTFOLIO_TITLE,
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


def facts(head: TrainedHead, record: TrainingRecord) -> words.Facts:
    """What stands at the top of the page: what was trained, on what, and how it decides."""
    return [*words.data_facts(head), *words.result_facts(head, record), *words.time_facts(record)]


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
    return ResultTable(
        words.result_title(head), [(row.name, words.result_cells(row)) for row in (head, *floors)]
    )
