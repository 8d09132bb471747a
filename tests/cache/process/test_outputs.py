from __future__ import annotations

import errno
import os
import resource
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cache.errors import InputError, StorageFull
from cache.process.outputs import require_cache_output, require_output, require_output_folder, write_output


def test_what_can_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    require_output("--out", tmp_path / "a" / "b" / "s.csv")
    require_output_folder("--out", tmp_path / "a" / "b")
    require_output_folder("--out", tmp_path)
    require_output("--report", Path("/dev/null"))
    (tmp_path / "old.csv").write_text("old", encoding="utf-8")
    require_output("--out", tmp_path / "old.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["old.csv"]
    assert (tmp_path / "old.csv").read_text(encoding="utf-8") == "old"


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "s.csv.part").mkdir()
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr" / "zarr.json").touch()
    (tmp_path / "loose").symlink_to(tmp_path / "nowhere" / "x")
    for call, path, words in (
        (require_output, tmp_path, "is a folder"),
        (require_output, tmp_path / "file" / "s.csv", "file is a file"),
        (require_output, tmp_path / "s.csv", "is in the way"),
        (require_output, tmp_path / ("x" * 254), "File name too long"),
        (require_output, Path("/proc/nowhere/s.csv"), "cannot be written"),
        (require_output_folder, tmp_path / "file", "is a file"),
        (require_output_folder, tmp_path / "c.zarr", "is a feature cache"),
        (require_output_folder, tmp_path / "loose" / "a", "leads nowhere"),
        (require_output_folder, Path("/proc/nowhere"), "cannot be written"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            call("--out", path)
        assert str(caught.value).startswith(f"--out {path}: ")


@pytest.mark.parametrize(("number", "kind"), [(errno.EROFS, InputError), (errno.ENOSPC, StorageFull)])
def test_a_disk_that_takes_nothing(
    number: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(kind, match=os.strerror(number)):
        require_output("--out", tmp_path / "s.csv")


def test_a_disk_that_is_full_still_takes_empty_files(tmp_path: Path) -> None:
    """Told before the work all the same; by a file size limit, which stands in for the disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(InputError, match="File too large"):
            require_cache_output("--out", tmp_path / "c.zarr")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_writing_is_one_step(tmp_path: Path) -> None:
    write_output("--out", tmp_path / "a" / "s.csv", b"new")
    assert (tmp_path / "a" / "s.csv").read_bytes() == b"new"
    write_output("--out", Path("/dev/null"), b"new")
    with pytest.raises(InputError, match="--out"):
        write_output("--out", tmp_path, b"new")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["s.csv"]


def test_a_cache_that_is_there_must_take_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "c.zarr"
    require_cache_output("--out", cache)
    cache.mkdir()
    require_cache_output("--out", cache)
    assert list(tmp_path.rglob("*")) == [cache]
    make = tempfile.mkstemp

    def refuse(*args: Any, dir: Path, **options: Any) -> Any:  # noqa: A002
        if dir == cache:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))
        return make(*args, dir=dir, **options)

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(InputError, match=r"--out .*c\.zarr: cannot be written: Permission denied"):
        require_cache_output("--out", cache)
