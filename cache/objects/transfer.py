"""Files to objects and back. What arrives is held against its digest before it gets its name."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from cache.errors import CacheCorrupt
from cache.objects.bucket import Bucket
from cache.objects.record import PIECE_BYTES, TEXT_BYTES, StoredFile, digest_of, object_name
from cache.objects.store import ObjectTrouble
from cache.stores import files

THREADS = 8
T = TypeVar("T")


def describe_file(path: Path, name: str) -> StoredFile:
    """What the record says of a file, which is read once. name: its path in the record."""
    size, pieces = 0, []
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            if len(piece) <= TEXT_BYTES and not size and (text := _as_text(piece)) is not None:
                return StoredFile(name, len(piece), text=text)
            size += len(piece)
            pieces.append(digest_of(piece))
    return StoredFile(name, size, tuple(pieces))


def _as_text(data: bytes) -> str | None:
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


def send(bucket: Bucket, path: Path, span: tuple[str, int, int]) -> None:
    """Put one piece of a file at its address, without the zeros at its end, of which fresh chunks are full."""
    digest, start, length = span
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(length)
    bucket.write(object_name(digest), data.rstrip(b"\0"))


def receive(bucket: Bucket, file: StoredFile, target: Path) -> None:
    """Make `target` the file. Raises CacheCorrupt where an object is missing or holds something else, and ObjectTrouble."""
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{files.PART_SUFFIX}")
    files.make_directory(target.parent)
    try:
        with part.open("wb") as out:
            if file.text is not None:
                out.write(file.text.encode())
            for digest, _, length in file.spans():
                out.write(_piece(bucket, digest, length, of=file.path))
            out.flush()
            os.fsync(out.fileno())  # from now on its name is taken for its contents
        files.rename(part, target)
    finally:
        part.unlink(missing_ok=True)


def _piece(bucket: Bucket, digest: str, length: int, *, of: str) -> bytes:
    name = object_name(digest)
    try:
        data = bucket.read(name)
    except ObjectTrouble as trouble:
        if trouble.kind != "missing":
            raise
        raise CacheCorrupt(
            f"{bucket.url}/{name} is missing, of which the commit record makes {of}: run what wrote it again, on the machine "
            "that has its working copy, restore it, or extract again to another address"
        ) from trouble
    data = data.ljust(length, b"\0")
    if digest_of(data) != digest:
        raise CacheCorrupt(
            f"{bucket.url}/{name} does not hold what its name says, and {of} is made of it: restore it, or extract again to "
            "another address"
        )
    return data


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a second name; where the file system has no links, a copy."""
    files.make_directory(target.parent)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def in_parallel(work: Callable[[T], object], items: Iterable[T]) -> None:
    """`work` for each, some at a time; the first failure is raised and what has not begun is left."""
    todo = list(items)
    if len(todo) < 2:
        for item in todo:
            work(item)
        return
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(work, item) for item in todo]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
