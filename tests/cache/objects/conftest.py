"""A bucket for the tests of this room, and the folder of local copies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.objects import store as store_module
from tests.objects import BUCKET, Server, serving


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def bucket(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, empty and without faults; waits for another try are short."""
    monkeypatch.setattr(store_module, "FIRST_WAIT_SECONDS", 0.001)
    running.objects.clear()
    running.faults.clear()
    running.asked.clear()
    return running


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.originalname}/v1.zarr"


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where local copies lie."""
    monkeypatch.setenv("ONEPASS_OBJECTS_DIR", str(tmp_path / "local"))
    return tmp_path / "local"
