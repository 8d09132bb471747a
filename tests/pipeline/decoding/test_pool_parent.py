"""Decode workers and the process that started them: its death, its interrupts, its script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.pipeline import fakes

REPOSITORY = Path(__file__).parents[3]


PARENT = """
import sys
from pathlib import Path
from typing import Any
from tests.pipeline import fakes
from tests.pipeline.pools import settings_for
from pipeline.decoding import worker
from pipeline.decoding.pool import DecodePool, PoolSettings
from pipeline.decoding.worker import Task

if __name__ == "__main__":
    worker.main = fakes.main
    with DecodePool(PoolSettings(workers=2), worker_settings=settings_for()) as pool:
        tasks = [Task(number, path, "pyav") for number, path in enumerate(sys.argv[1:])]
        for event in pool.run(tasks):
            print("pids", *(item.process.pid for item in pool._workers), flush=True)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a pool of two: one worker hangs in C with the interpreter's lock, one decodes for long."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    paths = fakes.write_names(tmp_path, "long100000_a.mp4", "hang_b.mp4")
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, paths)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_workers_die_with_a_parent_that_is_killed(parent: subprocess.Popen[str]) -> None:
    shared = Path("/dev/shm")
    before = {path.name for path in shared.iterdir()} if shared.is_dir() else set()
    assert parent.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()[1:]]
    time.sleep(0.3)  # the second worker is in its hang by now
    assert len(workers) == 2 and all(worker.is_running() for worker in workers)
    parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive, f"still there: {alive}"
    if shared.is_dir():
        left = {path.name for path in shared.iterdir()} - before
        assert not [name for name in left if name.startswith(("pymp", "psm", "sem.mp"))]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupts_are_the_parents_to_handle(number: signal.Signals, parent: subprocess.Popen[str]) -> None:
    """Workers are deaf to them from the moment they exist: terminals and batch systems signal the whole group."""
    assert parent.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()[1:]]
    for worker in workers:
        worker.send_signal(number)
    time.sleep(0.3)
    assert all(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


def test_a_worker_does_not_import_the_calling_script(tmp_path: Path) -> None:
    """A script without a guard, with heavy imports, may use the pool: its own code never runs in a worker."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os
            from pathlib import Path
            from pipeline.decoding.pool import DecodePool, PoolSettings
            from pipeline.decoding.worker import Failed, Task, WorkerSettings
            from tests.pipeline.fakes import PLANS

            with Path(__file__).with_name("ran.txt").open("a") as file:
                file.write(f"{os.getpid()}\\n")
            settings = WorkerSettings(PLANS, max_error_share=0.2)
            with DecodePool(PoolSettings(workers=2), worker_settings=settings) as pool:
                tasks = [Task(number, "/no/such/video.mp4", "pyav") for number in range(4)]
                assert [type(event) for event in pool.run(tasks)] == [Failed] * 4
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, script], check=True, timeout=120, env=environment)
    assert len((tmp_path / "ran.txt").read_text().split()) == 1
