from __future__ import annotations

import torch
from threadpoolctl import threadpool_info, threadpool_limits

from heads.models.threads import LEAST_FOR_THREADS, _loaded_blas, one_blas_thread, threads_for


def test_small_steps_take_one_thread_and_the_rest_what_there_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for multiplications, device, expected in (
            (LEAST_FOR_THREADS / 2, "cpu", 1),
            (LEAST_FOR_THREADS * 2, "cpu", 3),
            (LEAST_FOR_THREADS / 2, "cuda", 3),
        ):
            with threads_for(multiplications, torch.device(device)):
                assert torch.get_num_threads() == expected
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_regressions_have_one_blas_thread_and_leave_them_as_they_were() -> None:
    _loaded_blas.cache_clear()  # tests before this one may have loaded another library's BLAS since
    with one_blas_thread():  # loads the BLAS of SciPy
        pass
    with threadpool_limits(2, "blas"):
        before = blas_threads()
        assert 2 in before
        with one_blas_thread():
            assert set(blas_threads()) == {1}
        assert blas_threads() == before


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
