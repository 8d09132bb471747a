"""`extract --engine ray`: Ray places shards on the nodes of a cluster; decoding, commits and accounting stay those of `extract`.

A task is one shard's whole extraction, into a part on storage that all nodes share. A node that dies takes its tasks with it:
their shards are placed again and go on from what they committed. Nothing but settings and counts goes through Ray.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from cache.errors import CacheLocked, DeviceError, InputError, LimitReached, OnepassError
from cache.merge import merge
from cache.process.os_errors import explain
from cache.process.terminal import make_console
from cache.stores.open import cache_exists
from pipeline.backbones.base import Backbone
from pipeline.backbones.load import BackboneConfig, load_backbones
from pipeline.config import ExtractConfig, fingerprints_at, labelled_sources, precisions
from pipeline.counts import FlowCounts
from pipeline.engines.parts import Part, PartsFolder, PartsTable
from pipeline.reporting.report import ExtractReport
from pipeline.run import extract, stop_on_signal
from pipeline.sources.shards import Shard, first_of_plan, parse_shard
from pipeline.sources.tree import discover

POLL_SECONDS = 1.0
SHARDS_A_PLACE = 16
"""Shards for each that can run at a time: a straggler then holds up one of sixteen (benchmarks/simulate_cluster.py)."""
INPUTS_A_SHARD = 8
"""At least, where the number is not given: a shard costs a start."""
CPUS_A_SHARD = 4
STOP_SECONDS = 60.0
"""How long shards have to commit what is whole after Ctrl-C."""
LOCKED_SECONDS = 3.0
"""Until the processes of a dead node have let go of their part, where they live on this machine."""
PASSING = (CacheLocked, DeviceError, LimitReached)
"""Trouble of one machine: the shard is placed again."""
OBJECT_STORE_BYTES = 80 << 20


@dataclass(frozen=True, slots=True)
class RayEngine:
    """address: of a running cluster, None for $RAY_ADDRESS or this machine alone. shards: 0 for a number by the cluster's size.

    retries: how often a shard is begun again. gpus: of a shard, -1 for one where the cluster has any and the device is not cpu.
    """

    address: str | None = None
    shards: int = 0
    retries: int = 3
    gpus: float = -1.0

    def __post_init__(self) -> None:
        if not 0 <= self.shards <= 100_000:
            raise InputError(f"--shards {self.shards}: between 1 and 100000, or left out")
        if self.retries < 0:
            raise InputError(f"--retries {self.retries}: 0 or more")


@dataclass(frozen=True, slots=True)
class Ended:
    """What a task answers: a report, or the trouble that ended it."""

    host: str
    report: ExtractReport | None = None
    trouble: OnepassError | None = None
    passing: bool = False


def extract_on_ray(
    config: ExtractConfig, engine: RayEngine, *, console: Console, plan: Path | None = None, workers: int = 0
) -> ExtractReport:
    """Extract `config.src` in shards on a Ray cluster and merge them into `config.out`.

    plan: the file to divide by. workers: decode processes of a shard, 0 for a number by the nodes. Returns the
    report of all shards together, also after Ctrl-C. Raises an OnepassError as `extract` and `merge` do.
    """
    if find_spec("ray") is None:
        raise InputError(
            "--engine ray: not installed; pip install 'onepass[ray]', or see docs/scale.md for other ways"
        )
    if config.shard is not None or config.redo:
        raise InputError("--engine ray makes all shards itself: leave --shard and --redo out")
    if cache_exists(config.out):
        raise InputError(
            f"{config.out} exists: extract without --engine adds to it. To make it again from its parts, move it away: they are "
            "kept, and the same command takes only what is new from the source"
        )
    began = time.perf_counter()
    first = first_of_plan(plan) if plan is not None else None
    if first is not None and engine.shards not in (0, first.of):
        raise InputError(f"--shards {engine.shards}: the plan {plan} is for {first.of}; leave --shards out")
    tree = discover(config.src, sound=config.takes_sound_files())  # as the shards see it
    resolved = labelled_sources(config, tree, console)
    ids = [source.id for source in resolved.sources]
    with stop_on_signal() as stop, _Cluster(engine, config, workers) as cluster:
        folder = PartsFolder.of_run(
            config.out,
            shards=first.of if first else engine.shards,
            default=max(1, min(len(ids) // INPUTS_A_SHARD, SHARDS_A_PLACE * cluster.places)),
            plan=first.plan if first else "",
        )
        parts = folder.parts(ids, first)
        console.print(
            f"{folder.of} shards on {cluster.places} places of {cluster.cpus:g} CPUs"
            + (f" and {cluster.gpus:g} GPU" if cluster.gpus else "")
            + f" each; parts and logs in {folder.path}",
            markup=False,
        )
        report = ExtractReport(src=str(config.src), out=str(config.out), layout=tree.layout)
        report.note_skipped(tree.skipped)
        with PartsTable(parts, console) as table:
            running: dict[Any, Part] = {}
            for part in parts:
                running[cluster.begin(part, folder, plan)] = part
            while running and not stop.is_set():
                for task in cluster.ended(running):
                    part = running.pop(task)
                    ended = cluster.answer(task)
                    if ended.report is not None and not ended.report.interrupted:
                        part.state, part.ended = "done", ended.report.stored + ended.report.rejected
                        _add(report, ended.report)
                    else:
                        _require_retry(part, ended, engine.retries)
                        if isinstance(ended.trouble, CacheLocked):
                            time.sleep(LOCKED_SECONDS)
                        running[cluster.begin(part, folder, plan)] = part
                table.show()
            if stop.is_set():
                cluster.stop(running)
            table.show(now=True)
    report.seconds = time.perf_counter() - began
    if running:
        report.interrupted = True
        report.found = len(ids)
        report.not_reached = report.found - report.stored - report.rejected
        return report
    began = time.perf_counter()
    found = merge(
        [part.path for part in parts], config.out, listed=ids, ignore_libraries=config.ignore_libraries
    )
    console.print(
        f"merged     {found.n_parts} parts in {time.perf_counter() - began:.1f} s; {folder.path} may be removed, or kept to "
        "take in what comes later",
        markup=False,
    )
    return report


def _add(report: ExtractReport, part: ExtractReport) -> None:
    FlowCounts.add(report, part)
    report.found += part.found
    report.stored_before += part.stored_before
    report.rejected_before += part.rejected_before
    report.relabelled += part.relabelled
    report.gone += part.gone
    report.setup_seconds = max(report.setup_seconds, part.setup_seconds)
    report.rejects |= part.rejects
    report.weights, report.note = part.weights, part.note
    report.device, report.precision = part.device, part.precision


def _require_retry(part: Part, ended: Ended, retries: int) -> None:
    """Note why the shard is begun again. Raises what ended it where another start would not help, or there were enough."""
    part.why = str(ended.trouble) if ended.trouble else "it was told to stop"
    if ended.trouble is not None and not ended.passing:
        raise type(ended.trouble)(f"shard {part.name} on {ended.host}: {ended.trouble} (its log: {part.log})")
    if part.attempts > retries:
        raise LimitReached(
            f"shard {part.name} ended {part.attempts} times, the last time with: {part.why} (its log: {part.log}); what was "
            "whole is committed, the same command goes on"
        )


class _Cluster:
    """Context manager: a connection to Ray, what a shard asks for, and its tasks. Raises InputError where no node has that."""

    def __init__(self, engine: RayEngine, config: ExtractConfig, workers: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that a cluster runs
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._engine, self._config, self._workers = engine, config, workers

    def __enter__(self) -> _Cluster:
        import ray

        self._ray = ray
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        address = self._engine.address or os.environ.get("RAY_ADDRESS")
        if address is None:
            options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            self._was_there = ray.is_initialized()
            if not self._was_there:
                ray.init(address, **options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            said = str(error).partition("\n")[0]
            raise InputError(f"--engine ray: no cluster at {address or 'this machine'} ({said})") from error
        try:
            self._settle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self._was_there:
            self._ray.shutdown()

    def _settle(self) -> None:
        """What a shard asks for, how many fit, and its settings."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        device = self._config.backbones.device
        on_gpu = device != "cpu" and not device.startswith("cpu:") and any(node.get("GPU") for node in nodes)
        self.gpus = self._engine.gpus if self._engine.gpus >= 0 else float(on_gpu)
        most = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        self.cpus = self._workers or max(1, min(CPUS_A_SHARD, most))
        self.places = sum(
            int(min(node.get("CPU", 0) // self.cpus, node.get("GPU", 0) // self.gpus if self.gpus else 1e9))
            for node in nodes
        )
        if not self.places:
            raise InputError(
                f"--engine ray: no node has {self.cpus} CPUs" + (f" and {self.gpus:g} GPU" if self.gpus else "")
                + f" (the largest has {most}): ask for fewer with --workers"
            )  # fmt: skip
        backbones = self._config.backbones
        if self.gpus and device == "auto":
            backbones = replace(backbones, device="cuda")
        elif not self.gpus and device == "auto":
            backbones = replace(backbones, device="cpu")
        pool = replace(self._config.pool, workers=self.cpus)
        self._config = replace(
            self._config,
            backbones=backbones,
            pool=pool,
            src=_absolute(self._config.src),
            labels=_absolute(self._config.labels),
            sources=_absolute(self._config.sources),
            profile=False,
        )
        self._task = self._ray.remote(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0, scheduling_strategy="SPREAD"
        )(extract_shard)

    def begin(self, part: Part, folder: PartsFolder, plan: Path | None) -> Any:
        """Hand a shard to Ray."""
        part.attempts += 1
        part.state = "waiting"
        mine = replace(self._config, out=part.path, shard=Shard(part.number, folder.of))
        return self._task.remote(mine, folder, part.log, _absolute(plan))

    def ended(self, running: Mapping[Any, Part]) -> list[Any]:
        """Tasks that have an answer, after waiting a little."""
        found: list[Any] = self._ray.wait(
            list(running), num_returns=len(running), timeout=POLL_SECONDS, fetch_local=False
        )[0]
        return found

    def answer(self, task: Any) -> Ended:
        """How a task ended; a node or process that died is passing trouble."""
        errors = self._ray.exceptions
        try:
            ended: Ended = self._ray.get(task)
            return ended
        except errors.RayTaskError:
            raise  # our own fault, with its traceback
        except errors.RayError as error:
            said = " ".join(str(error).partition("\n")[0].split())[:200]
            return Ended("a lost node", trouble=LimitReached(f"{type(error).__name__}: {said}"), passing=True)

    def stop(self, running: Mapping[Any, Part]) -> None:
        """Ask all tasks to commit what is whole and end; end those that do not."""
        for task in running:
            self._ray.cancel(task, force=False)
        self._ray.wait(list(running), num_returns=len(running), timeout=STOP_SECONDS, fetch_local=False)
        for task in running:
            self._ray.cancel(task, force=True)


def _absolute(path: Any) -> Any:
    """What a node with another working folder finds; a URL is the same everywhere."""
    if isinstance(path, str):
        return path
    return None if path is None else Path(path).resolve()


_LOADED: list[tuple[BackboneConfig, Mapping[str, str], Mapping[str, Backbone]]] = []
"""Models of the last shard that this process extracted, and the precisions of its part, none for a new one: Ray keeps processes

for the next shard.
"""


def _loaded(config: ExtractConfig) -> Mapping[str, Backbone]:
    """Those of the last shard where they are as asked for, in the precisions of a part that was begun."""
    made = precisions(fingerprints_at(config.out))
    for backbones_config, of, backbones in _LOADED:
        here = {name: str(one.fingerprint()["precision"]) for name, one in backbones.items()}
        if backbones_config == config.backbones and (made == of or (made and here | made == here)):
            return backbones
    _LOADED.clear()
    backbones = load_backbones(config.backbones, made=made)
    _LOADED.append((config.backbones, made, backbones))
    return backbones


def extract_shard(config: ExtractConfig, folder: PartsFolder, log: Path, plan: Path | None) -> Ended:
    """Run in a process of a node: one shard, its printed lines into `log`."""
    host = socket.gethostname()
    if not folder.is_seen():
        trouble = InputError(
            f"{folder.path} is not the same folder there: --src and --out must lie on storage that all nodes share"
        )
        return Ended(host, trouble=trouble)
    try:
        if plan is not None:  # each reads it: a plan of millions is not for Ray to send
            config = replace(config, shard=parse_shard(str(config.shard), plan))
        with log.open("a", encoding="utf-8") as file:
            console = make_console(file=file, width=200)
            report = extract(config, console=console, backbones=_loaded(config))
            for line in report.lines():
                console.print(line, highlight=False, markup=False)
        return Ended(host, report=report)
    except OnepassError as error:
        return Ended(host, trouble=type(error)(str(error)), passing=isinstance(error, PASSING))
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        explained = explain(error)
        if explained is None:
            raise
        return Ended(host, trouble=LimitReached(explained[0]), passing=True)
