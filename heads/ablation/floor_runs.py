"""The floors of a sweep: what `heads.scoring.floors` fits, on the sweep's split or folds, kept like finished runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cache.fingerprint import fingerprint_digest
from heads.ablation.runs import Run, RunRecord, RunStore, parts_digest
from heads.data.dataset import HeadDataset
from heads.data.splits import Split
from heads.scoring.floors import (
    ALL_POSITIVE,
    floor_names,
    floor_probabilities,
    floor_threshold,
    token_statistics,
)
from heads.training.config import TrainConfig

FLOORS_VERSION = 2
"""Raised when a floor comes to mean another model."""


def floor_records(
    dataset: HeadDataset,
    splits: Sequence[Sequence[Split]],
    base: TrainConfig,
    *,
    store: RunStore,
    folds: bool,
) -> dict[str, list[tuple[int, RunRecord]]]:
    """Every floor's records with the seed's offset of each; thresholds are chosen on val, as the heads' are.

    splits: for each seed one, or one a fold. Seeds that share one split need a floor once.
    """
    runs: dict[str, list[Run]] = {name: [] for name in floor_names(dataset)}
    kept_as = {name: _given_digest(dataset, name) if name in dataset.given_floors else name for name in runs}
    for offset, of_seed in enumerate(splits if folds else splits[:1]):
        for fold, split in enumerate(of_seed):
            digest = parts_digest(dataset, split)
            for name, members in runs.items():
                key = f"floor-{kept_as[name]}-{_digest(dataset, base, digest)}-{'fold' if folds else 'val'}"
                members.append(Run(key, -1, name, base, fold if folds else None, split, offset))
    found, _ = store.read(run for members in runs.values() for run in members)
    pooled: npt.NDArray[np.float64] | None = None
    for together in zip(*runs.values(), strict=True):
        missing = [run for run in together if run.key not in found]
        if missing:
            probabilities = dataset.given_floors
            if any(run.label not in probabilities for run in missing):
                pooled = token_statistics(dataset.tokens) if pooled is None else pooled
                probabilities = floor_probabilities(dataset, missing[0].split.train, pooled=pooled)
            for run in missing:
                found[run.key] = _record(dataset, run, probabilities[run.label], run.label)
                store.write(found[run.key], run)
    return {name: [(run.offset, found[run.key]) for run in members] for name, members in runs.items()}


def _given_digest(dataset: HeadDataset, name: str) -> str:
    """Of the scores themselves: a file that has changed is another floor, whatever it is called."""
    values = np.ascontiguousarray(dataset.given_floors[name]).tobytes()
    return f"given-{hashlib.blake2b(values, digest_size=12).hexdigest()}"


def _digest(dataset: HeadDataset, base: TrainConfig, parts: str) -> str:
    """All that a floor depends on: the features and how they were made, videos and labels by part, the threshold's objective."""
    identity = {
        "floors": FLOORS_VERSION,
        "streams": {stream.name: fingerprint_digest(stream.fingerprint) for stream in dataset.streams},
        "cache": dataset.cache_digest,
        "parts": parts,
        "data": base.as_dict()["data"],
        "threshold": base.as_dict()["threshold"],
    }
    return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=12).hexdigest()


def _record(
    dataset: HeadDataset,
    run: Run,
    probabilities: npt.NDArray[np.float64],
    name: str,
) -> RunRecord:
    return RunRecord(
        key=run.key,
        seed=0,
        fold=run.fold,
        error=None,
        probabilities=tuple(probabilities[run.scored].tolist()),
        threshold=floor_threshold(name, dataset, run.split.val, probabilities, config=run.config.threshold),
        degenerate=name == ALL_POSITIVE,
        temperature=1.0,
        best_epoch=0,
        threshold_by_epoch=(),
        auroc_by_epoch=(),
        train_loss_by_epoch=(),
        pos_weight=1.0,
        precision="fp64",
        n_parameters=0,
        seconds=0.0,
        device="cpu",
    )
