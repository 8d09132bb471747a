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
from heads.scoring.floors import ALL_POSITIVE, FLOORS, floor_probabilities, floor_threshold, token_statistics
from heads.training.config import TrainConfig

FLOORS_VERSION = 2
"""Raised when a floor comes to mean another model."""


def floor_records(
    dataset: HeadDataset, splits: Sequence[Split], base: TrainConfig, *, store: RunStore, folds: bool
) -> dict[str, list[RunRecord]]:
    """Every floor's records, one a split; thresholds are chosen on val, as the heads' are."""
    runs: dict[str, list[Run]] = {name: [] for name in FLOORS}
    for fold, split in enumerate(splits):
        digest = parts_digest(dataset, split)
        for name in FLOORS:
            key = f"floor-{name}-{_digest(dataset, base, digest)}-{'fold' if folds else 'val'}"
            runs[name].append(Run(key, -1, name, base, fold if folds else None, split))
    found, _ = store.read(run for members in runs.values() for run in members)
    pooled: npt.NDArray[np.float64] | None = None
    for place, split in enumerate(splits):
        missing = [name for name in FLOORS if runs[name][place].key not in found]
        if missing:
            pooled = token_statistics(dataset.tokens) if pooled is None else pooled
            probabilities = floor_probabilities(dataset, split.train, pooled=pooled)
            for name in missing:
                run = runs[name][place]
                found[run.key] = _record(dataset, run, probabilities[name], name)
                store.write(found[run.key], run)
    return {name: [found[run.key] for run in members] for name, members in runs.items()}


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
