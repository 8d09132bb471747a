"""Sweeps: every cell trained on the same split, what is finished kept, and a leaderboard of all of it.

from cache import open_cache
from heads import TrainConfig
from heads.ablation.sweep import Sweep
from heads.ablation.grid import make_cells, read_axes

with open_cache("cache/v1.zarr") as cache, Sweep(cache, TrainConfig(), out="ablate-out/v1", cv=5) as sweep:
    cells, _ = make_cells(sweep.base, read_axes(["lr=3e-4,1e-3", "model=attention-pool,mlp"]))
    board = sweep.leaderboard(cells, sweep.train(cells))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from cache.errors import InputError
from heads.ablation.floor_runs import floor_records
from heads.ablation.grid import Cell
from heads.ablation.leaderboard import Leaderboard, Metric, build_leaderboard
from heads.ablation.runs import Run, RunRecord, RunStore, plan_runs
from heads.ablation.work import (
    Trainer,
    WorkSettings,
    choose_jobs,
    make_packs,
    work_here,
    work_in_processes,
)
from heads.data.dataset import HeadDataset, StreamInput, choose_streams
from heads.data.splits import FoldConfig, Split, choose_split, fold_splits
from heads.models.ensemble import count_parameters
from heads.models.model import ModelConfig
from heads.training.config import TrainConfig
from heads.training.device import Device

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache

Records = Mapping[str, RunRecord]
LOCK_FILE = "sweep.lock"


@dataclass(frozen=True, slots=True)
class Progress:
    """After each finished run: its record, its cell's label, and how many of all runs are done."""

    record: RunRecord
    label: str
    n_done: int
    n_runs: int


