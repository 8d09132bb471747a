from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.convert import convert
from cache.errors import CacheCorrupt, CacheError, CacheLocked
from cache.reader import open_cache
from cache.schema import StreamSpec
from cache.stores.hdf5 import Hdf5Reader
from tests.cache.builders import CLIP, make_reject, make_video, open_writer, read_contents, write_cache


@pytest.fixture
def path(tmp_path: Path) -> Path:
    videos = [make_video(f"ü{n}.mp4") for n in range(5)]
    return write_cache(tmp_path / "c.h5", videos, [make_reject("x.mp4")])


def test_plain_h5py_reads_a_cache(path: Path) -> None:
    with open_cache(path) as cache, h5py.File(path, "r") as file:
        assert file["videos/id"].asstr()[:].tolist() == cache.videos.id.tolist()
        assert file["videos/label"][:].tolist() == cache.videos.label.tolist()
        assert np.array_equal(file["streams/clip/values"][:], cache.load("clip").values)
        assert file["streams/clip/values"].chunks is None
        assert file.attrs["format"] == "onepass-features"
        assert file.attrs["superseded_videos"].tolist() == []


def test_a_file_rewritten_with_chunks_and_compression_is_read(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "rewritten.h5"
    with h5py.File(path, "r") as before, h5py.File(other, "w") as after:
        after.attrs.update(dict(before.attrs))

        def copy(name: str, found: h5py.Group | h5py.Dataset) -> None:
            if isinstance(found, h5py.Dataset):
                text = h5py.check_string_dtype(found.dtype) is not None
                packed = {} if text else {"chunks": True, "compression": "gzip"}
                copied = after.create_dataset(name, data=found[...], dtype=found.dtype, **packed)
            else:
                copied = after.require_group(name)
            copied.attrs.update(dict(found.attrs))

        before.visititems(copy)
    assert read_contents(other) == read_contents(path)
    write_cache(other, [make_video("new.mp4")])
    assert len(read_contents(other)["videos"]) == 6


def test_large_attributes_are_stored(tmp_path: Path) -> None:
    big = {"command": "x" * 100_000}
    spec = StreamSpec("clip", 6, "float16", {"stream": "clip", "note": "y" * 100_000})
    with open_writer(tmp_path / "c.h5", streams=[spec], provenance=big) as writer:
        writer.commit([make_video("a.mp4", streams=[CLIP])], [])
    with open_cache(tmp_path / "c.h5") as cache:
        assert cache.provenance == big
        assert cache.streams["clip"].fingerprint == spec.fingerprint


@pytest.mark.parametrize("missing", ["videos/fps", "streams/clip/values", "streams/clip/offsets"])
def test_missing_arrays_are_named(path: Path, missing: str) -> None:
    with h5py.File(path, "r+") as file:
        del file[missing]
    with pytest.raises(
        CacheCorrupt, match=missing if "values" not in missing else "stream clip has no values"
    ):
        open_cache(path)


def test_wrong_types_and_attributes_are_named(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        rows = file["videos/fps"][:].astype(np.float32)
        del file["videos/fps"]
        file["videos/fps"] = rows
    with pytest.raises(CacheCorrupt, match="videos/fps is float32"):
        open_cache(path)
    with h5py.File(path, "r+") as file:
        file.attrs["provenance"] = "{"
    with pytest.raises(CacheCorrupt, match="should be JSON"):
        open_cache(path)
    with h5py.File(path, "r+") as file:  # the version is looked at first
        file.attrs["format_version"] = 7
    with pytest.raises(CacheError, match="format version 7"):
        open_cache(path)


def test_a_failed_open_lets_go_of_the_file(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = "other"
    with pytest.raises(CacheError, match="is not a onepass cache"):
        Hdf5Reader(path)
    h5py.File(path, "w").close()  # refused by HDF5 while the file is open


def test_streams_keep_their_order_in_both_formats(tmp_path: Path) -> None:
    specs = [StreamSpec(name, 3, "float16", {"stream": name}) for name in ("slowfast", "audio", "clip")]
    path = write_cache(tmp_path / "a.zarr", [make_video("a.mp4", streams=specs)], streams=specs)
    convert(path, tmp_path / "b.h5")
    for name in ("a.zarr", "b.h5"):
        with open_cache(tmp_path / name) as cache:
            assert list(cache.streams) == ["audio", "clip", "slowfast"]


def test_a_file_that_is_open_elsewhere_is_no_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    code = f"import h5py; f = h5py.File({str(path)!r}, 'w'); f['x'] = 1; f.flush(); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        try:
            with pytest.raises(CacheLocked, match=r"c\.h5 cannot be read: another program holds it open"):
                Hdf5Reader(path)
        finally:
            process.kill()
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CacheError, match="is not a onepass cache"):
        Hdf5Reader(path)


def test_a_share_without_locks_is_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = h5py.File

    def on_share(*args: object, locking: bool | None = None, **options: object) -> h5py.File:
        if locking is not False:
            raise OSError(
                37,
                "Unable to open file (unable to lock file, errno = 37, error message = 'No locks available')",
            )
        return file(*args, locking=locking, **options)

    monkeypatch.setattr(h5py, "File", on_share)
    path = write_cache(tmp_path / "c.h5", [make_video("a.mp4")])
    assert len(read_contents(path)["videos"]) == 1
