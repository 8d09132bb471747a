from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from cache.stores.zarr_append import ZarrAppender
from tests.cache.builders import make_reject, make_video, open_writer, read_contents, write_cache


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_cache(
        tmp_path / "c.zarr", [make_video("a.mp4"), make_video("b.mp4")], [make_reject("x.mp4")]
    )


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_uncommitted_rows_are_invisible_and_undone_by_the_next_writer(path: Path) -> None:
    before, files_before = read_contents(path), tree(path)
    appender = ZarrAppender.open(path)
    appender.append("videos/id", ["ghost.mp4"] * 5000)  # into a second chunk
    appender.append("videos/label", [1] * 5000)
    appender.append("streams/clip/values", np.ones((200_000, 6)))
    assert appender.n_rows("videos/id") == 5002
    assert len(tree(path)) > len(files_before)
    assert read_contents(path) == before
    ZarrAppender.open(path)
    assert tree(path) == files_before


def test_discard_undoes_at_once(path: Path) -> None:
    files_before = tree(path)
    appender = ZarrAppender.open(path)
    appender.append("videos/id", ["ghost.mp4"] * 5000)
    appender.append("streams/clip/spans", np.ones((10, 2)))
    appender.discard()
    assert tree(path) == files_before
    assert appender.n_rows("videos/id") == 2


def test_leftovers_of_a_killed_writer_are_removed(path: Path) -> None:
    files_before = tree(path)
    for name in ("zarr.json.part", "relabel.json.part", "videos/zarr.json.part", "videos/id/c.0.part"):
        (path / name).write_bytes(b"half")
    unfinished = path / "streams" / "audio" / "values"
    unfinished.mkdir(parents=True)
    (unfinished / "c.0.0").write_bytes(b"half a stream")
    ZarrAppender.open(path)
    assert tree(path) == files_before


def test_what_is_not_ours_is_left_alone(path: Path) -> None:
    (path / "README.md").write_text("my notes")
    group = zarr.open_group(path, mode="r+")
    group.create_group("streams/mine").create_array("values", data=np.ones(3))
    write_cache(path, [make_video("c.mp4")])
    assert (path / "README.md").read_text() == "my notes"
    assert zarr.open_array(path / "streams" / "mine" / "values")[:].tolist() == [1, 1, 1]


def test_metadata_of_single_arrays_is_brought_up_to_the_root_record(path: Path) -> None:
    files_before = tree(path)
    lagging = path / "videos" / "id" / "zarr.json"
    document = json.loads(lagging.read_text())
    document["shape"] = [1]
    lagging.write_text(json.dumps(document))
    (path / "videos" / "label" / "zarr.json").unlink()
    (path / "rejects" / "zarr.json").write_text("")
    ZarrAppender.open(path)
    assert tree(path) == files_before
    assert zarr.open_array(path / "videos" / "id")[:].tolist() == ["a.mp4", "b.mp4"]


def test_a_commit_rewrites_only_the_last_chunks(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    with open_writer(path) as writer:
        writer.commit([], [make_reject(f"{n}.mp4") for n in range(10_000)])
        before = {file: file.stat().st_mtime_ns for file in path.rglob("c.*")}
        writer.commit([], [make_reject("new.mp4")])
        changed = sorted(str(f.relative_to(path)) for f, t in before.items() if f.stat().st_mtime_ns != t)
    assert changed == [
        "rejects/detail/c.2",
        "rejects/digest/c.2",
        "rejects/id/c.2",
        "rejects/mtime_ns/c.0",
        "rejects/reason/c.2",
        "rejects/size_bytes/c.0",
    ]


def test_replaced_rows_across_chunks(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    names = [f"{n}.mp4" for n in range(9000)]
    write_cache(path, [], [make_reject(name) for name in names])
    appender = ZarrAppender.open(path)
    appender.replace_rows("rejects/detail", {0: "first", 5000: "middle", 8999: "last"})
    appender.replace_rows("rejects/size_bytes", {8999: 7})
    appender.append("rejects/detail", ["appended"])  # not committed, but it rewrites the last chunk
    appender.discard()
    found = read_contents(path)["rejects"]
    assert [found[row].detail for row in (0, 1, 5000, 8998, 8999)] == [
        "first",
        "nothing decoded",
        "middle",
        "nothing decoded",
        "last",
    ]
    assert found[8999].size_bytes == 7


def test_chunks_of_another_length_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.stores.layout.VALUES_CHUNK_BYTES", 50)
    path = write_cache(tmp_path / "c.zarr", [make_video("a.mp4")])
    monkeypatch.undo()
    assert zarr.open_group(path, mode="r")["streams/clip/values"].chunks == (4, 6)
    write_cache(path, [make_video("b.mp4"), make_video("c.mp4")])
    assert zarr.open_group(path, mode="r")["streams/clip/values"].chunks == (4, 6)
    whole = write_cache(tmp_path / "whole.zarr", [make_video(f"{name}.mp4") for name in "abc"])
    assert read_contents(path) == read_contents(whole)
