from __future__ import annotations

import contextlib
import dataclasses
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.errors import CacheError, CacheNotFound, FingerprintMismatch
from cache.reader import open_cache
from cache.schema import StreamSpec, StreamTokens, VideoFeatures, VideoLabel
from cache.stores.open import open_store
from cache.writer import CacheWriter
from tests.cache.builders import (
    AUDIO,
    CLIP,
    LABEL_NAMES,
    SLOWFAST,
    expected,
    fingerprint,
    make_reject,
    make_tokens,
    make_video,
    open_writer,
    read_contents,
    snapshot,
    write_cache,
)


def test_what_is_committed_is_read_back(store: Path) -> None:
    videos = {name: make_video(name) for name in ("a.mp4", "b.mp4")}
    rejects = {"c.mp4": make_reject("c.mp4")}
    write_cache(store, list(videos.values()), list(rejects.values()))
    assert read_contents(store) == expected(videos, rejects)


def test_appending_in_many_runs_equals_one_run(store: Path, tmp_path: Path) -> None:
    videos = [make_video(f"{index}.mp4") for index in range(7)]
    for video in videos:
        write_cache(store, [video])
    whole = write_cache(tmp_path / f"whole{store.suffix}", videos)
    assert read_contents(store) == read_contents(whole)


@pytest.mark.parametrize("video_id", ["train/Ünï çødé 你好/😀.mp4", "x" * 300 + ".mp4", "a b\n'\"\\.mp4"])
def test_unusual_ids(store: Path, video_id: str) -> None:
    write_cache(store, [make_video(video_id)], [make_reject(video_id + "2", detail="ß" * 100)])
    with open_cache(store) as cache:
        assert cache.videos.id.tolist() == [video_id]
        assert cache.rejects.id.tolist() == [video_id + "2"]


def test_an_empty_cache_is_a_cache(store: Path) -> None:
    open_writer(store).close()
    assert store.exists()
    with open_cache(store) as cache:
        assert (len(cache), len(cache.rejects), cache.rejects.counts()) == (0, 0, {})
        assert cache.load("clip").values.shape == (0, CLIP.dim)
        assert list(cache.streams) == ["clip", "slowfast"]


def test_float32_storage_is_exact_and_float16_is_cast(store: Path) -> None:
    values = np.array([[1 / 3] * 6], np.float32)
    tokens = StreamTokens(values, np.zeros((1, 2), np.float32))
    wide = StreamSpec("clip", 6, "float32", fingerprint("clip"))
    row = make_video("a.mp4").row
    write_cache(store, [VideoFeatures(row, {"clip": tokens})], streams=[wide])
    narrow = store.with_name("narrow" + store.suffix)
    write_cache(narrow, [VideoFeatures(row, {"clip": tokens})], streams=[CLIP])
    with open_cache(store) as cache, open_cache(narrow) as other:
        assert cache.load("clip").values.tobytes() == values.tobytes()
        assert other.load("clip").values.tobytes() == values.astype(np.float16).tobytes()


def test_more_rows_than_a_chunk_of_strings_holds(store: Path) -> None:
    rejects = [make_reject(f"{index}.mp4") for index in range(9000)]
    with open_writer(store) as writer:
        for first in range(0, 9000, 2500):
            writer.commit([], rejects[first : first + 2500])
    with open_cache(store) as cache:
        assert cache.rejects.id.tolist() == [reject.id for reject in rejects]
        assert cache.rejects.mtime_ns.tolist() == [reject.mtime_ns for reject in rejects]


def test_tokens_across_chunks(store: Path) -> None:
    wide = StreamSpec("clip", 4096, "float32", fingerprint("clip"))
    videos = {f"{n}.mp4": make_video(f"{n}.mp4", streams=[wide], n_tokens=n) for n in (100, 1, 300)}
    with open_writer(store, streams=[wide]) as writer:
        for video in videos.values():
            writer.commit([video], [])
    assert read_contents(store) == expected(videos, {}, [wide])


