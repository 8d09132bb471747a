"""Shared by all tests."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

TESTS = Path(__file__).parent
COSTLY = (
    "heads/training/test_cross_validation.py",
    "pipeline/backbones/test_parity.py",
    "pipeline/decoding/test_pool.py",
    "test_cli_extract.py",
    "heads/test_estimator.py",
    "pipeline/backbones/kinds/test_torchvision.py",
    "pipeline/test_numbered.py",
    "cache/test_writer.py",
    "heads/training/test_jobs.py",
    "pipeline/test_passing.py",
    "pipeline/backbones/test_load.py",
    "pipeline/test_run.py",
    "heads/training/test_batched.py",
    "heads/audit/test_audit.py",
    "pipeline/backbones/kinds/test_pytorchvideo.py",
    "heads/ablation/test_sweep.py",
    "heads/report/test_curves.py",
    "heads/training/test_portfolio.py",
    "cache/test_crash_points.py",
    "pipeline/backbones/kinds/test_new_stream_doc.py",
    "heads/report/test_page.py",
    "heads/cli/test_ablate.py",
    "cache/test_merge.py",
    "pipeline/decoding/test_frames.py",
    "pipeline/backbones/kinds/test_timm.py",
    "cache/test_reader.py",
    "pipeline/test_add_stream.py",
    "heads/audit/test_shortcut.py",
    "pipeline/cli/test_streams.py",
    "cache/test_kill.py",
    "heads/cli/test_report.py",
    "pipeline/backbones/test_launch_cuda.py",
    "cache/test_machine.py",
    "heads/cli/test_evaluate.py",
    "heads/training/test_fit.py",
    "cache/test_check.py",
    "pipeline/backbones/kinds/test_open_clip.py",
    "heads/training/test_adamw.py",
    "cache/test_writer_failures.py",
    "heads/test_train.py",
    "cache/process/test_ending.py",
    "heads/models/test_model.py",
    "heads/trained/test_timeline.py",
    "heads/report/test_tensorboard.py",
)
"""Modules that take more than about five seconds of processor time, the costliest first. They begin first, so that no process is

left alone with one at the end, and `make quick` goes without them.
"""
WORKER_MODULES = ("pipeline.decoding.worker", "pipeline.decoding.decoders.pyav", "av", "cv2")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the costly tests and let them begin."""
    places = {TESTS / name: place for place, name in enumerate(COSTLY)}
    for item in items:
        if item.path in places:
            item.add_marker(pytest.mark.costly)
    items.sort(key=lambda item: places.get(item.path, len(COSTLY)))


@contextmanager
def _forked() -> Iterator[None]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WORKER_MODULES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pipeline.decoding.pool.multiprocessing", SimpleNamespace(get_context=lambda _: context)
        )
        yield


@pytest.fixture(scope="module")
def forked_workers() -> Iterator[None]:
    """Decode workers are forked from a process that has imported what they need, a tenth of the processor time of a start from

    nothing. For tests that need what workers decode; those of starts, lives and deaths take the real ones.
    """
    with _forked():
        yield


@pytest.fixture
def forked_here() -> Iterator[None]:
    """`forked_workers` for one test of a module."""
    with _forked():
        yield


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training's six figures are not drawn: they take longer than a small training does."""
    monkeypatch.setattr("heads.report.outputs.training_figures", lambda *_: ())
