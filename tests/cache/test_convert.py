from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cache import copying
from cache.convert import convert
from cache.errors import CacheCorrupt, CacheError, CacheLocked, CacheNotFound
from cache.reader import open_cache
from tests.cache.builders import make_reject, make_video, open_writer, read_contents, write_cache


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one cache in both formats. Read-only by agreement."""
    folder = tmp_path_factory.mktemp("made")
    for path in (folder / "cache.zarr", folder / "cache.h5"):
        write_cache(
            path, [make_video(f"ü{n}.mp4") for n in range(5)], [make_reject("x.mp4"), make_reject("y.mp4")]
        )
        write_cache(path, [make_video("ü1.mp4", version=1)], [make_reject("x.mp4", "deadline")])
    return folder


@pytest.fixture
def source(store: Path, made: Path) -> Path:
    (shutil.copytree if store.suffix == ".zarr" else shutil.copy)(made / store.name, store)
    shutil.copy(made / f"{store.name}.lock", store.parent)
    return store


@pytest.mark.parametrize("suffix", [".zarr", ".h5", ".hdf5"])
def test_conversion_is_lossless_and_drops_superseded_rows(source: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / "elsewhere" / f"target{suffix}"
    convert(source, target)
    assert read_contents(target) == read_contents(source)
    with open_cache(source) as before, open_cache(target) as after:
        assert after.stores[0].n_rows("videos/id") == after.n_videos == 5
        assert after.stores[0].n_rows("rejects/id") == 2
        assert (after.dataset, after.provenance, after.specs) == (
            before.dataset,
            before.provenance,
            before.specs,
        )


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_converted_cache_can_be_appended_to(source: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"target{suffix}"
    convert(source, target)
    write_cache(target, [make_video("new.mp4")])
    write_cache(source, [make_video("new.mp4")])
    assert read_contents(target) == read_contents(source)


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_an_existing_cache_is_replaced_only_when_told(source: Path, tmp_path: Path, suffix: str) -> None:
    target = write_cache(tmp_path / f"target{suffix}", [make_video("other.mp4")])
    with pytest.raises(CacheError, match="exists; remove it, give another name"):
        convert(source, target)
    assert len(read_contents(target)["videos"]) == 1
    convert(source, target, overwrite=True)
    assert read_contents(target) == read_contents(source)
    assert {entry.name for entry in tmp_path.iterdir()} == {
        source.name,
        source.name + ".lock",
        target.name,
        target.name + ".lock",
    }


def test_an_unfinished_target_counts_as_existing(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.h5"
    writer = open_writer(target)
    writer.commit([make_video("a.mp4")], [])
    with pytest.raises(CacheLocked):
        convert(source, target)
    writer._release()  # as if killed: only the staging folder is there
    with pytest.raises(CacheError, match="exists"):
        convert(source, target)
    convert(source, target, overwrite=True)
    assert read_contents(target) == read_contents(source)
    assert not (tmp_path / "target.h5.staging").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_cache_is_never_replaced(source: Path, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.h5").write_text("years of work")
    (tmp_path / "thesis.zarr").mkdir()
    (tmp_path / "thesis.zarr" / "thesis.txt").write_text("years of work")
    for name in ("thesis.h5", "thesis.zarr"):
        with pytest.raises(CacheError, match=f"{name} exists and will not be overwritten"):
            convert(source, tmp_path / name, overwrite=overwrite)
    assert (tmp_path / "thesis.h5").read_text() == "years of work"
    assert (tmp_path / "thesis.zarr" / "thesis.txt").read_text() == "years of work"


def test_a_cache_cannot_become_itself(source: Path) -> None:
    with pytest.raises(CacheError, match="into itself"):
        convert(source, source, overwrite=True)


def test_names_are_checked(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheNotFound):
        convert(tmp_path / "nosuch.zarr", tmp_path / "target.h5")
    with pytest.raises(CacheError, match="must end in"):
        convert(source, tmp_path / "target.npz")
    assert not list(tmp_path.glob("target*"))


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_failure_leaves_no_partial_result(
    source: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_late(*_: object, **__: object) -> None:
        raise CacheCorrupt("the source cannot be read")

    existing = write_cache(tmp_path / f"existing{suffix}", [make_video("other.mp4")])
    monkeypatch.setattr(copying.Cache, "iter_rows", fail_late)
    for target, overwrite in ((tmp_path / f"target{suffix}", False), (existing, True)):
        before = {entry.name for entry in tmp_path.iterdir()}
        with pytest.raises(CacheCorrupt, match="the source cannot be read"):
            convert(source, target, overwrite=overwrite)
        assert {entry.name for entry in tmp_path.iterdir()} - before <= {target.name + ".lock"}
    assert len(read_contents(existing)["videos"]) == 1
