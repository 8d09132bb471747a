from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from cache.errors import CacheError, StorageFull
from cache.stores import files


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(errno.ENOSPC, "No space"), StorageFull, "is full; everything committed before is intact"),
        (OSError(errno.EDQUOT, "Quota"), StorageFull, "Make room"),
        (OSError("Can't write data (errno = 28, error message = 'No space left')"), StorageFull, "full"),
        (PermissionError(errno.EACCES, "denied", "x/y"), CacheError, "cannot write x/y: Permission denied"),
        (OSError("something odd"), CacheError, "cannot write there: something odd"),
    ],
)
def test_errors_of_the_system_become_those_of_the_project(
    error: OSError, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message), files.storage_errors(Path("there")):
        raise error


def test_replace_keeps_the_old_contents_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    files.replace(path, b"old")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        files.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_at_makes_files_of_full_size(tmp_path: Path) -> None:
    files.write_at(tmp_path / "a", 3, b"xyz", file_size=8)
    assert (tmp_path / "a").read_bytes() == b"\0\0\0xyz\0\0"
    files.write_at(tmp_path / "a", 6, b"!", file_size=8)
    assert (tmp_path / "a").read_bytes() == b"\0\0\0xyz!\0"


def test_short_writes_and_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 10
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: pwrite(fd, view[:100], offset))
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: preadv(fd, [views[0][:70]], offset))
    files.replace(tmp_path / "a", data)
    out = np.empty(len(data), np.uint8)
    files.read_pieces([(tmp_path / "a", 0, out.data)])
    assert out.tobytes() == data


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_reads_are_shared_out(tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "READ_THREADS", threads)
    monkeypatch.setattr(files, "_THREADS_FROM_BYTES", 1)
    data = os.urandom(10_001)
    (tmp_path / "a").write_bytes(data)
    out = np.empty(10_000, np.uint8)
    sizes = [1, 4_999, 3_000, 2_000]
    pieces: list[files.Piece] = []
    position = 0
    for size in sizes:
        pieces.append((tmp_path / "a", 1 + position, out[position : position + size].data))
        position += size
    files.read_pieces(pieces)
    assert out.tobytes() == data[1:]
    with pytest.raises(OSError, match="it ends before byte") as caught:
        files.read_pieces([(tmp_path / "a", 5_000, out.data)])
    assert caught.value.filename == str(tmp_path / "a")


def test_what_a_successor_removed_or_has_under_way_gets_no_name(tmp_path: Path) -> None:
    """The late one is stopped after its check, and its successor is in the midst of its own part."""
    path = tmp_path / "a"
    path.write_bytes(b"committed")
    checks = []

    def check() -> None:
        if checks:
            raise CacheError("taken over")
        checks.append(late.beside(path, files.PART_SUFFIX).unlink())
        new.beside(path, files.PART_SUFFIX).write_bytes(b"half")

    late, new = files.Fence("late", check), files.Fence("new", lambda: None)
    with pytest.raises(CacheError, match="taken over"):
        files.replace(path, b"too late", fence=late)
    assert path.read_bytes() == b"committed"
    assert new.beside(path, files.PART_SUFFIX).read_bytes() == b"half"


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_a_successors_is_put_back(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "a"
    if folder:
        path.mkdir()
    file = path / "b" if folder else path
    file.write_bytes(b"a dead one's")
    checks = []

    def check() -> None:
        if checks:
            raise CacheError("taken over")
        checks.append(file.write_bytes(b"the successor's"))

    with pytest.raises(CacheError, match="taken over"):
        files.take_away(path, tmp_path / "aside", files.Fence("late", check))
    assert file.read_bytes() == b"the successor's" and not (tmp_path / "aside").exists()
    files.take_away(path, tmp_path / "aside", files.NO_FENCE)
    files.take_away(path, tmp_path / "aside", files.NO_FENCE)
    assert not list(tmp_path.iterdir())
