"""Reading caches in object storage: a local copy kept by digest, so that a state is fetched once.

    <objects folder>/blobs/<dd>/<digest>       files of one piece that arrived, each held against its digest
    <objects folder>/trees/<record's digest>/  one published state: its files under their names, mostly further names of blobs

A state that is here already costs one request, for the record. The folders may be removed when nothing reads from them.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

from cache.errors import CacheCorrupt, CacheNotFound
from cache.objects.address import objects_folder, remote_url
from cache.objects.bucket import Bucket
from cache.objects.record import RECORD_NAME, CommitRecord, StoredFile, digest_of
from cache.objects.transfer import in_parallel, link_or_copy, receive
from cache.stores import files


def local_copies(paths: Sequence[Path]) -> list[Path]:
    """Local paths as they are; for each address the path of a local copy of what is published there now.

    Raises CacheNotFound, CacheCorrupt (an object is missing or damaged), StorageFull and CacheError.
    """
    found = dict(enumerate(paths))
    remote = [(place, url) for place, path in enumerate(paths) if (url := remote_url(path)) is not None]

    def fetch(one: tuple[int, str]) -> None:
        found[one[0]] = _local_copy(one[1])

    in_parallel(fetch, remote)
    return [found[place] for place in range(len(paths))]


def _local_copy(url: str) -> Path:
    bucket = Bucket(url, make=False)
    root = objects_folder()
    data = _read_record(bucket)
    while True:
        record = CommitRecord.from_bytes(data, where=f"{bucket.url}/{RECORD_NAME}")
        tree = root / "trees" / digest_of(data)
        try:
            if not tree.is_dir():
                with files.storage_errors(root):
                    _make_tree(bucket, record, root / "blobs", tree)
            return tree / record.name
        except CacheCorrupt:
            before, data = data, _read_record(bucket)
            if (
                data == before
            ):  # else a writer went on meanwhile, and what the older record named was swept away
                raise


def _read_record(bucket: Bucket) -> bytes:
    found = bucket.read_record()
    if found is None:
        raise CacheNotFound(
            f"no cache at {bucket.url}: nothing was published there ({RECORD_NAME} is missing)"
        )
    return found[0]


def _make_tree(bucket: Bucket, record: CommitRecord, blobs: Path, tree: Path) -> None:
    creating = tree.with_name(f"{tree.name}.{uuid.uuid4().hex[:8]}.creating")

    def blob(file: StoredFile) -> Path:
        return blobs / file.pieces[0][:2] / file.pieces[0]

    def make(file: StoredFile) -> None:
        if len(file.pieces) == 1:
            link_or_copy(blob(file), creating / file.path)
        else:  # text, or a large file, which only this state has
            receive(bucket, file, creating / file.path)

    single = {file.pieces[0]: file for file in record.files if len(file.pieces) == 1}
    try:
        lacking = [file for file in single.values() if not blob(file).exists()]
        in_parallel(lambda file: receive(bucket, file, blob(file)), lacking)
        files.make_directory(creating)
        in_parallel(make, record.files)
        try:
            files.rename(creating, tree)
        except OSError:
            if not tree.is_dir():  # else another reader was faster, with the same
                raise
    finally:
        files.remove_tree(creating)
