"""The heads of K folds, each trained on everything outside its fold to the last epoch, and their logits of it.

Nothing is chosen on the fold that a head scores: no epoch (the schedule ends where it ends), no strength (the
other folds' held-out log loss chooses it), no temperature of a stream (the other folds' logits do).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from cache.errors import HeadError
from heads.data.dataset import HeadDataset, too_rare_streams
from heads.models.ensemble import HeadEnsemble, count_parameters, is_late
from heads.models.model import HeadModel, ModelConfig, TokenModel
from heads.models.regression import CrossFit, Folds, cross_fit, fit_path, log_losses, mean_logits
from heads.models.statistics import STATISTICS
from heads.models.threads import threads_for
from heads.training.batched import FitJob, heads_together
from heads.training.config import TrainConfig
from heads.training.device import Device, resolve_device
from heads.training.epochs import EpochRow, FitResult
from heads.training.fit import predict_logits
from heads.training.jobs import calibrated_weights, fit_jobs, member_logits, only_row, weighted_sum
from heads.training.logistic import as_head, statistics_blocks

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class FoldHeads:
    """What K folds left. folds: (rest, fold) rows each. results: a head a fold, streams weighed alike in all.

    fold_of: int64 [V], from 1, 0 outside. logits: float64 [V], each video's by the head that never saw it; NaN
    outside. cross_fits: of a logistic head, a block each.
    """

    config: TrainConfig
    folds: Folds
    results: tuple[FitResult, ...]
    fold_of: Int
    logits: Float
    cross_fits: tuple[CrossFit, ...] = ()
    blocks: tuple[Float, ...] = ()

    @property
    def token_statistics(self) -> Float | None:
        """What `heads.scoring.floors.token_statistics` gives, where a logistic head has it already."""
        if not self.blocks or self.config.model.pooling != "mean-std" or self.config.model.delta != "off":
            return None
        return np.concatenate([*self.blocks[0::2], *self.blocks[1::2]], axis=1)

    @property
    def rows(self) -> Int:
        """Rows of all folds, sorted."""
        return np.flatnonzero(self.fold_of)


def fit_fold_heads(
    dataset: HeadDataset,
    config: TrainConfig,
    folds: Folds,
    *,
    device: Device = "auto",
    known: Sequence[FoldHeads] = (),
) -> FoldHeads:
    """Train K heads. known: others of these folds, whose regressions on the same numbers are not fitted again.

    Raises HeadError naming the fold whose loss stops being finite.
    """
    config = replace(config.reading(dataset.streams), selection="last")
    fold_of = np.zeros(len(dataset), dtype=np.int64)
    for number, (_, fold) in enumerate(folds, start=1):
        fold_of[fold] = number
    late = is_late(config.model, dataset.stream_dims)
    if late and (rare := too_rare_streams(dataset, [rest for rest, _ in folds])):
        raise HeadError(f"{next(iter(rare.values()))}; leave it out with --streams")
    if config.model.architecture == "logistic":
        return _logistic(dataset, config, folds, fold_of, known)
    results = _fit(dataset, config, folds, device)
    logits = np.full(len(dataset), np.nan)
    if is_late(config.model, dataset.stream_dims):
        _weigh_streams(dataset, folds, results, logits)
    else:
        for (_, fold), result in zip(folds, results, strict=True):
            logits[fold] = predict_logits(result.model, dataset.tokens, fold)
    return FoldHeads(config, folds, tuple(results), fold_of, logits)


def _logistic(
    dataset: HeadDataset, config: TrainConfig, folds: Folds, fold_of: Int, known: Sequence[FoldHeads]
) -> FoldHeads:
    dims, labels = dataset.stream_dims, dataset.labels
    blocks = _blocks(dataset, config.model, known)
    fitted = {
        id(block): fit
        for heads in known
        if heads.folds is folds
        for block, fit in zip(heads.blocks, heads.cross_fits, strict=True)
    }
    fits = [fitted.get(id(block)) or cross_fit(block, labels, folds) for block in blocks]
    of_fold = list(zip(*(fit.fold_regressions() for fit in fits), strict=True))
    logits = np.full(len(dataset), np.nan)
    results = []
    for (rest, fold), regressions in zip(folds, of_fold, strict=True):
        found = mean_logits(regressions, blocks)
        logits[fold] = found[fold]
        job = FitJob(config, rest, history_rows(labels, rest, fold), None)
        loss = float(log_losses(found[rest], labels[rest]).mean())
        row = only_row(_any_objective(job), loss, found[job.val], labels)
        results.append(FitResult(as_head(config.model, dims, regressions), (row,), 1, 1.0, "fp64"))
    return FoldHeads(config, folds, tuple(results), fold_of, logits, tuple(fits), tuple(blocks))


def _blocks(dataset: HeadDataset, model: ModelConfig, known: Sequence[FoldHeads]) -> Sequence[Float]:
    """The blocks of a logistic head; means or deviations are those of a known head of both."""
    for heads in known:
        other = heads.config.model
        of_both = bool(heads.blocks) and other.pooling == "mean-std"
        if of_both and model.pooling in ("mean", "std") and replace(other, pool=model.pool) == model:
            return heads.blocks[("mean", "std").index(model.pooling) :: 2]
    return statistics_blocks(model, dataset.stream_dims, dataset.tokens)


def _any_objective(job: FitJob) -> FitJob:
    """History needs no objective that asks for durations."""
    return replace(job, config=replace(job.config, threshold=replace(job.config.threshold, objective="f1")))


def history_rows(labels: npt.NDArray[np.int8], rest: Int, fold: Int) -> Int:
    """Rows that a history is scored on: the fold, or one training video of each class where it lacks one."""
    if len(np.unique(labels[fold])) == 2:
        return np.sort(fold)
    return np.sort(np.array([rest[labels[rest] == label][0] for label in (0, 1)]))


def _fit(dataset: HeadDataset, config: TrainConfig, folds: Folds, device: Device) -> list[FitResult]:
    with threads_for(multiplications(dataset, config, config.optim.batch_size), resolve_device(device)):
        return _fit_packs(dataset, config, folds, device)


def multiplications(dataset: HeadDataset, config: TrainConfig, n_videos: float) -> float:
    """Roughly those of training on so many videos once: each parameter with each token (with each video where inputs
    are pooled first), forward and twice backward.
    """
    parameters = count_parameters(config.model, dataset.stream_dims)
    if config.model.pooling in STATISTICS:
        return 3.0 * parameters * n_videos
    tokens = float(dataset.tokens.lengths.double().mean()) / len(dataset.stream_dims)
    return 3.0 * parameters * n_videos * tokens


def _fit_packs(dataset: HeadDataset, config: TrainConfig, folds: Folds, device: Device) -> list[FitResult]:
    size = heads_together(
        batch_size=config.optim.batch_size,
        longest=int(dataset.tokens.lengths.max()),
        n_parameters=count_parameters(config.model, dataset.stream_dims),
    )
    jobs = [
        _any_objective(FitJob(config, np.sort(rest), history_rows(dataset.labels, rest, fold)))
        for rest, fold in folds
    ]
    found: list[FitResult] = []
    for pack in np.array_split(np.arange(len(jobs)), math.ceil(len(jobs) / size)):
        results = fit_jobs(
            dataset.tokens,
            dataset.labels,
            [jobs[place] for place in pack],
            stream_dims=dataset.stream_dims,
            groups=dataset.groups,
            device=resolve_device(device),
        )
        for result in results:
            if isinstance(result, HeadError):
                raise HeadError(f"fold {len(found) + 1} of {len(folds)}: {result}") from result
            found.append(result)
    return found


def _weigh_streams(dataset: HeadDataset, folds: Folds, results: Sequence[FitResult], logits: Float) -> None:
    """Give every fold's streams the weights that all held-out logits ask for; in `logits`, those that the other
    folds' ask for.
    """
    models = [result.model for result in results]
    found = []
    for (_, fold), model in zip(folds, models, strict=True):
        assert isinstance(model, HeadEnsemble)
        found.append(member_logits(model, dataset.tokens, fold))
    labels = [dataset.labels[fold] for _, fold in folds]
    for number, (_, fold) in enumerate(folds):
        others = [i for i in range(len(folds)) if i != number]
        weights = calibrated_weights(
            np.concatenate([found[i] for i in others], axis=1), np.concatenate([labels[i] for i in others])
        )
        logits[fold] = weighted_sum(weights, found[number])
    weights = calibrated_weights(np.concatenate(found, axis=1), np.concatenate(labels))
    for model in models:
        assert isinstance(model, HeadEnsemble)
        model.set_weights(weights.tolist())


def mean_of_folds(dataset: HeadDataset, fold_heads: FoldHeads) -> TokenModel:
    """The mean of the fold heads' logits as one head, in eval mode."""
    config, k = fold_heads.config.model, len(fold_heads.results)
    together = HeadEnsemble(config, dataset.stream_dims, n_folds=k)
    members: list[HeadModel] = []
    weights: list[float] = []
    for result in fold_heads.results:
        model = result.model
        if isinstance(model, HeadEnsemble):
            members += model.heads()
            weights += (model.weights / k).tolist()
        else:
            assert isinstance(model, HeadModel)
            members.append(model)
            weights.append(1.0 / k)
    for own, member in zip(together.heads(), members, strict=True):
        own.load_state_dict(member.state_dict())
    together.set_weights(weights)
    return together.eval()


