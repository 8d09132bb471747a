"""Shared by the pipeline's tests: made videos, a pool runner, backbones that are loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.videos import BROKEN_FILES, GOOD_FILES


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every good and every broken file of tests/videos.py. Read-only by agreement."""
    folder = tmp_path_factory.mktemp("media")
    for name, write in GOOD_FILES.items():
        write(folder / name)
    for name, (write, _) in BROKEN_FILES.items():
        write(folder / name)
    return folder
