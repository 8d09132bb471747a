from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cache.check import check_cache
from cache.errors import CacheCorrupt, CacheError
from cache.reader import open_cache
from cache.schema import VideoLabel
from cache.stores.zarr_read import ZarrReader
from tests.cache.builders import contents, make_reject, make_video, open_writer, read_contents, write_cache


@pytest.fixture
def path(tmp_path: Path) -> Path:
    videos = [make_video(f"ü{n}.mp4") for n in range(5)]
    return write_cache(tmp_path / "c.zarr", videos, [make_reject("x.mp4")])


@pytest.mark.parametrize("consolidated", [True, False])
def test_plain_zarr_reads_a_cache_without_a_warning(path: Path, consolidated: bool) -> None:
    with open_cache(path) as cache, warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(path, mode="r", use_consolidated=consolidated)
        for name in ("id", "label", "duration_seconds", "mtime_ns", "width"):
            assert group[f"videos/{name}"][:].tolist() == getattr(cache.videos, name).tolist()
        assert group["rejects/reason"][:].tolist() == ["no-frames"]
        for stream in ("clip", "slowfast"):
            tokens = cache.load(stream)
            assert np.array_equal(group[f"streams/{stream}/values"][:], tokens.values)
            assert np.array_equal(group[f"streams/{stream}/spans"][:], tokens.spans)
            assert np.array_equal(group[f"streams/{stream}/offsets"][:], tokens.offsets)
            assert group[f"streams/{stream}"].attrs["fingerprint"] == cache.streams[stream].fingerprint
        assert group.attrs["format"] == "onepass-features"
        assert sorted(name for name, _ in group.groups()) == ["rejects", "streams", "videos"]


def rewrite_with_zarr(source: Path, target: Path) -> None:
    """What another tool may do: the same arrays with other chunks, keys and compression."""
    before = zarr.open_group(source, mode="r")
    after = zarr.create_group(target, attributes=dict(before.attrs))
    for group in ("videos", "rejects", "streams", "streams/clip", "streams/slowfast"):
        after.require_group(group).attrs.update(dict(before[group].attrs))
        for name, array in before[group].arrays():
            chunks = tuple(min(2, max(1, size)) for size in array.shape)
            dtype = str if array.dtype == object else array.dtype  # NumPy before 2.0 has strings as objects
            copied = after[group].create_array(name, shape=array.shape, chunks=chunks, dtype=dtype)
            copied[...] = array[...]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is not in the Zarr v3 specification yet
        zarr.consolidate_metadata(target)


def test_a_cache_rewritten_with_compression_is_read_but_not_appended_to(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "rewritten.zarr"
    rewrite_with_zarr(path, other)
    assert read_contents(other) == read_contents(path)
    with open_cache(other) as cache:
        assert check_cache(cache) == []
        assert cache.read("clip", [3, 1])[1].values.shape == cache.tokens("clip", 1).values.shape
    with pytest.raises(CacheError, match=r"rewritten with other codecs or file names.*onepass convert"):
        open_writer(other)


def test_a_torn_compressed_chunk_is_reported(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "rewritten.zarr"
    rewrite_with_zarr(path, other)
    (other / "streams" / "clip" / "values" / "c" / "0" / "0").write_bytes(b"junk")
    with (
        open_cache(other) as cache,
        pytest.raises(CacheCorrupt, match="zarr cannot read streams/clip/values"),
    ):
        cache.load("clip")


def change_root(path: Path, change: Any) -> None:
    root = json.loads((path / "zarr.json").read_text())
    change(root)
    (path / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: root["attributes"].update(format_version=99), "format version 99; this onepass reads"),
        (lambda root: root["attributes"].pop("dataset"), "root attributes are incomplete"),
        (lambda root: root["attributes"].update(format="other"), "is not a onepass cache"),
        (lambda root: root.pop("consolidated_metadata"), "consolidated metadata is malformed"),
        (lambda root: root["consolidated_metadata"]["metadata"].pop("videos/fps"), "videos/fps is missing"),
        (
            lambda root: root["consolidated_metadata"]["metadata"]["videos/fps"].update(data_type="float32"),
            "videos/fps is float32",
        ),
        (
            lambda root: root["consolidated_metadata"]["metadata"]["videos/fps"].update(shape=[3]),
            "videos/fps has 3 rows but videos/id has 5",
        ),
        (
            lambda root: root["consolidated_metadata"]["metadata"]["streams/clip/spans"].update(shape=[3, 2]),
            "values but 3 spans",
        ),
        (
            lambda root: root["consolidated_metadata"]["metadata"]["streams/clip/offsets"].update(shape=[9]),
            "clip has 9 offsets for 5 videos",
        ),
        (
            lambda root: root["consolidated_metadata"]["metadata"].pop("streams/clip/values"),
            "stream clip has no values",
        ),
        (
            lambda root: root["consolidated_metadata"]["metadata"]["streams/clip"].update(attributes={}),
            "clip has no fingerprint",
        ),
    ],
)
def test_a_root_record_that_makes_no_sense_is_refused(path: Path, change: Any, message: str) -> None:
    change_root(path, change)
    with pytest.raises(CacheError, match=message):
        open_cache(path)
    with pytest.raises(CacheError):
        open_writer(path)


def test_a_root_record_that_is_not_json_is_refused(path: Path) -> None:
    (path / "zarr.json").write_text("{")
    with pytest.raises(CacheCorrupt, match="is not JSON"):
        open_cache(path)


@pytest.mark.parametrize(
    ("chunk", "contents_now"),
    [("videos/id/c.0", b"\x01"), ("videos/label/c.0", b""), ("streams/clip/values/c.0.0", b"abc")],
)
def test_damaged_chunks_are_named(path: Path, chunk: str, contents_now: bytes) -> None:
    (path / chunk).write_bytes(contents_now)
    with open_cache(path) as cache, pytest.raises(CacheCorrupt, match=chunk.replace(".", r"\.")):
        contents(cache)
    (path / chunk).unlink()
    with open_cache(path) as cache, pytest.raises(CacheCorrupt, match="No such file"):
        contents(cache)


def test_a_pending_relabel_is_seen(path: Path) -> None:
    (path / "relabel.json").write_text(
        json.dumps(
            {
                "columns": {"split": {"rows": [1, 99], "values": ["test", "beyond"]}},
                "label_names": ["safe", "harmful"],
            }
        )
    )
    with open_cache(path) as cache:
        assert cache.videos.split[1] == "test"
        assert cache.label_names == ("safe", "harmful")
    assert ZarrReader(path).read("videos/split", 1, 2).tolist() == ["test"]


def test_a_malformed_journal_is_reported(path: Path) -> None:
    (path / "relabel.json").write_text("{}")
    with pytest.raises(CacheCorrupt, match=r"relabel\.json is malformed"):
        open_cache(path)


def test_relabelling_while_a_reader_is_open(path: Path) -> None:
    with open_cache(path) as cache, open_writer(path) as writer:
        writer.relabel({"ü1.mp4": VideoLabel(-1, "")})
        assert cache.videos.label[1] == -1