def test_known_follows_commits(store: Path) -> None:
    with open_writer(store) as writer:
        known = writer.known()
        assert len(known) == 0
        writer.commit([make_video("a.mp4")], [make_reject("b.mp4", "deadline")])
        row = make_video("a.mp4").row
        entry = known["a.mp4"]
        assert (entry.state, entry.digest, entry.size_bytes, entry.mtime_ns, entry.reason) == (
            "stored",
            row.digest,
            row.size_bytes,
            row.mtime_ns,
            "",
        )
        assert (known["b.mp4"].state, known["b.mp4"].reason) == ("rejected", "deadline")
        assert "c.mp4" not in known
        with pytest.raises(KeyError):
            known["c.mp4"]
    with open_writer(store) as writer:
        assert dict(writer.known()) == dict(known)


def test_a_new_row_supersedes_the_old_one(store: Path) -> None:
    write_cache(store, [make_video("a.mp4"), make_video("b.mp4")], [make_reject("c.mp4")])
    with open_writer(store) as writer:
        changed, works_now = make_video("a.mp4", version=1), make_video("c.mp4")
        writer.commit([changed, works_now], [make_reject("b.mp4")])
        assert {name: entry.state for name, entry in writer.known().items()} == {
            "a.mp4": "stored",
            "c.mp4": "stored",
            "b.mp4": "rejected",
        }
        wanted = expected({"a.mp4": changed, "c.mp4": works_now}, {"b.mp4": make_reject("b.mp4")})
        assert read_contents(store) == wanted
    assert read_contents(store) == wanted


def test_superseded_rows_stay_in_zarr_and_are_dropped_from_hdf5(tmp_path: Path) -> None:
    for suffix, rows in ((".zarr", 2), (".h5", 1)):
        path = write_cache(tmp_path / f"c{suffix}", [make_video("a.mp4")])
        write_cache(path, [make_video("a.mp4", version=1)])
        with open_cache(path) as cache:
            assert cache.n_videos == 1
            assert cache.stores[0].n_rows("videos/id") == rows


def test_nothing_new_touches_nothing(store: Path) -> None:
    write_cache(store, [make_video("a.mp4")])
    before = snapshot(store.parent)
    with open_writer(store) as writer:
        assert "a.mp4" in writer.known()
        writer.commit([], [])
        assert writer.relabel({"a.mp4": VideoLabel(**label_of("a.mp4"))}) == 0
    assert snapshot(store.parent) == before


def label_of(name: str) -> dict[str, Any]:
    row = make_video(name).row
    return {"label": row.label, "label_name": row.label_name, "split": row.split, "source": row.source}


def test_hdf5_is_readable_while_it_is_written_and_published_at_close(tmp_path: Path) -> None:
    path, staging = tmp_path / "c.h5", tmp_path / "c.h5.staging"
    with open_writer(path) as writer:
        writer.commit([make_video("a.mp4")], [])
        assert staging.is_dir()
        assert not path.exists()
        assert read_contents(path)["videos"] == [make_video("a.mp4").row]
    assert path.is_file()
    assert not staging.exists()


def test_a_published_file_and_a_staging_folder_must_belong_together(tmp_path: Path) -> None:
    path, other = tmp_path / "c.h5", tmp_path / "other.h5"
    write_cache(path, [make_video("a.mp4")])
    write_cache(other, [make_video("b.mp4")])
    writer = open_writer(path)
    writer.commit([make_video("c.mp4")], [])
    writer._release()  # as if killed: the staging folder stays
    other.replace(path)
    with pytest.raises(CacheError, match="was replaced since an unfinished run"):
        open_cache(path)
    with pytest.raises(CacheError, match="was replaced since an unfinished run"):
        open_writer(path)


