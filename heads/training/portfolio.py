"""`--model auto`: a few heads compared out of fold on the same folds; the simplest within one standard error of the
best is taken.

Every candidate reads each stream on its own and averages the streams' logits. One that would take too long on this
cache, by the numbers it multiplies and not by the clock, is left out and said so: two runs choose alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.errors import HeadError, LabelError
from heads.data.dataset import HeadDataset
from heads.data.splits import disjoint_folds
from heads.models.ensemble import count_parameters
from heads.models.model import ModelConfig
from heads.models.regression import Folds, log_losses
from heads.scoring.bootstrap import bootstrap_samples
from heads.scoring.cuts import ResampledScores
from heads.scoring.metrics import auroc
from heads.training.config import TrainConfig
from heads.training.device import Device
from heads.training.losses import LossConfig
from heads.training.optim import OptimConfig
from heads.training.out_of_fold import FoldHeads, fit_fold_heads, multiplications

Float = npt.NDArray[np.float64]

MODELS: dict[str, ModelConfig] = {
    "logistic": ModelConfig(architecture="logistic"),
    "logistic on std": ModelConfig(architecture="logistic", pool="std"),
    "logistic on means": ModelConfig(architecture="logistic", pool="mean"),
    "mlp on mean-std": ModelConfig(architecture="mlp", pool="mean-std", depth=0, join="late"),
    "attention-pool with change": ModelConfig(delta="beside", join="late"),
    "transformer with change": ModelConfig(
        architecture="transformer", width=128, delta="beside", join="late"
    ),
}
"""The candidates, the simplest first. `logistic` (on mean and std) and `logistic on means` are the floors statistics
and mean-pooled, read stream by stream: what is taken is no worse than they are, within the standard error."""

EPOCHS = 20
"""Of candidates trained by gradient, where nobody says how many."""

MOST_OPERATIONS = 5e11
"""Multiplications that all folds of one candidate may take: about 20 s on two cores."""

USUAL_FOLDS = 5

N_RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate out of fold. difference: AUROC of the best less its own; standard_error: of that difference, by
    source group. note: why it was not compared, else "".
    """

    name: str
    auroc: float | None
    log_loss: float | None
    difference: float | None
    standard_error: float | None
    n_parameters: int
    best: bool = False
    taken: bool = False
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """rows: in the order of MODELS. config, heads: of the candidate taken."""

    rows: tuple[Row, ...]
    config: TrainConfig
    heads: FoldHeads
    seconds: float


def usual_folds(dataset: HeadDataset, rows: npt.NDArray[np.int64]) -> int:
    """How many folds these rows allow, 2 to 5. Raises LabelError where source groups are too few for two."""
    negative, positive = (
        len({dataset.groups[i] for i in rows if dataset.labels[i] == label}) for label in (0, 1)
    )
    if min(negative, positive) < 2:
        raise LabelError(
            f"{len(rows)} labelled videos come from {negative} source groups with negatives and {positive} with "
            "positives: too few for folds. Give more videos, or let val decide with --no-cv"
        )
    return min(USUAL_FOLDS, negative, positive)


def affordable_folds(
    dataset: HeadDataset, config: TrainConfig, rows: npt.NDArray[np.int64], *, auto: bool
) -> int | None:
    """`usual_folds`; None where a named head would take more than about a minute for them, or groups are too few."""
    if auto:
        return usual_folds(dataset, rows)
    folds = disjoint_folds(dataset.labels, dataset.groups, rows, k=USUAL_FOLDS, seed=config.seed)
    return len(folds) if folds and operations(config, dataset, folds) <= MOST_OPERATIONS else None


def candidates(config: TrainConfig) -> dict[str, TrainConfig]:
    """The whole recipe of each: data, threshold and seed are the given ones, loss and optimiser too for those that are
    trained by gradient.
    """
    found = {}
    for name, model in MODELS.items():
        loss, optim = config.loss, config.optim
        if model.architecture == "logistic":
            loss, optim = LossConfig(), OptimConfig()
        found[name] = replace(config, model=model, loss=loss, optim=optim)
    return found


