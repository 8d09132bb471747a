"""Shared by the pipeline's tests: made videos, a tree of them, tiny backbones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pipeline.tiny import TinyBackbone, tiny_backbones
from tests.pipeline.trees import make_tree
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


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Five good and three broken files, its own for each test."""
    return make_tree(tmp_path / "data")


@pytest.fixture(params=["zarr", "h5"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The path of a cache that does not exist yet, once for each format."""
    return tmp_path / f"cache.{request.param}"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs load tiny backbones; gives {"changes": keyword arguments for them, "last": those of the last run}."""
    state: dict[str, Any] = {"changes": {}, "last": {}}

    def load(config: Any, **_: Any) -> Mapping[str, TinyBackbone]:
        loaded = tiny_backbones(*config.names, **state["changes"])
        state["last"] = loaded
        return loaded

    monkeypatch.setattr("pipeline.run.load_backbones", load)
    return state
