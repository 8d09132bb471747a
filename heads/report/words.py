"""What is said of a trained head, worded once: terminal, report.html and TensorBoard show these facts and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from heads.report.curves import objective_words
from heads.scoring.bootstrap import Interval
from heads.scoring.evaluate import Evaluation
from heads.trained.head import TrainedHead
from heads.trained.record import PART_ROLES, TrainingRecord

RESULT_COLUMNS = (
    ("AUROC", "auroc"),
    ("average precision", "average_precision"),
    ("F1", "f1"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("accuracy", "accuracy"),
    ("Brier", "brier"),
    ("ECE", "ece"),
)
"""Of every table with a row the head and one a floor: what a column is called, and the metric in it."""

Facts = list[tuple[str, str]]
Layout = Literal["wide", "stacked", "short"]
LAYOUTS: tuple[Layout, ...] = ("wide", "stacked", "short")
"""Of tables: intervals beside their numbers; below them; below them and only the columns that matter most."""
SHORT_COLUMNS = 5


def data_facts(head: TrainedHead) -> Facts:
    """What it was trained on."""
    info = head.info
    parts = "; ".join(
        f"{part} " + ", ".join(f"{n:,} {name}" for name, n in of.items())
        for part, of in info.trained_on["counts"].items()
    )
    ignored = ", the cache's own splits ignored" if info.config.data.ignore_splits else ""
    return [
        ("data set", f"{info.trained_on['dataset']}, {info.trained_on['n_videos']:,} videos"),
        ("split", f"{info.trained_on['split']}{ignored}: {parts}"),
        ("inputs", ", ".join(f"{s.name} {s.dim} ({s.weights})" for s in info.streams)),
        ("loss", f"{info.config.loss.kind}, weight of positives {info.pos_weight:.4f}"),
    ]


def result_facts(head: TrainedHead, record: TrainingRecord) -> Facts:
    """What chose what, how it decides, and how far its own videos flatter it."""
    info, calibration, folds = head.info, record.calibration, record.cross_validation
    chose = record.chosen_on
    has_test = bool(len(record.split.test))
    scored = "test was scored once" if has_test else "and there is no test"
    if folds is None and not has_test:
        scored += "; --cv K scores every video by heads that never saw it"
    applied = "applied" if info.config.calibration == "temperature" else "not applied"
    compared = sum(not row["note"] for row in info.portfolio)
    among = (
        f" (the model too, of {compared}: that makes its scores a little too good)" if compared > 1 else ""
    )
    heads = f" in {info.members} heads" if info.members > 1 else ""
    facts = [
        (
            "selection",
            f"{chose} chose{among}{';' if has_test else ','} {scored}; {epoch_words(head, record)}",
        ),
        ("threshold", threshold_words(head, on=chose)),
    ]
    if folds is not None:
        thresholds = ", ".join(f"{fold.threshold:.4f}" for fold in folds.folds)
        facts.append(
            (
                "cross-validation",
                f"{folds.k} folds, {len(folds.table):,} videos; thresholds that decided them, each "
                f"chosen on the others: {thresholds}",
            )
        )
    facts += [
        (
            "temperature",
            f"{calibration.temperature:.3f}, {applied}; on {chose}, log loss {calibration.nll_before:.3f} before "
            f"and {calibration.nll_after:.3f} after, ECE {calibration.ece_before:.3f} and {calibration.ece_after:.3f}",
        ),
        (
            "model",
            f"{info.config.model.architecture}, {info.config.model.pooling} pool, {info.n_parameters:,} "
            f"parameters{heads}, trained in {info.precision}, seed {info.config.seed}",
        ),
    ]
    if folds is not None:
        within = with_interval(folds.within_folds.auroc, folds.within_folds.interval)
        pooled = number(folds.head.metrics.auroc)
        facts.append(
            (
                "within folds",
                f"AUROC {within} over pairs of one fold, which compare no two heads; pooled over all folds {pooled}",
            )
        )
    train = next(e.metrics for e in record.evaluations if e.part == "train")
    facts.append(
        ("on train", f"AUROC {number(train.auroc)}, F1 {number(train.f1)}: what the head was fitted on")
    )
    return facts


def time_facts(record: TrainingRecord) -> Facts:
    """Wall time by step."""
    return [("time", ", ".join(f"{name} {value:.1f} s" for name, value in record.seconds.items()))]


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


def threshold_words(head: TrainedHead, *, on: str) -> str:
    """The threshold, what it is best in, and how sure that is."""
    choice, config = head.info.threshold, head.info.config.threshold
    interval = "no interval"
    if choice.interval:
        caveat = f" ({choice.interval.caveat()})" if choice.interval.caveat() else ""
        bounds = f"{choice.interval.low:.3f} to {choice.interval.high:.3f}"
        interval = f"95 % interval {bounds} over {choice.interval.n_groups} source groups{caveat}"
    return (
        f"{choice.threshold:.4f} by {objective_words(config)} on {on}; any from {choice.plateau_low:.4f} to "
        f"{choice.plateau_high:.4f} decides the same; {interval}"
    )


def portfolio_rows(head: TrainedHead) -> list[tuple[str, ...]]:
    """What auto compared: a row a candidate, as PORTFOLIO_COLUMNS."""
    rows = []
    for row in head.info.portfolio:
        mark = ", ".join(word for word in ("best", "taken") if row[word]) or row["note"]
        numbers = (row["auroc"], row["difference"], row["standard_error"], row["log_loss"])
        rows.append((row["name"], *map(number, numbers), f"{row['n_parameters']:,}", mark))
    return rows


PORTFOLIO_COLUMNS = ("", "AUROC", "behind the best", "SE", "log loss", "parameters", "")
PORTFOLIO_TITLE = (
    "models compared out of fold; taken: the first within one standard error (SE) of the best AUROC"
)


def result_title(head: Evaluation) -> str:
    """Above such a table: which videos, how many, and what they were used for."""
    m = head.metrics
    return f"{head.part}: {m.n:,} videos, {m.n_positive:,} positive; {PART_ROLES[head.part]}"


def result_cells(row: Evaluation, *, layout: Layout = "wide") -> list[str]:
    """One cell a column of RESULT_COLUMNS, or of the first ones in the short layout."""
    columns = RESULT_COLUMNS[: SHORT_COLUMNS if layout == "short" else None]
    return [
        with_interval(getattr(row.metrics, key), row.intervals.get(key), layout=layout) for _, key in columns
    ]


def number(value: float | None) -> str:
    """Three digits, or - where it is undefined."""
    return "-" if value is None else f"{value:.3f}"


def with_interval(value: float | None, interval: Interval | None, *, layout: Layout = "wide") -> str:
    """A number with its interval beside it, or below it; ~ marks a rough one."""
    if value is None or interval is None:
        return number(value)
    between = " " if layout == "wide" else "\n"
    return f"{value:.3f}{between}[{interval.low:.2f}, {interval.high:.2f}]{interval.mark}"


def lines(facts: Sequence[tuple[str, str]]) -> list[str]:
    """Facts as lines of plain text, names in a column."""
    width = max(len(name) for name, _ in facts)
    return [f"{name:<{width}}  {value}" for name, value in facts]