def operations(config: TrainConfig, dataset: HeadDataset, folds: Folds) -> float:
    """Roughly the multiplications of training all folds over all epochs; none for a regression."""
    if config.model.architecture == "logistic":
        return 0.0
    n_videos = sum(len(rest) for rest, _ in folds)
    return multiplications(dataset, config, n_videos * config.optim.epochs)


def compare(
    dataset: HeadDataset,
    config: TrainConfig,
    folds: Folds,
    *,
    device: Device = "auto",
    on_row: Callable[[str, float], None] | None = None,
) -> Comparison:
    """Train every candidate on the folds ((rest, fold) rows of `dataset`, whose streams are separate) and take one.

    on_row gets a candidate's name and AUROC as it is scored. A candidate whose loss stops being finite is left out.
    Raises HeadError where all are.
    """
    started = time.perf_counter()
    trained: dict[str, FoldHeads] = {}
    notes: dict[str, str] = {}
    recipes = candidates(config)
    for name, own in recipes.items():
        asked = operations(own, dataset, folds)
        if asked > MOST_OPERATIONS:
            notes[name] = f"left out: {asked:.1e} multiplications; --model {own.model.architecture} tries it"
            continue
        try:
            trained[name] = fit_fold_heads(dataset, own, folds, device=device, known=tuple(trained.values()))
        except HeadError as error:
            notes[name] = f"left out: {error}"
            continue
        if on_row is not None:
            heads = trained[name]
            on_row(name, auroc(dataset.labels[heads.rows], heads.logits[heads.rows]) or 0.0)
    if not trained:
        raise HeadError(next(iter(notes.values())).removeprefix("left out: "))
    rows, taken = judge(dataset, recipes, trained, notes)
    return Comparison(tuple(rows), recipes[taken], trained[taken], time.perf_counter() - started)


def judge(
    dataset: HeadDataset,
    recipes: Mapping[str, TrainConfig],
    trained: Mapping[str, FoldHeads],
    notes: Mapping[str, str],
) -> tuple[list[Row], str]:
    """A row a candidate, and the name of the first whose AUROC is within one standard error of the best."""
    names = list(trained)
    rows = trained[names[0]].rows
    labels = dataset.labels[rows]
    logits = [trained[name].logits[rows] for name in names]
    scores = np.array([auroc(labels, one) or 0.0 for one in logits])
    best = int(np.argmax(scores))
    differences = scores[best] - scores
    errors = _standard_errors(labels, logits, best, [dataset.groups[i] for i in rows])
    taken = int(np.flatnonzero(differences <= errors)[0])
    found = []
    for name, own in recipes.items():
        parameters = count_parameters(own.model, dataset.stream_dims)
        if name in notes:
            found.append(Row(name, None, None, None, None, parameters, note=notes[name]))
            continue
        i = names.index(name)
        loss = float(log_losses(logits[i], labels).mean())
        found.append(
            Row(
                name,
                float(scores[i]),
                loss,
                float(differences[i]),
                float(errors[i]),
                parameters,
                best=i == best,
                taken=i == taken,
            )
        )
    return found, names[taken]


def _standard_errors(
    labels: npt.NDArray[np.int8], logits: Sequence[Float], best: int, groups: Sequence[str]
) -> Float:
    """Of the best's AUROC less each one's, by resampling source groups; 0 where it is not defined."""
    resampled = [ResampledScores(labels, one) for one in logits]

    def differences(weights_RV: Float) -> Float:
        each = np.stack([one.auroc(weights_RV) for one in resampled], axis=1)
        found: Float = each[:, [best]] - each
        return found

    samples = bootstrap_samples(groups, differences, n_resamples=N_RESAMPLES)
    defined = samples[~np.isnan(samples).any(axis=1)]
    return defined.std(axis=0) if len(defined) > 1 else np.zeros(len(logits))
