from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.errors import CacheCorrupt, CacheError, CacheNotFound, FingerprintMismatch
from cache.reader import open_cache
from cache.schema import Reject, StreamSpec, VideoFeatures
from cache.writer import CacheWriter
from tests.cache.builders import (
    CLIP,
    LABEL_NAMES,
    SLOWFAST,
    STREAMS,
    expected,
    fingerprint,
    make_reject,
    make_video,
    open_writer,
    read_contents,
    write_cache,
)


def many(n_videos: int, *, prefix: str = "") -> list[VideoFeatures]:
    return [make_video(f"{prefix}{index}.mp4") for index in range(n_videos)]


def with_superseded(store: Path) -> dict[str, VideoFeatures]:
    """A cache in which some rows are not live, and what is."""
    videos = {video.row.id: video for video in many(12)}
    write_cache(store, list(videos.values()), [make_reject("x.mp4"), make_reject("y.mp4")])
    with open_writer(store) as writer:
        for name in ("0.mp4", "5.mp4", "6.mp4", "11.mp4"):
            del videos[name]
            videos[name] = make_video(name, version=2)
            writer.commit([videos[name]], [make_reject("x.mp4", "deadline")])
    return videos


def test_attributes_tables_and_streams(store: Path) -> None:
    write_cache(
        store, many(3), [make_reject("x.mp4"), make_reject("y.mp4"), make_reject("z.mp4", "deadline")]
    )
    with open_cache(store) as cache:
        assert cache.paths == (store,)
        assert (cache.dataset, cache.label_names, cache.provenance) == (
            "made-up",
            LABEL_NAMES,
            {"command": "test"},
        )
        assert (cache.n_videos, len(cache), len(cache.videos), len(cache.rejects)) == (3, 3, 3, 3)
        assert cache.rejects.counts() == {"no-frames": 2, "deadline": 1}
        assert cache.videos.label.dtype == np.int8
        assert cache.videos.mtime_ns.dtype == np.int64
        assert cache.videos.id.dtype == object
        assert all(type(video_id) is str for video_id in cache.videos.id)
        info = cache.streams["clip"]
        assert (info.name, info.dim, info.dtype, info.fingerprint) == (
            "clip",
            6,
            "float16",
            CLIP.fingerprint,
        )
        assert info.n_tokens == cache.offsets("clip")[-1]
        assert cache.random_weights
        assert "3 videos, 3 rejects; clip [" in repr(cache)
        assert "3 rows: id, digest" in repr(cache.videos)


def test_columns_are_read_only_and_named(store: Path) -> None:
    write_cache(store, many(2))
    with open_cache(store) as cache:
        with pytest.raises(ValueError, match="read-only"):
            cache.videos.label[0] = 1
        for table in (cache.videos, cache.rejects):
            with pytest.raises(AttributeError, match="no column 'colour'"):
                table.colour
            with pytest.raises(AttributeError, match="no column 'colour'"):
                table.column("colour")


def test_offsets_and_load(store: Path) -> None:
    videos = with_superseded(store)
    with open_cache(store) as cache:
        loaded = cache.load("slowfast")
        offsets = cache.offsets("slowfast")
        assert offsets.dtype == np.int64
        assert loaded.values.dtype == np.float32
        assert loaded.spans.dtype == np.float32
        assert len(loaded) == 12
        assert "12 videos, values float32 [" in repr(loaded)
        for index, video in enumerate(videos.values()):
            wanted = video.tokens["slowfast"]
            assert np.array_equal(loaded[index].values, wanted.values)
            assert np.array_equal(loaded.spans[offsets[index] : offsets[index + 1]], wanted.spans)
        with pytest.raises(IndexError):
            loaded[12]
    assert read_contents(store) == expected(
        videos, {"y.mp4": make_reject("y.mp4"), "x.mp4": make_reject("x.mp4", "deadline")}
    )


