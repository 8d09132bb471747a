"""The threshold of a trained head chosen again, for another objective, on the videos that may choose it.

Only the selection split may: val of the cache that the head was trained on, or videos that the head has not seen,
by file and by source group (`heads.trained.seen`), whatever cache they come in. train was fitted on, and test is scored once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from cache.errors import InputError, LabelError
from heads.data.dataset import HeadDataset
from heads.data.splits import Split, choose_split, labelled_rows
from heads.scoring.bootstrap import INTERVALS_ON, interval_notes
from heads.scoring.evaluate import Evaluation, evaluate
from heads.scoring.floors import NOT_BEATEN, beaten_notes, evaluate_floors
from heads.scoring.metrics import Labels, Metrics, Probabilities, compute_metrics
from heads.scoring.thresholds import ThresholdChoice, ThresholdConfig, choose_on_rows, lipton_warning
from heads.trained.evaluation import scored_dataset
from heads.trained.head import HeadInfo, TrainedHead
from heads.trained.seen import CHOSEN, NOT_RECORDED, SeenVideos, require_unseen

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache

Part = Literal["val", "all"]
CHOSEN_AGAIN = "the threshold was chosen again"
OF_A_THRESHOLD = (CHOSEN_AGAIN, NOT_BEATEN, INTERVALS_ON, "after temperature scaling the best threshold")
"""How notes begin that were true of an earlier threshold only."""


@dataclass(frozen=True, slots=True, eq=False)
class SelectionScores:
    """The head's scores on the videos that choose.

    labels: int8 [V]; probabilities, seconds: float64 [V]; groups: [V]. part: "val" or "all". origin: where
    they come from, in words. split: of the training cache, None for another one. calibrated: whether
    probabilities are temperature scaled. notes: what the user must know.
    """

    labels: Labels
    probabilities: Probabilities
    seconds: npt.NDArray[np.float64]
    groups: tuple[str, ...]
    part: Part
    origin: str
    dataset: HeadDataset
    rows: npt.NDArray[np.int64]
    split: Split | None
    calibrated: bool
    notes: tuple[str, ...]

    @property
    def negative_hours(self) -> float | None:
        """Hours of negative video; None when durations are unknown."""
        return self.dataset.negative_hours(self.rows)


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """What one threshold does on the selection videos; false alarms are None where durations are unknown."""

    metrics: Metrics
    false_alarms_per_hour: float | None


def selection_scores(
    head: TrainedHead,
    cache: Cache,
    *,
    part: Part = "val",
    labels: LabelJoin | None = None,
    ignore_libraries: bool = False,
) -> SelectionScores:
    """Score the videos that may choose a threshold.

    Raises InputError where `part` would take videos that may not choose, or does not exist,
    LabelError where both classes are not there, HeadError or FingerprintMismatch for a cache that does not
    fit.
    """
    info = head.info
    dataset = scored_dataset(head, cache, labels=labels, ignore_libraries=ignore_libraries)
    where = ", ".join(cache.names)
    notes = dataset.copy_notes
    split = None
    seen = SeenVideos.of_head(info)
    own_cache = dataset.cache_digest == info.trained_on["cache_digest"]
    val_chose = info.trained_on["chosen_on"] == "val"
    if own_cache and _may_have_seen(seen, dataset):
        if not val_chose:
            raise InputError(
                f"{where} is what the head was trained on, all of it outside test, and folds chose its threshold: no "
                "video of it may choose another. Give a cache that the head has not seen, or train with --objective"
            )
        if part == "all":
            raise InputError(
                f"{where} is what the head was trained on: only its val videos may choose a threshold"
            )
    if own_cache and val_chose and part == "val":
        split = choose_split(
            dataset.labels,
            dataset.splits,
            dataset.groups,
            val_share=info.config.data.val_share,
            seed=info.config.seed,
            n_without=dataset.n_without,
        )
        rows, origin = split.val, f"val of the training cache, {split.origin}"
        notes += (*split.notes, *_changed_labels(info, dataset, split))
    else:
        known, _ = labelled_rows(dataset.labels)
        unlike = "without its videos" if own_cache else "not the cache that the head was trained on"
        origin = f"{part} of {dataset.cache_name}, {unlike}"
        rows = known if part == "all" else known[np.array([dataset.splits[i] for i in known]) == "val"]
        if part == "val" and seen is not None:
            own_val = known[np.array(seen.overlap(dataset, known).same_file) == "val"]
            if len(own_val):
                rows = own_val
                origin = f"the head's own val videos in {dataset.cache_name}, which is not quite its training cache"
        if len(rows) == 0:
            raise InputError(
                f"{where} is not the cache that the head was trained on and has no labelled val videos; "
                "pass --part all to choose on all of its labelled videos"
            )
        if seen is None:
            notes += (f"chosen on another cache than the head was trained on; {NOT_RECORDED}",)
    if seen is not None:
        overlap = seen.overlap(dataset, rows)
        if part == "all":
            require_unseen(
                overlap,
                where=where,
                instead="choose on its val videos (--part val), or on videos of other recordings",
            )
        elif (n := int(overlap.not_for_choosing.sum())) > 0:
            todo = "give the splits of its training, or videos of other recordings"
            if split is not None:
                todo = f"{todo}; copies across its splits (onepass audit names them) are taken out before the training"
            raise InputError(
                f"{where}: {n} of the {len(rows)} val videos here were train or test of the head, or share a source "
                f"group with those ({overlap.words()}); {todo}"
            )
    if len(np.unique(dataset.labels[rows])) < 2:
        raise LabelError(f"the {len(rows)} videos that would choose hold a single class; both are needed")
    return SelectionScores(
        labels=dataset.labels[rows],
        probabilities=head.probabilities(head.logits(dataset.tokens, rows)),
        seconds=dataset.durations[rows],
        groups=tuple(dataset.groups[i] for i in rows),
        part=part,
        origin=origin,
        dataset=dataset,
        rows=rows,
        split=split,
        calibrated=info.config.calibration == "temperature",
        notes=notes,
    )


def _may_have_seen(seen: SeenVideos | None, dataset: HeadDataset) -> bool:
    """Whether the head has seen any labelled video, or cannot tell. Of its own cache others may have the labels now."""
    known, _ = labelled_rows(dataset.labels)
    return seen is None or bool(seen.overlap(dataset, known).seen.any())


def _changed_labels(info: HeadInfo, dataset: HeadDataset, split: Split) -> tuple[str, ...]:
    counts = {dataset.label_names[label]: int((dataset.labels[split.val] == label).sum()) for label in (0, 1)}
    before = info.trained_on["counts"].get("val")
    if counts == before:
        return ()
    return (
        f"labels or splits have changed since training: val holds {counts} now, {before} then; val videos may "
        "have been trained on",
    )


def choose_again(
    scores: SelectionScores, config: ThresholdConfig, *, n_resamples: int = 1000, seed: int = 0
) -> ThresholdChoice:
    """The best threshold for `config` on these videos, with its bootstrap interval by source group."""
    choice = choose_on_rows(
        scores.dataset, scores.rows, scores.probabilities, config=config, n_resamples=n_resamples, seed=seed
    )
    if scores.calibrated and config.objective == "f1" and config.grid == "exact" and not choice.degenerate:
        warning = lipton_warning(choice.threshold, choice.f1, interval=choice.interval)
        if warning:
            choice = replace(choice, warnings=(*choice.warnings, warning))
    return choice


def at_threshold(scores: SelectionScores, threshold: float) -> AtThreshold:
    """Metrics, and flagged negatives an hour of negative video."""
    metrics = compute_metrics(scores.labels, scores.probabilities, threshold=threshold)
    hours = scores.negative_hours
    return AtThreshold(metrics, None if hours is None else metrics.false_positives / hours)


def with_threshold(
    head: TrainedHead,
    scores: SelectionScores,
    choice: ThresholdChoice,
    config: ThresholdConfig,
    *,
    n_resamples: int = 0,
) -> TrainedHead:
    """The same head deciding at another threshold. What it was goes to `threshold_history`.

    Metrics and floors are those of the selection videos at the new threshold; test is not scored again.
    """
    info = head.info
    evaluation = evaluate(
        "head",
        scores.part,
        scores.labels,
        scores.probabilities,
        threshold=choice.threshold,
        groups=scores.groups,
        n_resamples=n_resamples,
        seed=info.config.seed,
    )
    floors: tuple[Evaluation, ...] = ()
    if scores.split is not None:
        selection_only = replace(scores.split, test=scores.split.test[:0])
        floors = evaluate_floors(
            scores.dataset, selection_only, config=config, n_resamples=n_resamples, seed=info.config.seed
        )
    before = {
        "threshold": asdict(info.threshold),
        "config": asdict(info.config.threshold),
        "metrics": dict(info.metrics),
        "floors": dict(info.floors),
        "notes": list(info.notes),
        "replaced_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    lasting = [
        note
        for note in info.notes
        if note not in info.threshold.warnings and not note.startswith(OF_A_THRESHOLD)
    ]
    notes = (*lasting, f"{CHOSEN_AGAIN} on {scores.origin}; other parts were not scored with it")
    seen = SeenVideos.of_head(info)
    trained_on = dict(info.trained_on)
    if seen is not None and scores.split is None:
        chose = SeenVideos.of(scores.dataset, {CHOSEN: scores.rows})
        trained_on["videos"] = seen.with_part(CHOSEN, chose).as_dict()
    new = replace(
        info,
        trained_on=trained_on,
        config=replace(info.config, threshold=config),
        threshold=choice,
        metrics={scores.part: _metrics(evaluation)},
        floors={f"{floor.name} on {floor.part}": _metrics(floor) for floor in floors},
        notes=(
            *notes,
            *scores.notes,
            *choice.warnings,
            *(
                interval_notes(scores.part, (*evaluation.intervals.values(), choice.interval))
                * bool(n_resamples)
            ),
            *beaten_notes(evaluation, floors),
        ),
        threshold_history=(*info.threshold_history, before),
    )
    return replace(head, info=new)


def _metrics(evaluation: Evaluation) -> dict[str, object]:
    values = evaluation.as_dict()
    return {**values["metrics"], "intervals": values["intervals"]}
