"""A bucket for the tests of this room, and the folder of local copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.objects import BUCKET, Server, emptied
from tests.objects import serve as serve


@pytest.fixture
def bucket(serve: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    return emptied(serve, monkeypatch)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.originalname}/v1.zarr"


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where local copies lie."""
    monkeypatch.setenv("ONEPASS_OBJECTS_DIR", str(tmp_path / "local"))
    return tmp_path / "local"
