"""Fixtures for store tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest


@pytest.fixture(params=["zarr", "h5"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The path of a cache that does not exist yet, once for each format."""
    return tmp_path / f"cache.{request.param}"


@pytest.fixture(scope="module")
def without_fsync() -> Iterator[None]:
    """Skip waiting for the disk: a killed process loses nothing that it handed to the system."""
    with mock.patch.object(os, "fsync"):
        yield