def refit(dataset: HeadDataset, fold_heads: FoldHeads, *, device: Device = "auto") -> TokenModel:
    """One head trained on all rows of the folds, as the fold heads were; in eval mode."""
    config, rows = fold_heads.config, fold_heads.rows
    if fold_heads.cross_fits:
        regressions = [
            fit_path(block, dataset.labels, rows, [fit.paths[0][fit.best()].strength])[0]
            for fit, block in zip(fold_heads.cross_fits, fold_heads.blocks, strict=True)
        ]
        return as_head(config.model, dataset.stream_dims, regressions)
    val = history_rows(dataset.labels, rows, np.zeros(0, np.int64))  # its history is not kept
    (result,) = fit_jobs(
        dataset.tokens,
        dataset.labels,
        [_any_objective(FitJob(config, rows, val))],
        stream_dims=dataset.stream_dims,
        groups=dataset.groups,
        device=resolve_device(device),
    )
    if isinstance(result, HeadError):
        raise result
    first = fold_heads.results[0].model
    if isinstance(result.model, HeadEnsemble) and isinstance(first, HeadEnsemble):
        with torch.no_grad():
            result.model.weights.copy_(first.weights)
    return result.model


def mean_history(results: Sequence[FitResult]) -> tuple[EpochRow, ...]:
    """Line by line the mean over folds; what is undefined in a fold is left out of its mean."""

    def mean(rows: Sequence[EpochRow], name: str) -> float | None:
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        return float(np.mean(values)) if values else None

    names = ("train_loss", "val_loss", "threshold", "precision", "recall", "f1", "auroc", "average_precision")
    lines = []
    for rows in zip(*(result.history for result in results), strict=True):
        lines.append(
            replace(
                rows[0],
                **{name: mean(rows, name) for name in names},
                degenerate=any(row.degenerate for row in rows),
                seconds=sum(row.seconds for row in rows),
            )
        )
    return tuple(lines)
