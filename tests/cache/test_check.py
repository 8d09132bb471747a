from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from cache.check import Problem, check_cache
from cache.errors import CacheCorrupt
from cache.reader import open_cache
from cache.schema import StreamTokens, VideoFeatures
from tests.cache.builders import CLIP, make_reject, make_video, open_writer, write_cache

VIDEOS = [make_video(f"{n}.mp4", n_tokens=3) for n in range(8)]


def findings(path: Path, *, block_bytes: int = 10**6) -> list[str]:
    with open_cache(path) as cache:
        return [str(problem) for problem in check_cache(cache, block_bytes=block_bytes)]


def edit(path: Path, array: str, change: Callable[[Any], None]) -> None:
    """Change stored values behind the cache's back."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            change(file[array])
    else:
        change(zarr.open_group(path, mode="r+")[array])


def test_a_sound_cache_has_no_problems(store: Path) -> None:
    write_cache(store, VIDEOS, [make_reject("x.mp4")])
    write_cache(store, [make_video("3.mp4", version=1)], [make_reject("1.mp4")])
    for block_bytes in (1, 30, 10**6):
        assert findings(store, block_bytes=block_bytes) == []


def test_an_empty_cache_has_no_problems(store: Path) -> None:
    open_writer(store).close()
    assert findings(store) == []


@pytest.mark.parametrize(
    ("array", "where", "value", "message"),
    [
        ("streams/clip/values", (4, 2), np.nan, "streams/clip: 1 NaN or infinity: '1.mp4'"),
        ("streams/slowfast/values", (4, 2), np.inf, "streams/slowfast: 1 NaN or infinity: '1.mp4'"),
        ("streams/clip/values", (5, slice(None)), 0.25, "streams/clip: 1 constant token vectors: '1.mp4'"),
        (
            "streams/slowfast/values",
            (5, slice(None)),
            0,
            "streams/slowfast: 1 constant token vectors: '1.mp4'",
        ),
        ("streams/clip/spans", (7, 0), 1.25, "start after end: '2.mp4'"),
        ("streams/clip/spans", (7, 0), np.nan, "spans not finite"),
        ("streams/clip/spans", (7, slice(None)), (-0.5, 1.0), "outside the video's duration: '2.mp4'"),
        ("streams/clip/spans", (8, 1), 2.5, "outside the video's duration: '2.mp4'"),
        ("streams/clip/spans", (8, 0), 0.0, "spans out of order: '2.mp4'"),
        ("streams/clip/offsets", (0,), 1, "offsets of stream clip do not rise from 0"),
        ("streams/clip/offsets", (3,), 2, "offsets of stream clip do not rise"),
        ("streams/clip/offsets", (8,), 23, "do not rise from 0 to 24"),
        ("streams/clip/offsets", (3,), 6, "1 videos without a token: '2.mp4'"),
        ("videos/id", (3,), "2.mp4", "videos/id: 1 ids that occur twice: '2.mp4'"),
        ("videos/id", (3,), "x.mp4", "1 ids both stored and rejected: 'x.mp4'"),
        ("videos/label", (3,), 7, "labels other than 1, 0, -1: '3.mp4'"),
        ("videos/duration_seconds", (3,), np.nan, "videos/duration_seconds: 1 values negative or not finite"),
        ("videos/width", (3,), -4, "videos/width: 1 values negative or not finite: '3.mp4'"),
        ("rejects/reason", (0,), "bad-luck", "rejects/reason: unknown reason 'bad-luck'"),
        ("rejects/id", (1,), "x.mp4", "rejects/id: 1 ids that occur twice: 'x.mp4'"),
    ],
)
def test_every_kind_of_damage_is_found(
    store: Path, array: str, where: tuple[Any, ...], value: Any, message: str
) -> None:
    write_cache(store, VIDEOS, [make_reject("x.mp4"), make_reject("y.mp4")])

    def change(stored: Any) -> None:
        if isinstance(value, str):  # zarr takes no bare str with NumPy before 2.0
            stored[where[0] : where[0] + 1] = np.array([value], dtype=stored.dtype)
        else:
            stored[where if len(where) > 1 else where[0]] = value

    edit(store, array, change)
    for block_bytes in (1, 10**6):
        found = findings(store, block_bytes=block_bytes)
        assert any(message in line for line in found), found


def test_a_problem_of_many_videos_is_one_line(store: Path) -> None:
    flat = StreamTokens(np.ones((1, 6), np.float16), np.zeros((1, 2), np.float32))
    videos = [VideoFeatures(video.row, {"clip": flat}) for video in VIDEOS]
    write_cache(store, videos, streams=[CLIP])
    assert findings(store) == [
        "streams/clip: 8 constant token vectors: '0.mp4', '1.mp4', '2.mp4', '3.mp4', '4.mp4', ..."
    ]


def test_unreadable_parts_are_findings_too(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "c.zarr", VIDEOS, [make_reject("x.mp4")])
    (path / "rejects" / "reason" / "c.0").unlink()
    (path / "streams" / "clip" / "spans" / "c.0.0").write_bytes(b"short")
    found = findings(path)
    assert any("rejects/reason/c.0: No such file" in line for line in found)
    assert any("streams/clip/spans/c.0.0: it ends before byte" in line for line in found)


def test_superseded_rows_named_twice(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "c.zarr", VIDEOS)
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["superseded_videos"] = [1, 1]
    (path / "zarr.json").write_text(json.dumps(root))
    with open_cache(path) as cache:
        assert check_cache(cache) == [Problem(f"{path}: superseded_videos", "names a row twice")]
    root["attributes"]["superseded_videos"] = [99]
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(CacheCorrupt, match="superseded_videos names rows beyond the 8"):
        open_cache(path)
