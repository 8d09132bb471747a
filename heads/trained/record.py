"""What a training leaves beside its head, for tables, figures and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heads.data.splits import Split
from heads.scoring.calibration import Calibration
from heads.scoring.evaluate import Evaluation
from heads.training.cross_validation import OUT_OF_FOLD, CrossValidation
from heads.training.fit import EpochRow

Float = npt.NDArray[np.float64]
UNSEEN, SEEN, UNKNOWN = "unseen", "seen", "unknown"
PART_ROLES = {
    "val": "val chose epoch, temperature and threshold, so its scores are optimistic",
    "test": "test was scored once, after everything was chosen",
    OUT_OF_FOLD: "each video was scored by a head that was trained without its fold, and decided by what other folds chose",
    "train": "train, what the head was fitted on",
    UNSEEN: "the head has seen none of these videos, by file and by source group",
    SEEN: "SEEN VIDEOS among them: the head was made with some, so scores are too good",
    UNKNOWN: "it is not known whether the head has seen these videos",
}
"""What each part of a split was used for: said wherever its scores are shown."""


@dataclass(frozen=True, slots=True, eq=False)
class PredictionTable:
    """One row a labelled video of the split, sorted by id: what predictions.csv and every figure are made
    from.

    labels: int8 [M]. splits: the part each video was in. logits, probabilities: float64 [M], probabilities
    after calibration.
    """

    ids: tuple[str, ...]
    labels: npt.NDArray[np.int8]
    splits: tuple[str, ...]
    groups: tuple[str, ...]
    logits: Float
    probabilities: Float

    def rows_of(self, part: str) -> npt.NDArray[np.int64]:
        """Row numbers of one part of the split."""
        return np.flatnonzero(np.array(self.splits) == part)

    def at(self, rows: npt.NDArray[np.int64]) -> PredictionTable:
        """Only these rows, int64 [N]."""
        return PredictionTable(
            ids=tuple(self.ids[row] for row in rows),
            labels=self.labels[rows],
            splits=tuple(self.splits[row] for row in rows),
            groups=tuple(self.groups[row] for row in rows),
            logits=self.logits[rows],
            probabilities=self.probabilities[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRecord:
    """What a training leaves for tables, figures and reports; not part of the checkpoint.

    evaluations: the head on what chose (val, or out of fold), test (where there is one) and train, in this order.
    floors: the same parts but train. seconds: wall time by step. cross_validation: what folds decided, else None; the
    history is then their mean, and predictions are theirs.
    """

    split: Split
    history: tuple[EpochRow, ...]
    predictions: PredictionTable
    evaluations: tuple[Evaluation, ...]
    floors: tuple[Evaluation, ...]
    calibration: Calibration
    seconds: Mapping[str, float]
    cross_validation: CrossValidation | None = None

    @property
    def chosen_on(self) -> str:
        """The part that chose temperature and threshold."""
        return OUT_OF_FOLD if self.split.out_of_fold else "val"
