"""One budget for all decoders: fewer workers where they would not fit, each limited to its share."""

from __future__ import annotations

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import InputError, LimitReached
from pipeline.decoding import memory
from pipeline.decoding.memory import MIN_WORKER_BYTES, asked_workers, default_budget_bytes, fit_pool
from pipeline.decoding.pool import PoolSettings, default_workers

GIB = 1 << 30


@given(st.integers(1, 64), st.integers(MIN_WORKER_BYTES, 64 * GIB), st.integers(MIN_WORKER_BYTES, 8 * GIB))
def test_the_budget_holds_whatever_is_asked_for(workers: int, budget: int, limit: int) -> None:
    asked = PoolSettings(workers=workers, worker_memory_bytes=limit, deadline_seconds=7.0, slots=4)
    fitted = fit_pool(asked, budget)
    assert fitted.workers * fitted.worker_memory_bytes <= budget
    assert 1 <= fitted.workers <= workers and MIN_WORKER_BYTES <= fitted.worker_memory_bytes <= limit
    assert (fitted.deadline_seconds, fitted.slots) == (7.0, 4)


def test_workers_are_those_asked_for_within_reason() -> None:
    assert (asked_workers(0), asked_workers(256)) == (default_workers(), 256)
    for wrong in (-1, 257):
        with pytest.raises(InputError, match=f"--workers {wrong}: between 0 and 256"):
            asked_workers(wrong)


def test_a_large_budget_changes_nothing() -> None:
    asked = PoolSettings(workers=4, worker_memory_bytes=4 * GIB)
    assert fit_pool(asked, 16 * GIB) == asked
    assert fit_pool(asked, 8 * GIB) == PoolSettings(workers=4, worker_memory_bytes=2 * GIB)
    assert fit_pool(asked, 2 * GIB) == PoolSettings(workers=2, worker_memory_bytes=GIB)


def test_less_than_one_worker_is_refused() -> None:
    with pytest.raises(InputError, match="--memory: 100 MiB are too little: one decode worker needs 768 MiB"):
        fit_pool(PoolSettings(), 100 << 20)


def test_a_machine_without_memory_is_not_called_a_flag_that_was_not_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "default_budget_bytes", lambda: 700 << 20)
    with pytest.raises(
        LimitReached, match=r"^too little memory is free: .* is 700 MiB.* say with --memory GIB"
    ):
        fit_pool(PoolSettings(), None)
    assert fit_pool(PoolSettings(workers=3), MIN_WORKER_BYTES).workers == 1


def test_the_default_is_a_share_of_what_is_free() -> None:
    assert 0 < default_budget_bytes() < psutil.virtual_memory().total
