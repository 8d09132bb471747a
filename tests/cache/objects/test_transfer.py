from __future__ import annotations

import os
from pathlib import Path

import pytest

from cache.errors import CacheCorrupt
from cache.objects import record as record_module
from cache.objects import transfer
from cache.objects.bucket import Bucket
from cache.objects.record import object_name
from cache.objects.transfer import describe_file, in_parallel, link_or_copy, receive, send


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A folder that stands for a bucket, and pieces of 8 KiB."""
    for module in (record_module, transfer):
        monkeypatch.setattr(module, "PIECE_BYTES", 8192)
    return Bucket(f"file://{tmp_path}/bucket")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff" * 10,
        b"text" + bytes(8188),
        bytes(8192),
        pytest.param(os.urandom(20000), id="random"),
        bytes(9000) + b"x" + bytes(9000),
    ],
)
def test_a_file_goes_up_and_comes_back_the_same(data: bytes, bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    file = describe_file(path, "v.zarr/file")
    assert file.size == len(data) and len(file.pieces) == (
        0 if file.text is not None else -(-len(data) // 8192)
    )
    for span in file.spans():
        send(bucket, path, span)
    receive(bucket, file, tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_bytes() == data
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["file"]
    assert describe_file(tmp_path / "new" / "file", "v.zarr/file") == file


def test_zeros_at_the_end_are_not_sent(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "chunk"
    path.write_bytes(b"rows" + bytes(8188))
    file = describe_file(path, "v.zarr/chunk")
    send(bucket, path, next(file.spans()))
    assert bucket.read(object_name(file.pieces[0])) == b"rows"


def test_what_is_damaged_or_missing_is_named(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "chunk"
    path.write_bytes(os.urandom(8192))
    file = describe_file(path, "v.zarr/chunk")
    name = object_name(file.pieces[0])
    with pytest.raises(CacheCorrupt, match=rf"{bucket.url}/{name} is missing, .* v.zarr/chunk"):
        receive(bucket, file, tmp_path / "out")
    for damaged in (path.read_bytes()[:-1], path.read_bytes() + b"more", b"other"):
        bucket.write(name, damaged)
        with pytest.raises(CacheCorrupt, match=rf"{name} does not hold what its name says, and v.zarr/chunk"):
            receive(bucket, file, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_links_or_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "blob"
    source.write_bytes(b"x")
    link_or_copy(source, tmp_path / "a" / "linked")
    assert (tmp_path / "a" / "linked").samefile(source)

    def refuse(*_: object) -> None:
        raise OSError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(source, tmp_path / "a" / "copied")
    assert (tmp_path / "a" / "copied").read_bytes() == b"x"
    assert not (tmp_path / "a" / "copied").samefile(source)


def test_the_first_failure_of_many_is_raised() -> None:
    done: list[int] = []
    in_parallel(done.append, range(20))
    assert sorted(done) == list(range(20))

    def fail(number: int) -> None:
        if number == 3:
            raise CacheCorrupt("the third")

    for many in ([3], range(5)):
        with pytest.raises(CacheCorrupt, match="the third"):
            in_parallel(fail, many)