def test_settings_must_equal_those_stored(store: Path) -> None:
    write_cache(store, [make_video("a.mp4")])
    other = StreamSpec("clip", CLIP.dim, "float16", fingerprint("clip", precision="bf16"))
    with pytest.raises(FingerprintMismatch, match="precision: bf16 here, fp32 there"):
        open_writer(store, streams=[other, SLOWFAST])
    newer = StreamSpec("clip", CLIP.dim, "float16", fingerprint("clip", libraries={"torch": "3.0"}))
    with pytest.raises(FingerprintMismatch, match=r"libraries\.torch"):
        open_writer(store, streams=[newer, SLOWFAST])
    open_writer(store, streams=[newer, SLOWFAST], ignore_libraries=True).close()
    wider = StreamSpec("clip", CLIP.dim, "float32", CLIP.fingerprint)
    with pytest.raises(FingerprintMismatch, match=r"float32 \[6\] here but float16 \[6\]"):
        open_writer(store, streams=[wider, SLOWFAST])
    with pytest.raises(FingerprintMismatch, match="holds the streams clip, slowfast but this run makes clip"):
        open_writer(store, streams=[CLIP])
    with pytest.raises(ValueError, match="at least one stream"):
        open_writer(store, streams=[])
    open_writer(store).close()  # a refusal lets go of the lock


def test_label_names_in_another_unicode_form_are_the_same(store: Path, tmp_path: Path) -> None:
    nfd, nfc = ((unicodedata.normalize(form, "Sérénité"), "Fight") for form in ("NFD", "NFC"))
    open_writer(store, label_names=nfd).close()
    with open_writer(store, label_names=nfc) as writer:
        assert writer.label_names == nfd
    other = tmp_path / f"other{store.suffix}"
    open_writer(other, label_names=nfc).close()
    open_cache(store, other).close()


def test_names_of_classes_come_with_labels_that_come_later(store: Path) -> None:
    bare = {"label": -1, "label_name": ""}
    write_cache(store, [make_video(name, **bare) for name in ("a.mp4", "b.mp4")], label_names=None)
    labels = {"a.mp4": VideoLabel(1, "Fight"), "b.mp4": VideoLabel(0, "NonFight")}
    with open_writer(store) as writer:
        assert writer.relabel(labels) == 2
    with contextlib.closing(open_store(store)) as held:
        assert held.attributes.label_names == LABEL_NAMES
    with pytest.raises(CacheError, match="calls its classes"):
        open_writer(store, label_names=LABEL_NAMES[::-1])


@pytest.mark.parametrize(("second", "known"), [((0, "NonFight"), True), ((1, "Brawl"), False)])
def test_rows_name_the_classes_where_nothing_else_does(
    store: Path, second: tuple[int, str], known: bool
) -> None:
    """As in caches whose labels came later, before names came with them."""
    rows = [(1, "Fight"), second, (-1, "")]
    videos = [make_video(f"{n}.mp4", label=label, label_name=name) for n, (label, name) in enumerate(rows)]
    write_cache(store, videos, label_names=None)
    with open_cache(store) as cache:
        assert cache.label_names == (LABEL_NAMES if known else None)
    if known:
        with pytest.raises(CacheError, match="calls its classes"):
            open_writer(store, label_names=LABEL_NAMES[::-1])
    with open_writer(store) as writer:  # the same names, which are written down now
        writer.relabel({"0.mp4": VideoLabel(1, "Fight")})
    with contextlib.closing(open_store(store)) as held:
        assert held.attributes.label_names == LABEL_NAMES


def test_label_names_are_adopted_once_and_then_kept(store: Path) -> None:
    with open_writer(store, label_names=None) as writer:
        writer.commit([make_video("a.mp4")], [])
        assert writer.label_names is None
    with open_writer(store) as writer:
        writer.commit([make_video("b.mp4")], [])
    with open_writer(store, label_names=None) as writer:
        assert writer.label_names == LABEL_NAMES
    with pytest.raises(CacheError, match="calls its classes"):
        open_writer(store, label_names=("safe", "harmful"))
    with CacheWriter.reopen(store) as writer:
        labels = {name: VideoLabel(1, "harmful") for name in ("a.mp4", "b.mp4")}
        assert writer.relabel(labels, label_names=("safe", "harmful")) == 2
        assert writer.label_names == ("safe", "harmful")
    with open_cache(store) as cache:
        assert cache.label_names == ("safe", "harmful")
        assert cache.videos.label_name.tolist() == ["harmful", "harmful"]


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([make_video("a.mp4"), make_video("a.mp4", version=1)], "'a.mp4' more than once"),
        ([make_video("a.mp4", streams=[CLIP])], "has the streams clip; the cache stores clip, slowfast"),
        ([make_video("a.mp4", streams=[CLIP, SLOWFAST, AUDIO])], "the cache stores"),
        (
            [make_video("a.mp4", streams=[CLIP, StreamSpec("slowfast", 9, "float32", {})])],
            "slowfast is 9 wide; the cache stores 5",
        ),
    ],
)
def test_refused_commits_change_nothing(store: Path, videos: list[VideoFeatures], message: str) -> None:
    write_cache(store, [make_video("old.mp4")])
    with open_writer(store) as writer:
        with pytest.raises(CacheError, match=message):
            writer.commit([make_video("good.mp4"), *videos], [])
        assert list(writer.known()) == ["old.mp4"]
        writer.commit([make_video("good.mp4")], [])
    assert len(read_contents(store)["videos"]) == 2


