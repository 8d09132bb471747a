from __future__ import annotations

import pytest
import torch

from cache.errors import InputError
from heads.training.device import LEAST_FOR_THREADS, resolve_device, threads_for


def test_device_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(InputError, match="no CUDA device"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == resolve_device("cuda").type == "cuda"
    assert resolve_device("cpu").type == "cpu"


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