@pytest.mark.parametrize("block_bytes", [1, 100, 10**6])
def test_reading_some_videos_in_any_order(
    store: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.reader.BLOCK_BYTES", block_bytes)
    videos = list(with_superseded(store).values())
    with open_cache(store) as cache:
        for wanted in ([3], [11, 0, 4, 4, -1], [], np.arange(12)[::-1]):
            found = cache.read("clip", wanted)
            assert len(found) == len(wanted)
            for index, tokens in zip(wanted, found, strict=True):
                assert np.array_equal(tokens.values, videos[index].tokens["clip"].values)
                assert np.array_equal(tokens.spans, videos[index].tokens["clip"].spans)
        assert np.array_equal(cache.tokens("clip", 2).values, videos[2].tokens["clip"].values)
        with pytest.raises(IndexError, match="12 videos"):
            cache.read("clip", [12])


@pytest.mark.parametrize("block_bytes", [1, 64, 10**6])
def test_streaming_all_rows(store: Path, block_bytes: int) -> None:
    with_superseded(store)
    with open_cache(store) as cache:
        loaded = cache.load("clip")
        blocks = list(cache.iter_rows("clip", block_bytes=block_bytes))
        assert np.array_equal(np.concatenate([values for _, values, _ in blocks]), loaded.values)
        assert np.array_equal(np.concatenate([spans for _, _, spans in blocks]), loaded.spans)
        assert [first for first, _, _ in blocks] == np.cumsum(
            [0, *(len(values) for _, values, _ in blocks[:-1])]
        ).tolist()
        assert max(values.nbytes for _, values, _ in blocks) <= max(block_bytes, CLIP.dim * 2)


def test_several_caches_are_one(tmp_path: Path) -> None:
    parts = [tmp_path / "a.zarr", tmp_path / "b.h5", tmp_path / "c.zarr"]
    first = with_superseded(parts[0])
    write_cache(parts[1], many(3, prefix="b"), [make_reject("broken.mp4")])
    open_writer(parts[2]).close()
    with open_cache(*parts) as cache:
        videos = [*first.values(), *many(3, prefix="b")]
        assert cache.videos.id.tolist() == [video.row.id for video in videos]
        assert cache.dataset == "made-up"
        assert set(cache.provenance) == {str(path) for path in parts}
        assert len(cache.rejects) == 3
        loaded = cache.load("clip")
        for index, video in enumerate(videos):
            assert np.array_equal(loaded[index].values, video.tokens["clip"].values)
        some = [13, 0, 14, 2]
        for index, tokens in zip(some, cache.read("clip", some), strict=True):
            assert np.array_equal(tokens.values, videos[index].tokens["clip"].values)
        assert cache.videos.row(13) == videos[13].row


def test_caches_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first = write_cache(tmp_path / "a.zarr", many(2))
    write_cache(tmp_path / "same.zarr", many(1))
    with pytest.raises(CacheError, match=r"1 ids are held by more than one.*'0\.mp4'"):
        open_cache(first, tmp_path / "same.zarr")
    write_cache(tmp_path / "clip.h5", [make_video("n.mp4", streams=[CLIP])], streams=[CLIP])
    with pytest.raises(CacheError, match=r"holds the streams clip, slowfast but .*clip\.h5 holds clip;"):
        open_cache(first, tmp_path / "clip.h5")
    other = StreamSpec("clip", 6, "float16", fingerprint("clip", precision="bf16", libraries={"torch": "3"}))
    write_cache(
        tmp_path / "bf16.h5", [make_video("n.mp4", streams=[other, SLOWFAST])], streams=[other, SLOWFAST]
    )
    with pytest.raises(
        FingerprintMismatch, match=r"clip differs from .*bf16\.h5.*precision: fp32 here, bf16"
    ):
        open_cache(first, tmp_path / "bf16.h5", ignore_libraries=True)
    newer = StreamSpec("clip", 6, "float16", fingerprint("clip", libraries={"torch": "3"}))
    write_cache(
        tmp_path / "newer.h5", [make_video("n.mp4", streams=[newer, SLOWFAST])], streams=[newer, SLOWFAST]
    )
    with pytest.raises(FingerprintMismatch, match=r"libraries\.torch: 2\.0 here, 3 there"):
        open_cache(first, tmp_path / "newer.h5")
    with open_cache(first, tmp_path / "newer.h5", ignore_libraries=True) as cache:
        assert len(cache) == 3
    wide = StreamSpec("clip", 6, "float32", CLIP.fingerprint)
    write_cache(
        tmp_path / "wide.h5", [make_video("n.mp4", streams=[wide, SLOWFAST])], streams=[wide, SLOWFAST]
    )
    with pytest.raises(FingerprintMismatch, match=r"float16 \[6\] in .* but float32"):
        open_cache(first, tmp_path / "wide.h5")
    with open_writer(tmp_path / "names.zarr", label_names=("safe", "harmful")):
        pass
    with pytest.raises(CacheError, match="label names"):
        open_cache(first, tmp_path / "names.zarr")


def test_what_is_missing_is_named(store: Path) -> None:
    with pytest.raises(CacheNotFound, match="no cache at"):
        open_cache(store)
    with pytest.raises(CacheError, match="no cache given"):
        open_cache()
    write_cache(store, many(1))
    with open_cache(store) as cache:
        for action in (cache.load, cache.offsets, lambda name: cache.read(name, [0])):
            with pytest.raises(CacheError, match="no stream 'audio'; it holds clip, slowfast"):
                action("audio")


def test_an_open_cache_shows_the_state_of_its_opening(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "c.zarr", many(2))
    with open_cache(path) as before:
        write_cache(path, many(9))
        assert before.videos.id.tolist() == ["0.mp4", "1.mp4"]
        assert len(before.load("clip")) == 2
    with open_cache(path) as after:
        assert len(after) == 9


def test_a_published_file_can_be_replaced_under_a_reader(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "c.h5", many(2))
    with open_cache(path) as before:
        write_cache(path, many(9))
        assert before.videos.id.tolist() == ["0.mp4", "1.mp4"]
        assert np.array_equal(before.load("clip")[1].values, many(2)[1].tokens["clip"].values)


def test_values_that_are_not_finite_are_reported_with_their_video(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "c.zarr", many(3))
    with open_cache(path) as cache:
        start = int(cache.offsets("clip")[1]) * CLIP.dim * 2
    chunk = path / "streams" / "clip" / "values" / "c.0.0"
    damaged = bytearray(chunk.read_bytes())
    damaged[start : start + 2] = np.float16(np.nan).tobytes()
    chunk.write_bytes(damaged)
    with open_cache(path) as cache:
        cache.tokens("clip", 0)
        with pytest.raises(CacheCorrupt, match=r"stream clip of video '1\.mp4'.*NaN"):
            cache.tokens("clip", 1)


def test_reading_needs_no_right_to_write(store: Path) -> None:
    write_cache(store, many(2))
    before = sorted(store.parent.rglob("*"))
    read_contents(store)
    assert sorted(store.parent.rglob("*")) == before


def test_videos_may_all_be_superseded(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "c.zarr", many(2))
    with CacheWriter.reopen(path) as writer:
        writer.commit([], [Reject(f"{index}.mp4", "deadline", "", "", 0, 0) for index in range(2)])
    with open_cache(path) as cache:
        assert len(cache) == 0
        assert cache.load("clip").values.shape == (0, 6)
        assert cache.read("clip", []) == []
    assert read_contents(path)["videos"] == []
    write_cache(path, [make_video("new.mp4", streams=STREAMS)])
    assert read_contents(path)["videos"] == [make_video("new.mp4").row]
