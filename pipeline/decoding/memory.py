"""How much memory decoding may take: workers and their limits from one budget, whatever the videos' length.

The models and one batch a stream come on top and do not grow.
"""

from __future__ import annotations

from dataclasses import replace

import psutil

from cache.arguments import is_whole, shown
from cache.errors import InputError, LimitReached
from pipeline.decoding.pool import MAX_WORKERS, PoolSettings, default_workers

MIN_WORKER_BYTES = 768 << 20
"""Room for one decode worker: decord was seen at 170 to 185 MiB on short clips and at 565 MiB on two hours of 1080p
(benchmarks/memory.py); the rest is headroom.
"""
DEFAULT_SHARE = 0.5
"""Share of the memory that is free at the start which decoding may take where nothing was said."""


def asked_workers(workers: int) -> int:
    """How many decode processes `--workers` asks for; 0 is one a core. Raises InputError."""
    if not is_whole(workers):
        raise InputError(f"--workers must be a whole number, got {shown(workers)}")
    if not 0 <= workers <= MAX_WORKERS:
        raise InputError(f"--workers {workers}: between 0 and {MAX_WORKERS}")
    return workers or default_workers()


def default_budget_bytes() -> int:
    """Half of what is free now."""
    return int(psutil.virtual_memory().available * DEFAULT_SHARE)


def fit_pool(settings: PoolSettings, budget_bytes: int | None) -> PoolSettings:
    """The pool within the budget: fewer workers where they would not fit, each limited to its share.

    A worker that grows over its limit is killed and its video is rejected (`out-of-memory`), so the budget holds. budget_bytes:
    None for the default one. Raises InputError where not even one worker fits; LimitReached where that is the machine.
    """
    budget = default_budget_bytes() if budget_bytes is None else budget_bytes
    if budget < MIN_WORKER_BYTES:
        needs = f"one decode worker needs {MIN_WORKER_BYTES >> 20} MiB"
        if budget_bytes is not None:
            raise InputError(f"--memory: {budget >> 20} MiB are too little: {needs}")
        raise LimitReached(
            f"too little memory is free: half of it, which decoding may take, is {budget >> 20} MiB, and {needs}; end other "
            "programs, or say with --memory GIB how much it may take"
        )
    workers = max(1, min(settings.workers, budget // MIN_WORKER_BYTES))
    limit = min(settings.worker_memory_bytes, budget // workers)
    return replace(settings, workers=workers, worker_memory_bytes=limit)
