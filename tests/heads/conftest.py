from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cache.reader import Cache, open_cache
from heads.training.config import TrainConfig
from tests.heads.synthetic import toy_videos, write_cache


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 videos of two streams with a clear signal, train and val, 30 source groups."""
    return write_cache(tmp_path_factory.mktemp("toy") / "toy.zarr", toy_videos())


@pytest.fixture
def toy_cache(toy_path: Path) -> Iterator[Cache]:
    with open_cache(toy_path) as cache:
        yield cache


@pytest.fixture
def quick() -> TrainConfig:
    """A recipe of a second."""
    return TrainConfig().updated({"epochs": 4, "batch_size": 8, "n_resamples": 50})