def test_an_id_cannot_be_stored_and_rejected_at_once(store: Path) -> None:
    with open_writer(store) as writer, pytest.raises(CacheError, match="more than once"):
        writer.commit([make_video("a.mp4")], [make_reject("a.mp4")])


def test_values_too_large_for_the_stored_dtype_are_refused(store: Path) -> None:
    huge = StreamTokens(np.full((1, 6), 1e6, np.float32), np.zeros((1, 2), np.float32))
    video = VideoFeatures(make_video("a.mp4").row, {"clip": huge})
    with (
        open_writer(store, streams=[CLIP]) as writer,
        pytest.raises(CacheError, match="not finite as float16"),
    ):
        writer.commit([video], [])


def test_relabel_changes_labels_only(store: Path) -> None:
    videos = [make_video(name, source="tape 1") for name in ("a.mp4", "b.mp4", "c.mp4")]
    write_cache(store, videos)
    with open_writer(store) as writer:
        changed = writer.relabel(
            {"a.mp4": VideoLabel(-1, ""), "c.mp4": VideoLabel(1, "Fight", "test", "tape 9")}
        )
        assert changed == 2
        with open_cache(store) as cache:
            assert cache.videos.label.tolist() == [-1, videos[1].row.label, 1]
        with pytest.raises(CacheError, match="not stored in"):
            writer.relabel({"nosuch.mp4": VideoLabel(1, "Fight")})
    with open_cache(store) as cache:
        assert cache.videos.split.tolist() == [videos[0].row.split, videos[1].row.split, "test"]
        assert cache.videos.source.tolist() == ["tape 1", "tape 1", "tape 9"]
        assert cache.tokens("clip", 2).values.tobytes() == videos[2].tokens["clip"].values.tobytes()


def test_restamp_changes_times_only_and_once(store: Path) -> None:
    videos = [make_video(name) for name in ("a.mp4", "b.mp4", "c.mp4")]
    write_cache(store, videos)
    with open_writer(store) as writer:
        assert writer.restamp({"b.mp4": 77, "c.mp4": videos[2].row.mtime_ns}) == 1
        assert writer.known()["b.mp4"].mtime_ns == 77
        assert writer.restamp({"b.mp4": 77}) == 0
        with pytest.raises(CacheError, match="'nosuch.mp4' is not stored in"):
            writer.restamp({"nosuch.mp4": 1})
    with open_cache(store) as cache:
        assert cache.videos.mtime_ns.tolist() == [videos[0].row.mtime_ns, 77, videos[2].row.mtime_ns]
        assert cache.videos.label.tolist() == [video.row.label for video in videos]
        assert cache.tokens("clip", 1).values.tobytes() == videos[1].tokens["clip"].values.tobytes()


