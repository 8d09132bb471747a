from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cache.convert import convert
from cache.errors import CacheError, StorageFull
from cache.stores.hdf5_target import Hdf5Target
from tests.cache.builders import make_reject, make_video, read_contents, write_cache


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with long strings, of which HDF5 keeps heaps."""
    videos = [make_video(f"{n}.mp4", n_tokens=100) for n in range(30)]
    rejects = [make_reject(f"{n}.avi", detail="x" * 200) for n in range(30)]
    return write_cache(tmp_path_factory.mktemp("source") / "c.zarr", videos, rejects)


Write = Callable[[int, Any, int], int]


def refusing_from(n_bytes: int, number: int = errno.ENOSPC) -> Write:
    """A disk with room for so many bytes; what does not fit is written in part, as disks do."""
    pwrite, left = os.pwrite, [n_bytes]

    def write(descriptor: int, data: Any, offset: int) -> int:
        if not left[0]:
            raise OSError(number, os.strerror(number))
        n_written = pwrite(descriptor, data[: left[0]], offset)
        left[0] -= n_written
        return n_written

    return write


def test_a_disk_may_fill_up_at_any_byte(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = convert_size(source, tmp_path / "whole.h5")
    for n_bytes in [*range(0, 9000, 500), *range(9000, whole, whole // 30)]:
        with monkeypatch.context() as patch, pytest.raises(StorageFull, match="is full"):
            patch.setattr(os, "pwrite", refusing_from(n_bytes))
            convert(source, tmp_path / "c.h5")
        assert sorted(path.name for path in tmp_path.glob("c.h5*")) == ["c.h5.lock"]
    assert capfd.readouterr().err == ""
    assert read_contents(tmp_path / "whole.h5") == read_contents(source)


def convert_size(source: Path, target: Path) -> int:
    convert(source, target)
    return target.stat().st_size


def test_other_refusals_are_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", refusing_from(20_000, errno.EIO))
    with pytest.raises(CacheError, match="Input/output error"):
        convert(source, tmp_path / "c.h5")


def test_what_the_disk_refuses_is_read_back_until_the_file_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.arange(5000)
    target = Hdf5Target(tmp_path / "file")
    with h5py.File("any", "w", driver="fileobj", fileobj=target) as file:
        file["before"] = values
        target.check()
        monkeypatch.setattr(os, "pwrite", refusing_from(1000))
        file["after"] = values + 1
        file["later"] = ["text"] * 1000
        assert np.array_equal(file["before"][:], values)
        assert np.array_equal(file["after"][:], values + 1)
        assert file["later"].asstr()[999] == "text"
    with pytest.raises(OSError, match="No space left"):
        target.check()
    target.close()
    target.close()


def test_a_read_may_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system reads 2 GiB at most: what lay beyond came back as zeros."""
    target = Hdf5Target(tmp_path / "file")
    target.write(b"0123456789")
    monkeypatch.setattr(
        os, "pread", lambda descriptor, size, at, real=os.pread: real(descriptor, min(size, 3), at)
    )
    monkeypatch.setattr(
        os, "preadv", lambda descriptor, views, at, real=os.preadv: real(descriptor, [views[0][:3]], at)
    )
    target.seek(1)
    out = bytearray(b"x" * 12)
    assert target.readinto(out) == 12
    assert bytes(out) == b"123456789\0\0\0"
    target.close()


def test_a_signal_waits_for_hdf5_and_is_answered_then(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, heard = Hdf5Target.write, []

    def interrupted(target: Hdf5Target, data: Any) -> int:
        heard.append(len(data))
        signal.raise_signal(signal.SIGINT)
        return write(target, data)

    monkeypatch.setattr(Hdf5Target, "write", interrupted)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a job of a shell's background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "c.h5")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.h5.lock"]


SWEEP = """
import os, subprocess, sys
from cache.convert import convert
from cache.errors import StorageFull

source, folder = sys.argv[1:]
for n_blocks in range(1, 1000):
    subprocess.run(["mount", "-o", f"remount,size={4 * n_blocks}k", folder], check=True)
    try:
        convert(source, f"{folder}/c.h5")
        break
    except StorageFull:
        assert os.listdir(folder) == ["c.h5.lock"], os.listdir(folder)
print(n_blocks)
"""


def test_a_disk_of_any_size_that_is_too_small(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    try:
        done = subprocess.run(
            [sys.executable, "-c", SWEEP, source, folder],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert int(done.stdout) > 20
        assert read_contents(folder / "c.h5") == read_contents(source)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