class Sweep:
    """Cells trained on one cache and one split, with results kept in a folder. A context manager.

    base: what cells start from; its seed draws the split or the folds, which all cells share. cv: folds, or
    None for the cache's own split. n_seeds: trainings of every cell, seeds counting up from the cell's. jobs:
    processes, 0 for automatic. Raises InputError when another sweep works in the folder, LabelError when the
    labels cannot be trained on.
    """

    def __init__(
        self,
        cache: Cache,
        base: TrainConfig,
        *,
        out: str | Path,
        n_seeds: int = 1,
        cv: int | None = None,
        jobs: int = 0,
        labels: LabelJoin | None = None,
        device: Device = "auto",
        ignore_libraries: bool = False,
    ) -> None:
        from filelock import FileLock, Timeout

        if not 1 <= n_seeds <= 1000:
            raise InputError(f"the number of seeds must be between 1 and 1,000, got {n_seeds}")
        if not 0 <= jobs <= 256:
            raise InputError(f"jobs must be between 0 (automatic) and 256, got {jobs}")
        self.base, self.out, self.n_seeds, self.cv = base, Path(out), n_seeds, cv
        self._cache, self._jobs, self._labels = cache, jobs, labels
        self._device: Device = device
        self._ignore_libraries = ignore_libraries
        self._store = RunStore(self.out)
        self._streams = {
            name: StreamInput(name, info.dim, info.fingerprint) for name, info in cache.streams.items()
        }
        self._trainer: Trainer | None = None
        self._splits: list[Split] = []
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {self.out} cannot be made: {error.strerror}") from error
        self._lock = FileLock(self.out / LOCK_FILE)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"another sweep works in {self.out}; wait until it ends, or choose another --out"
            ) from None

    def __enter__(self) -> Sweep:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def plan(self, cells: Sequence[Cell]) -> list[Run]:
        """All runs of the cells, finished or not. Raises InputError for a stream that the cache lacks."""
        for cell in cells:
            choose_streams(tuple(self._streams), cell.config.data.streams, where=str(self._cache.paths[0]))
        dataset = self._dataset(cells[0].config)
        return plan_runs(
            cells,
            self._split(dataset),
            dataset,
            streams=self._streams,
            n_seeds=self.n_seeds,
            folds=self.cv is not None,
        )

    def finished(self, runs: Sequence[Run]) -> tuple[dict[str, RunRecord], list[str]]:
        """Records of the finished runs by key, and a line for every file that cannot be used."""
        return self._store.read(runs)

    def train(
        self, cells: Sequence[Cell], *, on_run: Callable[[Progress], None] | None = None
    ) -> dict[str, RunRecord]:
        """Train what is not finished; all records by key. Raises what training raises, HeadError excepted:
        a run whose loss stops being finite is kept as failed.
        """
        runs = self.plan(cells)
        records, _ = self.finished(runs)
        pending = {run.key: run for run in runs if run.key not in records}
        if not pending:
            return records
        todo = list(pending.values())
        jobs = choose_jobs(todo, jobs=self._jobs, device=self._device)
        longest = int(self._dataset(cells[0].config).tokens.lengths.max())
        packs = make_packs(todo, jobs=jobs, longest=longest, n_parameters=self._n_parameters)
        if jobs == 1:
            work = work_here(self._local(), packs)
        else:
            self._trainer = None  # frees the tokens: every process loads its own
            work = work_in_processes(self._settings(jobs), packs)
        try:
            for found in work:
                for record in found:
                    records[record.key] = record
                    if on_run is not None:
                        run = pending[record.key]
                        on_run(Progress(record, run.label, len(records), len({run.key for run in runs})))
        finally:
            work.close()
        return records

    def leaderboard(
        self,
        cells: Sequence[Cell],
        records: Records,
        *,
        metric: Metric = "auroc",
        baseline: int = 0,
        n_resamples: int = 1000,
        floors: bool = True,
    ) -> Leaderboard:
        """Cells ranked by a metric, beside the floors; baseline: number of the cell that all are compared
        with.
        """
        runs = self.plan(cells)
        dataset = self._dataset(self._reading_all_of(cells) if floors else cells[baseline].config)
        splits = self._split(dataset)
        return build_leaderboard(
            cells,
            runs,
            records,
            dataset=dataset,
            streams=[self._streams[name] for name in self._read_by(cells)],
            floors=floor_records(dataset, splits, self.base, store=self._store, folds=self.cv is not None)
            if floors
            else {},
            metric=metric,
            baseline=baseline,
            n_resamples=n_resamples,
        )

    def _n_parameters(self, config: TrainConfig) -> int:
        read = sorted(config.data.streams or self._streams)
        return count_parameters(config.model, tuple(self._streams[name].dim for name in read))

    def _reading_all_of(self, cells: Sequence[Cell]) -> TrainConfig:
        """A config that reads every stream that any cell reads, joined: what floors are fitted on."""
        read = self._read_by(cells)
        streams = None if len(read) == len(self._streams) else tuple(read)
        return replace(self.base, data=replace(self.base.data, streams=streams), model=ModelConfig())

    def _read_by(self, cells: Sequence[Cell]) -> list[str]:
        everything = tuple(self._streams)
        return sorted({name for cell in cells for name in cell.config.data.streams or everything})

    def _settings(self, jobs: int) -> WorkSettings:
        return WorkSettings(
            paths=self._cache.paths,
            ignore_libraries=self._ignore_libraries,
            labels=self._labels,
            out=self.out,
            device=self._device,
            jobs=jobs,
        )

    def _local(self) -> Trainer:
        if self._trainer is None:
            self._trainer = Trainer(self._cache, self._settings(1))
        return self._trainer

    def _dataset(self, config: TrainConfig) -> HeadDataset:
        return self._local().dataset(config)

    def _split(self, dataset: HeadDataset) -> list[Split]:
        if not self._splits:
            if self.cv is not None:
                self._splits = fold_splits(
                    dataset.labels,
                    dataset.groups,
                    config=FoldConfig(k=self.cv),
                    seed=self.base.seed,
                    rows=dataset.outside_test,
                )
            else:
                self._splits = [
                    choose_split(
                        dataset.labels,
                        dataset.splits,
                        dataset.groups,
                        val_share=self.base.data.val_share,
                        seed=self.base.seed,
                    )
                ]
        return self._splits


def find_baseline(cells: Sequence[Cell], text: str | None) -> int:
    """Number of the cell that "lr=1e-3 model=mlp" means; the first one for None.

    Raises InputError unless it means exactly one cell.
    """
    if text is None:
        return 0
    pairs = dict(part.partition("=")[::2] for part in text.split())
    found = [number for number, cell in enumerate(cells) if cell.config.updated(pairs) == cell.config]
    if len(found) != 1:
        raise InputError(
            f"--baseline '{text}' means {len(found)} of the {len(cells)} cells; it must mean one, such as "
            f"'{cells[0].label}'"
        )
    return found[0]
