"""Where a cache may be written: what is there and is none stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import CacheError
from cache.reader import open_cache
from cache.writer import CacheWriter
from tests.cache.builders import (
    make_video,
    open_writer,
    read_contents,
    snapshot,
    write_cache,
)


def test_a_link_to_a_cache_is_that_cache(store: Path) -> None:
    write_cache(store, [make_video("a.mp4")])
    link = store.with_name("link" + store.suffix)
    link.symlink_to(store)
    with open_writer(link) as writer:
        writer.commit([make_video("b.mp4")], [])
        assert len(read_contents(link)["videos"]) == 2
    assert link.is_symlink()
    assert len(read_contents(store)["videos"]) == 2


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_cache_is_never_overwritten(store: Path, kind: str) -> None:
    precious = store if kind == "file" else store / "thesis.txt"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("years of work")
    for action in (open_writer, open_cache, CacheWriter.reopen):
        with pytest.raises(CacheError, match=store.name):
            action(store)
    assert precious.read_text() == "years of work"


def test_a_foreign_zarr_or_hdf5_is_never_overwritten(tmp_path: Path) -> None:
    import h5py
    import zarr

    zarr.create_array(tmp_path / "a.zarr", shape=(3,), dtype="int8")
    zarr.create_group(tmp_path / "g.zarr", attributes={"format": "something-else"})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = 1
    before = snapshot(tmp_path)
    for name in ("a.zarr", "g.zarr", "a.h5"):
        with pytest.raises(CacheError, match=f"{name} is not a onepass cache"):
            open_writer(tmp_path / name)
    assert snapshot(tmp_path) == before


def test_an_empty_folder_may_become_a_zarr_cache(tmp_path: Path) -> None:
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.h5").mkdir()
    write_cache(tmp_path / "c.zarr", [make_video("a.mp4")])
    with pytest.raises(CacheError, match="is a folder"):
        open_writer(tmp_path / "c.h5")


def test_missing_parents_are_made(store: Path) -> None:
    path = store.parent / "new" / "folders" / store.name
    write_cache(path, [make_video("a.mp4")])
    assert path.exists()


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"must end in \.zarr, \.h5 or \.hdf5"):
        open_writer(tmp_path / "cache.npz")
