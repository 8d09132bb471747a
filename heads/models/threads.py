"""One thread where several would wait for each other longer than they work.

At the end of every operation torch's threads and those of the BLAS that SciPy brings wait for the slowest, in a loop that
takes processor time; where operations are small and other programs run, that is most of it. Measured on two busy cores,
two threads against one: `--model auto` on 187 clips 471 s of processor time against 79 s, mean and deviation of 1,000
videos' tokens 3.0 s against 0.25 s; regressions on 1,000 videos of 2,560 columns 1.5 s against 0.35 s, on 16,000 6.4 s
against 4.4 s.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController

LEAST_FOR_THREADS = 1e9
"""Multiplications a training step from which all threads train."""


@contextmanager
def threads_for(multiplications: float, device: torch.device) -> Iterator[None]:
    """One torch thread inside where a training step multiplies so little; what there was before, afterwards."""
    if device.type != "cpu" or multiplications >= LEAST_FOR_THREADS:
        yield
        return
    with one_thread():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside; what there was before, afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One thread inside for products of scikit-learn and SciPy; what there was before, afterwards."""
    with _loaded_blas().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _loaded_blas() -> ThreadpoolController:
    import sklearn.linear_model  # noqa: F401  it loads SciPy's own BLAS, which could not be limited before

    return ThreadpoolController()
