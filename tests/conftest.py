"""Shared by all tests."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

WORKER_MODULES = ("pipeline.decoding.worker", "pipeline.decoding.decoders.pyav", "av", "cv2")


@pytest.fixture(scope="module")
def forked_workers() -> Iterator[None]:
    """Decode workers are forked from a process that has imported what they need, a tenth of the processor time of a start from

    nothing. For tests that need what workers decode; those of starts, lives and deaths take the real ones.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WORKER_MODULES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pipeline.decoding.pool.multiprocessing", SimpleNamespace(get_context=lambda _: context)
        )
        yield


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training's six figures are not drawn: they take longer than a small training does."""
    monkeypatch.setattr("heads.report.outputs.training_figures", lambda *_: ())
