"""Shared by all tests."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

TESTS = Path(__file__).parent
COSTLY = (
    "heads/test_absent_streams.py",
    "cache/test_optional.py",
    "test_cli_extract.py",
    "test_cli_extract_refusals.py",
    "pipeline/decoding/test_pool.py",
    "pipeline/decoding/test_pool_parent.py",
    "pipeline/test_passing.py",
    "pipeline/backbones/kinds/test_logmel.py",
    "pipeline/test_words.py",
    "pipeline/backbones/test_parity.py",
    "pipeline/test_numbered.py",
    "cache/test_writer.py",
    "cache/test_writer_paths.py",
    "heads/training/test_cross_validation.py",
    "heads/test_estimator.py",
    "pipeline/imports/test_run.py",
    "cache/test_merge.py",
    "pipeline/backbones/test_load.py",
    "pipeline/backbones/test_load_settings.py",
    "pipeline/test_add_stream.py",
    "pipeline/test_run.py",
    "heads/training/test_jobs.py",
    "heads/report/test_curves.py",
    "heads/training/test_batched.py",
    "heads/audit/test_audit.py",
    "pipeline/backbones/kinds/test_pytorchvideo.py",
    "heads/cli/test_ablate.py",
    "pipeline/backbones/kinds/test_torchvision.py",
    "test_spoken_words.py",
    "pipeline/backbones/test_text_models.py",
    "cache/test_kill.py",
    "heads/training/test_portfolio.py",
    "heads/ablation/test_sweep.py",
    "cache/labels/test_join.py",
    "pipeline/test_redo.py",
    "pipeline/decoding/test_hearing.py",
    "pipeline/decoding/test_frames.py",
    "pipeline/backbones/kinds/test_transformers.py",
    "cache/test_crash_points.py",
    "heads/cli/test_report.py",
    "heads/test_train.py",
    "heads/report/test_tensorboard.py",
    "pipeline/backbones/kinds/test_timm.py",
    "heads/audit/test_shortcut.py",
    "heads/training/test_fit.py",
    "cache/test_machine.py",
    "pipeline/backbones/kinds/test_new_stream_doc.py",
    "cache/test_reader.py",
    "cache/test_features.py",
    "pipeline/backbones/kinds/test_open_clip.py",
    "heads/report/test_page.py",
    "heads/audit/test_probe.py",
    "heads/models/test_model.py",
    "cache/process/test_ending.py",
    "heads/cli/test_audit.py",
    "cache/test_check.py",
    "heads/training/test_adamw.py",
    "pipeline/cli/test_streams.py",
    "pipeline/backbones/test_heard.py",
    "test_predict.py",
    "heads/trained/test_timeline.py",
    "pipeline/backbones/test_launch_cuda.py",
    "pipeline/backbones/test_slowfast_planes.py",
    "heads/data/test_fold_file.py",
    "pipeline/test_verify.py",
    "heads/report/test_show.py",
    "heads/cli/test_evaluate.py",
    "heads/trained/test_evaluation.py",
    "pipeline/test_sound_alone.py",
    "heads/training/test_out_of_fold.py",
    "test_end_to_end.py",
    "heads/trained/test_rethreshold.py",
    "pipeline/backbones/test_spread.py",
    "heads/models/test_regression.py",
    "pipeline/test_zero_shot.py",
    "test_remote_out.py",
    "cache/objects/test_mirror.py",
    "pipeline/decoding/test_fetching.py",
    "pipeline/decoding/test_fetcher_alone.py",
    "cache/test_lease.py",
    "heads/report/test_outputs.py",
    "heads/ablation/test_leaderboard_files.py",
    "pipeline/backbones/kinds/test_motion.py",
    "cache/test_convert.py",
    "heads/test_python_door.py",
)
"""Modules that take more than about four seconds of processor time, the costliest first. They begin first, so that no process is

left alone with one at the end, and `make quick` goes without them.
"""
SLOWEST = (
    "test_cli_extract.py",
    "pipeline/backbones/test_parity.py",
    "test_end_to_end.py",
    "heads/test_absent_streams.py",
    "pipeline/test_words.py",
    "test_gpu_day.py",
    "heads/trained/test_export.py",
    "heads/training/test_jobs.py",
    "heads/ablation/test_sweep.py",
    "heads/test_docs_python.py",
    "cache/objects/test_mirror.py",
    "test_remote_out.py",
    "test_spoken_words.py",
    "pipeline/backbones/kinds/test_torchvision.py",
    "heads/test_robustness.py",
    "heads/training/test_portfolio.py",
    "test_shards.py",
    "pipeline/engines/test_on_ray.py",
    "pipeline/backbones/kinds/test_transformers.py",
    "pipeline/test_numbered.py",
    "pipeline/backbones/test_heard.py",
)
"""The same where only slow tests are run: modules whose slow tests take more than 12 seconds."""
every_kill = pytest.mark.skipif(
    not os.environ.get("ONEPASS_EVERY_CRASH_POINT"),
    reason="kills once more: ONEPASS_EVERY_CRASH_POINT=1 runs them",
)
"""For what is killed in the same way elsewhere, on another format or by another signal."""
IN_MEMORY = Path("/dev/shm")
NEEDED_BYTES = 4 << 30
WORKER_MODULES = ("pipeline.decoding.worker", "pipeline.decoding.decoders.pyav", "av", "cv2")


def pytest_configure() -> None:
    """Files of tests lie in memory where there is room: writing them to a disk and removing them takes longer than many tests."""
    if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > NEEDED_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))
    gc.disable()


def pytest_collection_finish() -> None:
    """Until here a third of the time would go into looking for garbage among modules, which stay: nor is it looked for later."""
    gc.freeze()
    gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Quick tests do not even import the modules that they leave out."""
    quick = "not costly" in config.option.markexpr
    return True if quick and collection_path in {TESTS / name for name in COSTLY} else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the costly tests and let them begin."""
    places = {TESTS / name: place for place, name in enumerate(COSTLY)}
    for item in items:
        if item.path in places:
            item.add_marker(pytest.mark.costly)
    if config.option.markexpr == "slow":
        places = {TESTS / name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


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
