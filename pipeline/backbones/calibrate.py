"""How many windows a forward pass takes, and how many passes run side by side: what measures best on this machine.

Measuring takes seconds, so it is done once, for runs that are long enough to pay for it, and kept in the user's cache folder
under a name that changes with the model, the precision, the device, the cores and the library versions. Where the result cannot
be kept nothing is measured: a resumed run must batch as the first one did, since the size of a batch can change the last bits
of a feature.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline.backbones.base import Batching, library_versions

ROUNDS = 2
SECONDS_A_ROUND = 0.7
MOST_STREAMS = 8
"""Passes side by side at most: each holds a batch and a model's activations."""
WORTH_CHANGING = 1.03
"""A candidate must be this much faster than the one before it: less is noise."""


Run = Callable[[], object]
"""One measurement: as many batches as are under way at once, waited for."""
Say = Callable[[str], None]


def candidates(sizes: Sequence[int], *, runtime: str) -> list[Batching]:
    """What is tried for these sizes of a batch, the default first: OpenVINO with a pass a core (8 at most) and, for the default
    size, with one pass on all cores; torch with one pass.
    """
    if runtime != "openvino":
        return [Batching(size) for size in sizes]
    side_by_side = min(torch.get_num_threads(), MOST_STREAMS)
    found = [Batching(size, side_by_side) for size in sizes]
    return [*found, Batching(sizes[0])] if side_by_side > 1 else found


def cache_folder() -> Path:
    """Where converted models and measurements are kept: $XDG_CACHE_HOME/onepass, else ~/.cache/onepass."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onepass"


def best_batching(
    candidates: Sequence[Batching], prepare: Callable[[Batching], Run], *, key: str, measure: Say | None
) -> Batching:
    """The candidate that measured best here before, or, with `measure`, now; else the first one.

    candidates: the default first. prepare: makes ready what one measurement of a candidate runs. key: everything that may
    change the answer but the versions of torch and OpenVINO and the number of cores. measure: told that it is measured, which
    takes seconds; None measures nothing.
    """
    identity = json.dumps(
        [key, [asdict(c) for c in candidates], torch.get_num_threads(), library_versions("torch", "openvino")]
    )
    path = cache_folder() / "batching" / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.json"
    known = _read(path, candidates)
    if known is not None:
        return known
    if measure is None or not _can_write(path.parent):
        return candidates[0]
    measure(f"measuring on this machine, once, which batches are fastest: {key}")
    rates = measure_rates(candidates, prepare)
    chosen = choose(candidates, rates)
    record = {
        "key": key,
        "chosen": asdict(chosen),
        "windows_per_second": {str(c): r for c, r in zip(candidates, rates, strict=True)},
    }
    with contextlib.suppress(OSError):
        _write(path, record)
    return chosen


def measure_rates(candidates: Sequence[Batching], prepare: Callable[[Batching], Run]) -> list[float]:
    """Windows per second of each candidate: the median of rounds that take turns, so that a change of pace hits all alike.

    0 for one that does not fit into the device's memory.
    """
    runs = [_fitting(prepare, candidate) for candidate in candidates]
    found: list[list[float]] = [[] for _ in candidates]
    for _ in range(ROUNDS):
        for candidate, run, rates in zip(candidates, runs, found, strict=True):
            if run is None:
                rates.append(0.0)
                continue
            began, count = time.perf_counter(), 0
            while count == 0 or time.perf_counter() - began < SECONDS_A_ROUND:
                run()
                count += 1
            windows = count * candidate.batch_size * candidate.n_streams
            rates.append(windows / (time.perf_counter() - began))
    return [statistics.median(rates) for rates in found]


def _fitting(prepare: Callable[[Batching], Run], candidate: Batching) -> Run | None:
    """The candidate's measurement, warmed up; None where it does not fit into the device's memory."""
    try:
        run = prepare(candidate)
        run()
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    return run


def choose(candidates: Sequence[Batching], rates: Sequence[float]) -> Batching:
    """The fastest; of those that are as fast within the noise the one that stands first."""
    best = 0
    for index, rate in enumerate(rates):
        if rate > rates[best] * WORTH_CHANGING:
            best = index
    return candidates[best]


def _read(path: Path, candidates: Sequence[Batching]) -> Batching | None:
    try:
        found = Batching(**json.loads(path.read_text(encoding="utf-8"))["chosen"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: measured again
        return None
    return found if found in candidates else None


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _write(path: Path, record: object) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        json.dump(record, file, indent=2)
    Path(file.name).replace(path)
