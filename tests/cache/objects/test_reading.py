from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cache import features
from cache.convert import convert
from cache.errors import CacheCorrupt, CacheError, CacheNotFound, InputError
from cache.merge import merge
from cache.objects.address import objects_folder, remote_url, working_folder
from cache.objects.mirror import written
from cache.objects.record import RECORD_NAME, CommitRecord
from cache.process.outputs import require_cache_output
from cache.reader import open_cache
from cache.writer import CacheWriter
from tests.cache.builders import make_reject, make_video, open_writer, read_contents, write_cache
from tests.objects import Server


def publish(url: str, *ids: str) -> dict[str, object]:
    with written(Path(url), lambda _: None) as path:
        write_cache(path, [make_video(name) for name in ids], [make_reject(f"{ids[0]}.broken")])
        return read_contents(path)


def test_addresses_are_told_from_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for text in ("s3://b/v1/p.zarr", "gs://b/p.h5", "az://c/p.zarr", "file:///tmp/p.zarr"):
        assert remote_url(text) == remote_url(Path(text)) == remote_url(f"{text}/") == text
    for text in ("v1.zarr", "/data/s3/v1.zarr", "./s3.zarr", "c:/v1.zarr", "~/x.zarr"):
        assert remote_url(text) is None and remote_url(Path(text)) is None
    monkeypatch.delenv("ONEPASS_OBJECTS_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert objects_folder() == tmp_path / "onepass" / "objects"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert objects_folder() == Path.home() / ".cache" / "onepass" / "objects"
    assert working_folder("s3://b/a.zarr") != working_folder("s3://b/b.zarr")


def test_a_state_is_fetched_once_and_then_asked_for(bucket: Server, url: str, local: Path) -> None:
    whole = publish(url, "a.mp4", "b.mp4")
    bucket.asked.clear()
    assert read_contents(Path(url)) == whole
    first = bucket.gets()
    assert first == 1 + len(bucket.objects) - 1  # the record, and every object
    bucket.asked.clear()
    assert read_contents(Path(url)) == whole and bucket.asked == {("GET", f"{key(url)}/{RECORD_NAME}"): 1}
    assert (
        read_contents(Path(f"{bucket.address}/{url.removeprefix('s3://')}")) == whole
    )  # a web server will do
    publish(url.replace("v1", "v2"), "a.mp4", "b.mp4")
    bucket.asked.clear()
    with open_cache(url.replace("v1", "v2")) as cache:
        assert len(cache) == 2 and cache.paths[0].is_relative_to(local)
    assert bucket.gets() < first  # what another cache holds as well is here
    assert not list(local.rglob("*.part")) and not list(local.rglob("*.creating"))


def key(url: str) -> str:
    return url.split("/", 3)[3]


def test_several_are_read_as_one(bucket: Server, url: str, tmp_path: Path) -> None:
    publish(url, "a.mp4")
    publish(url.replace("v1", "v2"), "b.mp4")
    here = write_cache(tmp_path / "c.zarr", [make_video("c.mp4")])
    with open_cache(url, here, Path(url.replace("v1", "v2"))) as cache:
        assert list(cache.videos.id) == ["a.mp4", "c.mp4", "b.mp4"]
    merge([url, here], tmp_path / "all.zarr")
    with open_cache(tmp_path / "all.zarr") as cache:
        assert list(cache.videos.id) == ["a.mp4", "c.mp4"]


def test_what_cannot_be_read_is_one_line_that_names_it(bucket: Server, url: str, local: Path) -> None:
    with pytest.raises(CacheNotFound, match=rf"no cache at {url}: nothing was published there"):
        open_cache(url)
    publish(url, "a.mp4")
    record = CommitRecord.from_bytes(bucket.objects[f"{key(url)}/{RECORD_NAME}"][0], where="")
    file = next(file for file in record.files if file.path.endswith("clip/values/c.0.0"))
    name = f"{key(url)}/objects/{file.pieces[0]}"
    kept = bucket.objects.pop(name)
    with pytest.raises(CacheCorrupt, match=rf"{url}/objects/{file.pieces[0]} is missing, .*/c\.0\.0"):
        open_cache(url)
    bucket.put(name, kept[0][:-1])
    with pytest.raises(CacheCorrupt, match=rf"objects/{file.pieces[0]} does not hold what its name says"):
        open_cache(url)
    bucket.objects[name] = kept
    bucket.faults[name] += ["503", "cut", "503"]
    assert len(read_contents(Path(url))["videos"]) == 1
    shutil.rmtree(local)
    bucket.faults[name] += ["cut"] * 50
    with pytest.raises(InputError, match=r"the answer was cut, 7 times"):
        open_cache(url)
    bucket.faults.clear()
    bucket.put(f"{key(url)}/{RECORD_NAME}", b"{")
    with pytest.raises(CacheCorrupt, match=rf"{url}/commit.json is malformed"):
        open_cache(url)
    with pytest.raises(InputError, match="is a whole bucket"):
        open_cache("s3://bucket.zarr")


def test_a_reader_goes_on_with_the_next_state_where_the_older_one_is_swept_away(
    bucket: Server, url: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(url, "a.mp4")
    old = bucket.objects[f"{key(url)}/{RECORD_NAME}"]
    whole = publish(url, "b.mp4")
    new = bucket.objects[f"{key(url)}/{RECORD_NAME}"]
    pieces = [
        {piece for file in CommitRecord.from_bytes(data, where="").files for piece in file.pieces}
        for data, _ in (old, new)
    ]
    bucket.objects[f"{key(url)}/{RECORD_NAME}"] = old

    def sweep(asked: str) -> None:
        if "/objects/" in asked:
            bucket.objects[f"{key(url)}/{RECORD_NAME}"] = new
            for piece in pieces[0] - pieces[1]:
                bucket.objects.pop(f"{key(url)}/objects/{piece}", None)

    monkeypatch.setattr(bucket, "before_get", sweep)
    assert read_contents(Path(url)) == whole
    assert len(list((local / "trees").iterdir())) == 1


def test_what_would_write_to_an_address_says_what_to_do(url: str, tmp_path: Path) -> None:
    here = write_cache(tmp_path / "here.zarr", [make_video("a.mp4")])
    for act in (
        lambda: CacheWriter.reopen(url),
        lambda: open_writer(Path(url)),
        lambda: convert(here, url),
        lambda: merge([here], url),
        lambda: features.write_features(Path(url), {"a.mp4": {"image": [[1.0]]}}),
    ):
        with pytest.raises(CacheError, match=rf"{url} is in object storage, .*\(onepass convert {url} COPY"):
            act()
    with pytest.raises(InputError, match=rf"--out {url}: is in object storage; give a local cache"):
        require_cache_output("--out", Path(url))
    require_cache_output("--out", Path(url), remote=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.zarr", "here.zarr.lock"]
