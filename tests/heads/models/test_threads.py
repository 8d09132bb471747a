from __future__ import annotations

import torch

from heads.models.threads import LEAST_FOR_THREADS, threads_for


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
