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
    *("pipeline/decoding/test_pool.py", "pipeline/backbones/test_parity.py"),
    *("heads/training/test_cross_validation.py", "test_cli_extract.py", "heads/test_estimator.py"),
    *("heads/training/test_jobs.py", "pipeline/test_run.py", "cache/test_writer.py"),
    *("pipeline/test_numbered.py", "pipeline/test_passing.py", "pipeline/backbones/test_load.py"),
    *("heads/ablation/test_sweep.py", "heads/cli/test_ablate.py", "heads/audit/test_audit.py"),
    *("pipeline/backbones/test_launch_cuda.py", "heads/trained/test_timeline.py"),
    *("heads/report/test_page.py", "pipeline/test_add_stream.py", "heads/report/test_curves.py"),
    *("cache/test_crash_points.py", "cache/test_reader.py", "pipeline/decoding/test_frames.py"),
    *("heads/training/test_batched.py", "cache/test_machine.py", "test_predict.py"),
    *("heads/cli/test_report.py", "heads/audit/test_shortcut.py", "cache/test_check.py"),
    *("heads/training/test_portfolio.py", "cache/test_kill.py", "heads/cli/test_evaluate.py"),
    *("cache/test_writer_failures.py", "heads/data/test_fold_file.py", "heads/test_train.py"),
    *("heads/trained/test_evaluation.py", "heads/training/test_fit.py", "cache/labels/test_join.py"),
    *("heads/training/test_adamw.py", "cache/process/test_ending.py"),
    *("pipeline/backbones/test_slowfast_planes.py", "heads/models/test_model.py"),
    *("heads/training/test_out_of_fold.py", "cache/test_convert.py", "cache/stores/test_zarr_read.py"),
    *("heads/report/test_tensorboard.py", "heads/audit/test_probe.py", "heads/cli/test_train.py"),
    *("heads/cli/test_audit.py", "test_end_to_end.py", "heads/test_robustness.py"),
    *("heads/report/test_outputs.py", "pipeline/backbones/test_engine.py"),
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
