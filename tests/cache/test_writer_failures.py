"""What the writer does when something goes wrong half-way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cache.errors import CacheCorrupt, CacheError, StorageFull
from cache.reader import open_cache
from cache.schema import Reject, VideoLabel
from cache.stores import files
from tests.cache.builders import (
    AUDIO,
    contents,
    expected,
    make_reject,
    make_video,
    open_writer,
    read_contents,
    write_cache,
)


def test_an_error_inside_the_block_keeps_what_was_committed(store: Path) -> None:
    with pytest.raises(RuntimeError, match="decoder"), open_writer(store) as writer:
        writer.commit([make_video("a.mp4")], [])
        raise RuntimeError("decoder trouble")
    assert store.exists()
    assert len(read_contents(store)["videos"]) == 1
    open_writer(store).close()


def test_the_first_error_is_reported_when_closing_fails_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RuntimeError, match="decoder") as caught, open_writer(tmp_path / "c.h5") as writer:
        writer.commit([make_video("a.mp4")], [])
        monkeypatch.setattr(files, "rename", full)
        raise RuntimeError("decoder trouble")
    assert "disk that holds" in caught.value.__notes__[0]


def test_a_commit_interrupted_after_its_rename_needs_a_new_writer(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_writer(store)
    rename = files.rename

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        if target.name == "zarr.json" and target.parent.suffix in (".zarr", ".staging"):
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.commit([make_video("a.mp4")], [])
    monkeypatch.setattr(files, "rename", rename)
    with pytest.raises(CacheError, match="interrupted half-way; open the writer again"):
        writer.commit([make_video("a.mp4")], [])
    writer.close()
    with open_writer(store) as writer:
        assert list(writer.known()) == ["a.mp4"]


def test_an_interrupted_commit_can_be_repeated(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_writer(store)
    writer.commit([make_video("a.mp4")], [make_reject("r.mp4")])
    sync = files.sync

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.commit([make_video("b.mp4")], [make_reject("a.mp4")])
    monkeypatch.setattr(files, "sync", sync)
    videos = {"a.mp4": make_video("a.mp4")}
    assert read_contents(store) == expected(videos, {"r.mp4": make_reject("r.mp4")})
    writer.commit([make_video("c.mp4")], [])
    writer.close()
    videos["c.mp4"] = make_video("c.mp4")
    assert read_contents(store) == expected(videos, {"r.mp4": make_reject("r.mp4")})


def test_a_disk_error_after_the_commit_is_not_taken_for_a_failed_commit(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_writer(store)
    sync = files.sync

    def broken(paths: Any) -> None:
        paths = list(paths)
        if len(paths) == 1 and (paths[0] / "zarr.json").exists() and paths[0].suffix in (".zarr", ".staging"):
            raise OSError(5, "Input/output error")
        sync(paths)

    monkeypatch.setattr(files, "sync", broken)
    with pytest.raises(CacheError, match="Input/output error"):
        writer.commit([make_video("a.mp4")], [])
    with pytest.raises(CacheError, match="open the writer again"):
        writer.commit([make_video("a.mp4")], [])
    monkeypatch.setattr(files, "sync", sync)
    writer.close()
    assert len(read_contents(store)["videos"]) == 1


def test_damage_is_named(store: Path) -> None:
    write_cache(store, [make_video("a.mp4"), make_video("b.mp4")])
    if store.is_dir():
        (store / "streams" / "clip" / "values" / "c.0.0").unlink()
        with pytest.raises(CacheCorrupt, match=r"c\.0\.0 is missing"):
            open_writer(store)
    else:
        os.truncate(store, store.stat().st_size // 2)
        with pytest.raises(CacheCorrupt, match="cut short"):
            open_writer(store)
    with pytest.raises(CacheCorrupt), open_cache(store) as cache:
        contents(cache)


def test_errors_of_the_system_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot write"):
        open_writer(tmp_path / "file" / "cache.zarr")


@pytest.mark.parametrize("operation", ["commit", "relabel", "attach"])
def test_a_full_disk_at_any_write_leaves_the_cache_and_the_writer_usable(
    store: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cache(store, [make_video("a.mp4")], [make_reject("r.mp4")])
    sidecar = write_cache(store.parent / "side.zarr", [make_video("a.mp4", streams=[AUDIO])], streams=[AUDIO])
    before = read_contents(store)
    write_all, room = files._write_all, [0]

    def limited(descriptor: int, data: memoryview, offset: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            write_all(descriptor, data[: len(data) // 3], offset)
            raise OSError(28, "No space left on device")
        write_all(descriptor, data, offset)

    actions: dict[str, Any] = {
        "commit": lambda writer: writer.commit(
            [make_video("b.mp4")], [Reject("c", "deadline", "", "", 0, 0)]
        ),
        "relabel": lambda writer: writer.relabel({"a.mp4": VideoLabel(-1, "new", "test", "new")}),
        "attach": lambda writer: writer.attach_stream(sidecar),
    }
    with open_writer(store) as writer:
        monkeypatch.setattr(files, "_write_all", limited)
        for room_now in range(0, 400, 1 if store.suffix == ".zarr" else 9):  # staging takes many writes
            room[0] = room_now
            try:
                actions[operation](writer)
            except StorageFull as error:
                assert str(store) in str(error)
                room[0] = 10**9
                if operation != "relabel":
                    assert read_contents(store) == before
            else:
                break
        assert room_now >= 2
        monkeypatch.setattr(files, "_write_all", write_all)
        writer.commit([make_video("last.mp4", streams=writer.streams)], [])
    after = read_contents(store)
    assert after["rejects"][0] == before["rejects"][0]
    with open_cache(store) as cache:
        assert cache.videos.id[-1] == "last.mp4"
        if operation == "relabel":
            assert cache.videos.source[0] == "new"
        if operation == "attach":
            assert "audio" in cache.streams
        if operation == "commit":
            assert len(cache) == 3