def test_attach_stream_follows_this_caches_order(store: Path) -> None:
    names = ["a.mp4", "b.mp4", "c.mp4"]
    write_cache(store, [make_video(name) for name in names])
    write_cache(store, [make_video("a.mp4", version=1)])  # leaves a superseded row
    rows = {name: make_video(name, version=int(name == "a.mp4")).row for name in names}
    extra = {name: make_tokens(name, AUDIO, 2) for name in names}
    sidecar = write_cache(
        store.parent / "audio.h5",
        [VideoFeatures(rows[name], {"audio": extra[name]}) for name in names],
        streams=[AUDIO],
    )
    with CacheWriter.reopen(store) as writer:
        writer.attach_stream(sidecar)
        assert {spec.name for spec in writer.streams} == {"clip", "slowfast", "audio"}
        with pytest.raises(CacheError, match="has the streams clip, slowfast"):
            writer.commit([make_video("d.mp4")], [])
        writer.commit([make_video("d.mp4", streams=[CLIP, SLOWFAST, AUDIO])], [])
    with open_cache(store) as cache:
        assert cache.videos.id.tolist() == ["b.mp4", "c.mp4", "a.mp4", "d.mp4"]
        for index, name in enumerate(cache.videos.id[:3]):
            assert cache.tokens("audio", index).values.tobytes() == extra[name].values.tobytes()
        assert cache.streams["audio"].fingerprint == AUDIO.fingerprint


@pytest.mark.parametrize(
    ("names", "version", "streams", "message"),
    [
        (["a.mp4"], 0, [AUDIO], "lacks 1 videos"),
        (["a.mp4", "b.mp4", "c.mp4"], 0, [AUDIO], "holds 1 others, e.g. 'c.mp4'"),
        (["a.mp4", "b.mp4"], 1, [AUDIO], "made from other bytes"),
        (["a.mp4", "b.mp4"], 0, [CLIP], "holds a stream clip already"),
        (["a.mp4", "b.mp4"], 0, [CLIP, AUDIO], "comes alone"),
    ],
)
def test_a_sidecar_must_fit(
    store: Path, names: list[str], version: int, streams: list[StreamSpec], message: str
) -> None:
    write_cache(store, [make_video("a.mp4"), make_video("b.mp4")])
    before = read_contents(store)
    sidecar = write_cache(
        store.parent / "side.zarr",
        [make_video(name, version=version, streams=streams) for name in names],
        streams=streams,
    )
    with CacheWriter.reopen(store) as writer, pytest.raises(CacheError, match=message):
        writer.attach_stream(sidecar)
    assert read_contents(store) == before


def test_reopen_needs_a_cache(store: Path) -> None:
    with pytest.raises(CacheNotFound):
        CacheWriter.reopen(store)
    assert not list(store.parent.iterdir())


def test_a_closed_writer_refuses(store: Path) -> None:
    writer = open_writer(store)
    writer.close()
    writer.close()
    with pytest.raises(CacheError, match="closed"):
        writer.commit([make_video("a.mp4")], [])


def test_a_reject_is_taken_off_the_record(store: Path) -> None:
    rejects = [make_reject("bad.mp4"), make_reject("folder", "unreadable-file")]
    with open_writer(store) as writer:
        writer.commit([make_video("a.mp4")], rejects)
        for stranger in ("a.mp4", "nowhere"):
            with pytest.raises(CacheError, match="is no reject"):
                writer.withdraw([stranger])
        writer.withdraw(["folder"])
        assert set(writer.known()) == {"a.mp4", "bad.mp4"}
    with open_cache(store) as cache:
        assert cache.rejects.id.tolist() == ["bad.mp4"] and cache.videos.id.tolist() == ["a.mp4"]
    with open_writer(store) as writer:
        writer.commit([], [make_reject("folder")])
    with open_cache(store) as cache:
        assert cache.rejects.id.tolist() == ["bad.mp4", "folder"]


@pytest.mark.parametrize("unknown", ["here", "beside", "both"])
def test_a_sidecar_of_unknown_digests_is_not_called_equal(store: Path, unknown: str) -> None:
    def video(where: str, streams: list[StreamSpec]) -> VideoFeatures:
        made = make_video("a.mp4", streams=streams)
        digest = "" if unknown in (where, "both") else made.row.digest
        return dataclasses.replace(made, row=dataclasses.replace(made.row, digest=digest))

    write_cache(store, [video("here", [CLIP, SLOWFAST])])
    sidecar = write_cache(store.parent / "side.zarr", [video("beside", [AUDIO])], streams=[AUDIO])
    with CacheWriter.reopen(store) as writer, pytest.raises(CacheError, match="1 videos have no digest"):
        writer.attach_stream(sidecar)
