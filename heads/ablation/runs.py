"""The trainings of a sweep and what each leaves: one JSON line in a file of its own, named by what was trained on what.

A run is one cell with one seed and, under cross-validation, one fold. Its key is a digest of the config, the
streams' fingerprints, the videos, their labels and source groups in each part: the same run has the same key in every sweep, and
a run whose file is there is not trained again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.fingerprint import fingerprint_digest
from cache.stores import files
from heads.ablation.grid import Cell
from heads.data.dataset import HeadDataset, StreamInput
from heads.data.splits import Split
from heads.trained.checkpoint import writing
from heads.training.config import TrainConfig

RECORD_FORMAT = 1
CELLS_FOLDER = "cells"

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One training. number, label: of its cell in the sweep. fold: from 0, or None without cross-validation.

    scored: the rows whose probabilities are kept: val, or the held-out fold. offset: from 0, which of the cell's seeds;
    folds are drawn again for each.
    """

    key: str
    number: int
    label: str
    config: TrainConfig
    fold: int | None
    split: Split
    offset: int = 0

    @property
    def scored(self) -> Int:
        """Sorted row numbers, int64 [M]."""
        return np.sort(self.split.val if self.fold is None else self.split.test)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a finished run leaves. error: why it has no result (a loss that stopped being finite), else None.

    probabilities: calibrated, of the scored rows in row order. decisions are probability >= threshold, the
    threshold chosen on val (under cross-validation the inner val, which the scored fold is no part of).
    threshold_by_epoch, auroc_by_epoch: on val. seconds: wall time, of heads that train together each one's
    share. device: cpu or cuda.
    """

    key: str
    seed: int
    fold: int | None
    error: str | None
    probabilities: tuple[float, ...]
    threshold: float
    degenerate: bool
    temperature: float
    best_epoch: int
    threshold_by_epoch: tuple[float, ...]
    auroc_by_epoch: tuple[float | None, ...]
    train_loss_by_epoch: tuple[float, ...]
    pos_weight: float
    precision: str
    n_parameters: int
    seconds: float
    device: str

    @classmethod
    def failed(cls, run: Run, error: str, *, device: str) -> RunRecord:
        """The record of a run that came to no head."""
        return cls(
            key=run.key,
            seed=run.config.seed,
            fold=run.fold,
            error=error,
            probabilities=(),
            threshold=0.0,
            degenerate=False,
            temperature=1.0,
            best_epoch=0,
            threshold_by_epoch=(),
            auroc_by_epoch=(),
            train_loss_by_epoch=(),
            pos_weight=0.0,
            precision="",
            n_parameters=0,
            seconds=0.0,
            device=device,
        )


def plan_runs(
    cells: Sequence[Cell],
    splits: Sequence[Sequence[Split]],
    dataset: HeadDataset,
    *,
    streams: Mapping[str, StreamInput],
    folds: bool,
) -> list[Run]:
    """All runs, cell by cell; seeds count up from each cell's own.

    dataset: for rows and labels only; streams: all that the cache holds. splits: for each seed one, or one a fold.
    """
    parts = [[parts_digest(dataset, split) for split in of_seed] for of_seed in splits]
    runs = []
    for number, cell in enumerate(cells):
        for offset, (of_seed, digests) in enumerate(zip(splits, parts, strict=True)):
            config = cell.config.updated({"seed": cell.config.seed + offset}) if offset else cell.config
            for fold, (split, digest) in enumerate(zip(of_seed, digests, strict=True)):
                key = _key(config, streams, dataset.cache_digest, digest, folds)
                runs.append(Run(key, number, cell.label, config, fold if folds else None, split, offset))
    return runs


def _key(
    config: TrainConfig, streams: Mapping[str, StreamInput], cache_digest: str, parts: str, folds: bool
) -> str:
    read = sorted(config.data.streams or streams)
    identity = {
        "format": RECORD_FORMAT,
        "config": {k: v for k, v in config.as_dict().items() if k != "n_resamples"},
        "streams": {name: fingerprint_digest(streams[name].fingerprint) for name in read},
        "cache": cache_digest,
        "parts": parts,
        "scored": "fold" if folds else "val",
    }
    text = json.dumps(identity, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def parts_digest(dataset: HeadDataset, split: Split) -> str:
    """Which videos with which labels train, choose and (under cross-validation) are held out, and of which source groups: these
    part the inner folds that choose a regression's strength.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part, rows in (("train", split.train), ("val", split.val), ("test", split.test)):
        for row in np.sort(rows):
            line = f"{part}\t{dataset.labels[row]}\t{dataset.ids[row]}\t{dataset.groups[row]}\n"
            digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


class RunStore:
    """The finished runs in a folder, each `cells/<key>.json`, one line, written in one atomic step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / CELLS_FOLDER

    def path(self, key: str) -> Path:
        """Where a run's record lies, finished or not."""
        return self.folder / f"{key}.json"

    def write(self, record: RunRecord, run: Run) -> None:
        """Keep a finished run. Raises StorageFull or HeadError when the folder cannot be written."""
        values = {
            "format": RECORD_FORMAT,
            "cell": run.label,
            **asdict(record),
            "config": run.config.as_dict(),
        }
        line = json.dumps(values, allow_nan=False) + "\n"
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            files.replace(self.path(record.key), line.encode())

    def read(self, runs: Iterable[Run]) -> tuple[dict[str, RunRecord], list[str]]:
        """The finished ones by key, and a line for every file that is there but cannot be used."""
        found: dict[str, RunRecord] = {}
        spoilt: list[str] = []
        for run in runs:
            path = self.path(run.key)
            try:
                found[run.key] = _read_record(path.read_text(encoding="utf-8"), run)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                spoilt.append(f"{path} cannot be used ({error!r}); its run is trained again")
        return found, spoilt


def _read_record(text: str, run: Run) -> RunRecord:
    values = json.loads(text)
    if values["format"] != RECORD_FORMAT or values["key"] != run.key:
        raise ValueError("it belongs to another run or another format")
    for name in ("probabilities", "threshold_by_epoch", "auroc_by_epoch", "train_loss_by_epoch"):
        values[name] = tuple(values[name])
    record = RunRecord(**{field.name: values[field.name] for field in fields(RunRecord)})
    if record.error is None and len(record.probabilities) != len(run.scored):
        raise ValueError(f"{len(record.probabilities)} probabilities for {len(run.scored)} videos")
    return record
