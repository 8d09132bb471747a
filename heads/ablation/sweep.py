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

from cache.arguments import require_open_cache, require_whole
from cache.errors import InputError
from heads.ablation.floor_runs import floor_records
from heads.ablation.grid import Cell
from heads.ablation.leaderboard import Leaderboard, Metric, build_leaderboard
from heads.ablation.record import of_runs, require_own_folder, swept_words
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
from heads.data.fold_file import read_folds
from heads.data.rows import read_rows
from heads.data.splits import FoldConfig, Split, choose_split, fold_splits
from heads.models.ensemble import count_parameters
from heads.models.model import ModelConfig
from heads.scoring.floor_scores import with_floor_scores
from heads.training.config import TrainConfig, dotted_key
from heads.training.device import Device

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache

Records = Mapping[str, RunRecord]
LOCK_FILE = "sweep.lock"
DEFAULT_SEEDS = 3


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
    None for the cache's own split. folds: a file that names each video's fold; cv is then their number. n_seeds:
    trainings of every cell, seeds counting up from the cell's; folds are drawn again for each, counting up from the
    base's. jobs: processes, 0 for automatic. floor_files: scores of something else as further floors, by name. Raises
    InputError when another sweep works in the folder, LabelError when the labels cannot be trained on.
    """

    def __init__(
        self,
        cache: Cache,
        base: TrainConfig,
        *,
        out: str | Path,
        n_seeds: int = DEFAULT_SEEDS,
        cv: int | None = None,
        folds: Path | None = None,
        jobs: int = 0,
        labels: LabelJoin | None = None,
        device: Device = "auto",
        ignore_libraries: bool = False,
        floor_files: Mapping[str, str | Path] | None = None,
    ) -> None:
        from filelock import FileLock, Timeout

        require_open_cache(cache, "Sweep")
        require_whole("the number of seeds", n_seeds, 1, 1000)
        require_whole("jobs (0: automatic)", jobs, 0, 256)
        self.base, self.out, self.n_seeds, self.cv = base, Path(out), n_seeds, cv
        self._cache, self._jobs, self._labels = cache, jobs, labels
        self._folds = None if folds is None else read_folds(folds, read_rows(cache).ids)
        if self._folds is not None:
            n_given = int(self._folds.numbers.max())
            if cv not in (None, n_given):
                raise InputError(f"--cv {cv}, but --folds gives {n_given} folds; leave --cv out")
            self.cv = n_given
        self._device: Device = device
        self._ignore_libraries = ignore_libraries
        self._floor_files = floor_files or {}
        self._store = RunStore(self.out)
        self._streams = {
            name: StreamInput(name, info.dim, info.fingerprint) for name, info in cache.streams.items()
        }
        self._trainer: Trainer | None = None
        self._splits: list[list[Split]] = []
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
        """All runs of the cells, finished or not. Raises InputError without cells, and for a stream that the cache lacks."""
        if not cells:
            raise InputError("a sweep needs cells: make_cells(base, read_axes(['lr=1e-3,3e-4']))")
        for cell in cells:
            choose_streams(tuple(self._streams), cell.config.data.streams, where=self._cache.names[0])
        dataset = self._dataset(cells[0].config)
        return plan_runs(
            cells,
            self._split(dataset),
            dataset,
            streams=self._streams,
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
        searched: str = "",
    ) -> Leaderboard:
        """Cells ranked by a metric, beside the floors; baseline: number of the cell that all are compared with.

        searched: the settings of a search that chose the cells.
        """
        runs = self.plan(cells)
        dataset = self._dataset(self._reading_all_of(cells) if floors else cells[baseline].config)
        splits = self._split(dataset)
        board = build_leaderboard(
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
        return replace(board, sweep=of_runs(self.words(swept_words(cells)), runs, searched=searched))

    def words(self, cells: str) -> str:
        """The sweep as a person names it: its cells, how it is scored, and on what."""
        scored = "on the cache's own split" if self.cv is None else f"{self.cv} folds"
        return f"{cells}, {scored}, {self.n_seeds} seeds, on {', '.join(self._cache.names)}"

    def require_own_folder(self, cells: Sequence[Cell], *, searched: str = "") -> None:
        """Raise InputError where the folder holds the leaderboard of another sweep, before anything is trained.

        cells: of a grid; searched: of a search, whose cells are not known yet.
        """
        runs = self.plan(cells) if cells else []
        words = self.words(f"search of {searched}" if searched else swept_words(cells))
        require_own_folder(self.out, of_runs(words, runs, searched=searched))

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
        dataset = replace(self._local().dataset(config), folds=self._folds)
        return with_floor_scores(dataset, self._floor_files)

    def _split(self, dataset: HeadDataset) -> list[list[Split]]:
        """For each seed its splits: one, the same for all seeds, or one a fold."""
        if not self._splits:
            seed = self.base.seed
            if self.cv is not None:
                self._splits = [
                    fold_splits(
                        dataset.labels,
                        dataset.groups,
                        config=FoldConfig(k=self.cv),
                        seed=seed + offset,
                        rows=dataset.outside_test,
                        given=dataset.given_folds,
                        n_without=dataset.n_without,
                    )
                    for offset in range(self.n_seeds)
                ]
            else:
                share = self.base.data.val_share
                columns = dataset.labels, dataset.splits, dataset.groups
                split = choose_split(*columns, val_share=share, seed=seed, n_without=dataset.n_without)
                self._splits = [[split]] * self.n_seeds
        return self._splits


def find_baseline(cells: Sequence[Cell], text: str | None) -> int:
    """Number of the cell that "lr=1e-3 model=mlp" means; the first one for None.

    Raises InputError unless it means exactly one cell.
    """
    if text is None:
        return 0
    pairs = dict(part.partition("=")[::2] for part in text.split())
    pairs = {dotted_key(key): value for key, value in pairs.items()}
    found = [number for number, cell in enumerate(cells) if _is(cell, pairs)]
    if len(found) != 1:
        raise InputError(
            f"--baseline '{text}' means {len(found)} of the {len(cells)} cells; it must mean one, such as "
            f"'{cells[0].label}'"
        )
    return found[0]


def _is(cell: Cell, pairs: Mapping[str, str]) -> bool:
    """Whether a cell has these settings; one that cannot have them (a linear model of some width) has not."""
    try:
        return cell.config.updated(pairs) == cell.config
    except InputError:
        return False
