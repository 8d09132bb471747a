from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cache.errors import InputError
from pipeline.decoding.scratch import LOCK_FILE, NOISE_PREFIX, PREDICT_PREFIX, ScratchFolder, sweep

REPOSITORY = Path(__file__).parents[3]
HOLD = """
import time
from pipeline.decoding.scratch import PREDICT_PREFIX, ScratchFolder
folder = ScratchFolder(PREDICT_PREFIX)
(folder.path / "0.zarr").mkdir()
print(folder.path, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_held_and_removed(temp: Path) -> None:
    with ScratchFolder(NOISE_PREFIX) as folder:
        assert folder.path.parent == temp and str(os.getpid()) in folder.path.name
        sweep()
        assert (folder.path / LOCK_FILE).exists()
    assert not list(temp.iterdir())
    folder.remove()


def test_a_killed_run_is_swept_and_a_live_one_is_not(temp: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(temp)},
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert folder.parent == temp
    try:
        with ScratchFolder(NOISE_PREFIX):
            assert (folder / "0.zarr").is_dir()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with ScratchFolder(NOISE_PREFIX) as mine:
        assert list(temp.iterdir()) == [mine.path]


def test_what_is_not_known_to_be_dead_stays(temp: Path) -> None:
    """A folder without a lock (just being made, kept on purpose), one of another program, a link."""
    (temp / f"{NOISE_PREFIX}old").mkdir()
    other = temp / f"{PREDICT_PREFIX}held"
    other.mkdir()
    elsewhere = temp / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK_FILE).touch()
    (temp / f"{NOISE_PREFIX}trap").mkdir()
    (temp / f"{NOISE_PREFIX}trap" / LOCK_FILE).symlink_to(elsewhere / LOCK_FILE)
    with (other / LOCK_FILE).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep()
    assert len(list(temp.iterdir())) == 4
    with ScratchFolder(PREDICT_PREFIX) as folder:
        kept = folder.keep()
    sweep()
    assert kept.is_dir()


def test_no_temp_folder_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
    with pytest.raises(InputError, match="TMPDIR"):
        ScratchFolder(NOISE_PREFIX)
