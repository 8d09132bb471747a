"""How a sweep's runs are worked off: in packs that read the same tokens, here or in several processes.

A process opens the cache and loads each set of streams once. Finished runs are written by the process that
trained them, so that a kill at any moment loses only the packs in flight.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache.errors import HeadError, OnepassError
from cache.process.cores import usable_cores
from cache.process.interrupts import be_deaf, deaf_children
from heads.ablation.runs import Run, RunRecord, RunStore
from heads.data.dataset import MEMORY_SHARE, HeadDataset, load_dataset
from heads.training.batched import FitJob, heads_together
from heads.training.config import TrainConfig
from heads.training.decide import score_rows
from heads.training.device import Device, resolve_device
from heads.training.epochs import EpochRow, FitResult
from heads.training.jobs import fit_jobs

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache

PACKS_A_PROCESS = 3
"""Packs are made small enough that every process gets about this many, so that none waits long at the end."""

WORTH_A_PROCESS_SECONDS = 30.0
SECONDS_A_VIDEO = 2e-4
"""Starting a process costs seconds. Automatic --jobs takes one per 30 s of training as estimated at 0.2 ms a video,
head and epoch.
"""

View = tuple[tuple[str, ...] | None, str, bool]


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """What every process needs to know to train: the cache, its labels, where results go, and with how many
    others it shares the machine.
    """

    paths: tuple[Path, ...]
    ignore_libraries: bool
    labels: LabelJoin | None
    out: Path
    device: Device
    jobs: int = 1


class Stopped(Exception):
    """Training was told to stop; what was in hand is not kept."""


def view_of(config: TrainConfig) -> View:
    """What decides which tokens a run reads: streams, grid, and whether they are joined."""
    return config.data.streams, config.data.grid, config.model.separate_streams


def make_packs(
    runs: Sequence[Run], *, jobs: int, longest: int, n_parameters: Callable[[TrainConfig], int]
) -> list[list[Run]]:
    """Runs in packs of one view, architecture and join; in a pack those that share batches stand together.

    longest: most tokens of a video. It and the parameters bound how many heads fit beside each other.
    """
    by_view: dict[tuple[View, str], list[Run]] = {}
    for run in runs:
        by_view.setdefault((view_of(run.config), _kind(run.config)), []).append(run)
    even = math.ceil(len(runs) / (PACKS_A_PROCESS * jobs)) if jobs > 1 else len(runs)
    packs: list[list[Run]] = []
    for _, members in sorted(by_view.items(), key=lambda item: repr(item[0])):  # one view after another
        members.sort(key=_feed_order)
        room = heads_together(
            batch_size=max(run.config.optim.batch_size for run in members),
            longest=longest,
            n_parameters=max(n_parameters(run.config) for run in members),
        )
        n_packs = math.ceil(len(members) / min(even, room))
        packs += [list(part) for part in np.array_split(np.array(members, dtype=object), n_packs)]
    return packs


def _kind(config: TrainConfig) -> str:
    """What trains together: `fit_jobs` takes one architecture and join."""
    return f"{config.model.architecture} {config.model.joining}"


def _feed_order(run: Run) -> tuple[int, int, int, str, str]:
    """Runs that read the same batches sort together."""
    optim = run.config.optim
    return run.fold or 0, run.config.seed, optim.batch_size, optim.sampler, run.config.model.scaling


def choose_jobs(runs: Sequence[Run], *, jobs: int, device: Device) -> int:
    """How many processes: as asked, or for 0 one a core where there is work enough; one on a GPU."""
    if resolve_device(device).type == "cuda":
        return 1
    if jobs:
        return min(jobs, max(1, len(runs)))
    videos = sum(run.config.optim.epochs * len(run.split.train) for run in runs)
    wanted = round(videos * SECONDS_A_VIDEO / WORTH_A_PROCESS_SECONDS)
    return max(1, min(usable_cores(), wanted, len(runs)))


class Trainer:
    """Trains packs in this process; keeps the tokens that were read last."""

    def __init__(self, cache: Cache, settings: WorkSettings, stop: Callable[[], bool] | None = None) -> None:
        """stop: asked after every epoch; True raises Stopped."""
        self._cache, self._settings, self._stop = cache, settings, stop
        self._store = RunStore(settings.out)
        self._device = resolve_device(settings.device)
        self._loaded: tuple[View, HeadDataset] | None = None

    def dataset(self, config: TrainConfig) -> HeadDataset:
        """The dataset that a config reads."""
        view = view_of(config)
        if self._loaded is None or self._loaded[0] != view:
            import psutil

            self._loaded = None  # free one before loading the next
            free_bytes = psutil.virtual_memory().available
            dataset = load_dataset(
                self._cache,
                separate_streams=config.model.separate_streams,
                config=config.data,
                labels=self._settings.labels,
                memory_bytes=int(free_bytes * MEMORY_SHARE / self._settings.jobs),
            )
            self._loaded = (view, dataset)
        return self._loaded[1]

    def train(self, pack: Sequence[Run]) -> list[RunRecord]:
        """Train a pack and keep its records on disk."""
        dataset = self.dataset(pack[0].config)
        jobs = [
            FitJob(
                run.config.reading(dataset.streams),
                run.split.train,
                run.split.val,
                dataset.negative_hours(run.split.val),
            )
            for run in pack
        ]
        results = fit_jobs(
            dataset.tokens,
            dataset.labels,
            jobs,
            stream_dims=dataset.stream_dims,
            groups=dataset.groups,
            device=self._device,
            on_epoch=self._on_epoch,
        )
        records = []
        for run, result in zip(pack, results, strict=True):
            record = self._record(dataset, run, result)
            self._store.write(record, run)
            records.append(record)
        return records

    def _on_epoch(self, number: int, row: EpochRow) -> None:
        if self._stop is not None and self._stop():
            raise Stopped

    def _record(self, dataset: HeadDataset, run: Run, result: FitResult | HeadError) -> RunRecord:
        if isinstance(result, HeadError):
            return RunRecord.failed(run, str(result), device=self._device.type)
        scores = score_rows(dataset, run.config, result, val=run.split.val, rows=run.scored)
        return RunRecord(
            key=run.key,
            seed=run.config.seed,
            fold=run.fold,
            error=None,
            probabilities=tuple(scores.probabilities.tolist()),
            threshold=scores.decision.choice.threshold,
            degenerate=scores.decision.choice.degenerate,
            temperature=scores.decision.temperature,
            best_epoch=result.best_epoch,
            threshold_by_epoch=tuple(row.threshold for row in result.history),
            auroc_by_epoch=tuple(row.auroc for row in result.history),
            train_loss_by_epoch=tuple(row.train_loss for row in result.history),
            pos_weight=result.pos_weight,
            precision=result.precision,
            n_parameters=result.model.n_parameters,
            seconds=sum(row.seconds for row in result.history),
            device=self._device.type,
        )


def work_here(trainer: Trainer, packs: Sequence[Sequence[Run]]) -> Generator[list[RunRecord], None, None]:
    """Train pack after pack in this process."""
    for pack in packs:
        yield trainer.train(pack)


def work_in_processes(
    settings: WorkSettings, packs: Sequence[Sequence[Run]]
) -> Generator[list[RunRecord], None, None]:
    """Train packs in settings.jobs processes of cores / jobs threads each; records come as packs finish.

    Raises what a process raised, and OnepassError when one died. Closing the iterator stops all of them
    within an epoch.
    """
    context = multiprocessing.get_context("spawn")
    with deaf_children():
        stop = context.Event()
        executor = ProcessPoolExecutor(
            settings.jobs,
            mp_context=context,
            initializer=_start_process,
            initargs=(settings, stop),
        )
    try:
        with deaf_children():
            waiting: set[Future[list[RunRecord]]] = {
                executor.submit(_train_in_process, list(pack)) for pack in packs
            }
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise OnepassError(
            "a training process died, most likely for want of memory; what finished is kept. Run the same "
            "command again with --jobs 1"
        ) from error
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


_trainer: Trainer | None = None


def _start_process(settings: WorkSettings, stop: Event) -> None:
    global _trainer
    from cache.reader import open_cache

    be_deaf()  # the parent hears Ctrl-C and stops its processes
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, usable_cores() // settings.jobs))
    cache = open_cache(*settings.paths, ignore_libraries=settings.ignore_libraries)
    _trainer = Trainer(cache, settings, stop.is_set)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _train_in_process(pack: list[Run]) -> list[RunRecord]:
    assert _trainer is not None
    return _trainer.train(pack)
