"""Streams that a video may lack: the reason is kept, nothing stands in, and whatever copies a cache copies it too."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from cache.check import check_cache
from cache.convert import convert
from cache.errors import CacheCorrupt, CacheError
from cache.merge import merge
from cache.reader import open_cache
from cache.schema import MAX_DETAIL_CHARACTERS, StreamSpec, VideoFeatures
from cache.writer import CacheWriter
from tests.cache.builders import CLIP, fingerprint, make_reject, make_video, open_writer, write_cache
from tests.cache.crashing import Killed, dying_after

SOUND = StreamSpec("audio", 3, "float16", fingerprint("audio"), optional=True)
STREAMS = (CLIP, SOUND)
NO_SOUND = "no audio stream"


def without_sound(video_id: str, why: str = NO_SOUND, *, version: int = 0) -> VideoFeatures:
    video = make_video(video_id, streams=(CLIP,), version=version)
    return VideoFeatures(video.row, video.tokens, {"audio": why})


VIDEOS = [
    make_video("a.mp4", streams=STREAMS, n_tokens=4),
    without_sound("b.mp4"),
    without_sound("c.mp4", "audio could not be decoded: Invalid data"),
    make_video("d.mp4", streams=STREAMS, n_tokens=2),
]


def reasons(path: Path) -> dict[str, str]:
    with open_cache(path) as cache:
        assert not check_cache(cache)
        lengths = cache.load("audio").lengths
        found = dict(zip(cache.videos.id.tolist(), cache.absent("audio").tolist(), strict=True))
        assert [not why for why in found.values()] == (lengths > 0).tolist()
        assert [len(tokens.values) for tokens in cache.read("audio", range(len(cache)))] == lengths.tolist()
        assert cache.absent("clip").tolist() == [""] * len(cache)
        assert cache.streams["audio"].optional and not cache.streams["clip"].optional
    return found


WHOLE = {"a.mp4": "", "b.mp4": NO_SOUND, "c.mp4": "audio could not be decoded: Invalid data", "d.mp4": ""}


def test_absence_is_kept_with_its_reason(store: Path) -> None:
    write_cache(store, VIDEOS, [make_reject("x.mp4")], streams=STREAMS)
    assert reasons(store) == WHOLE
    with open_cache(store) as cache:
        there = cache.tokens("audio", 3)
        assert np.array_equal(there.values, VIDEOS[3].tokens["audio"].values)
        assert "absent" in repr(cache.tokens("audio", 1)) and cache.tokens("audio", 1).values.shape == (0, 3)


def test_it_grows_and_a_newer_row_has_its_own_say(store: Path) -> None:
    write_cache(store, VIDEOS[:2], streams=STREAMS)
    write_cache(store, VIDEOS[2:], streams=STREAMS)
    assert reasons(store) == WHOLE
    write_cache(store, [make_video("b.mp4", streams=STREAMS, version=1)], streams=STREAMS)
    write_cache(store, [without_sound("a.mp4", version=1)], streams=STREAMS)
    assert reasons(store) == {"c.mp4": WHOLE["c.mp4"], "d.mp4": "", "b.mp4": "", "a.mp4": NO_SOUND}


def test_plain_libraries_read_it(store: Path) -> None:
    write_cache(store, VIDEOS, streams=STREAMS)
    if store.suffix == ".h5":
        with h5py.File(store) as file:
            absent = file["streams/audio/absent"].asstr()[:].tolist()
            version, marked = int(file.attrs["format_version"]), bool(file["streams/audio"].attrs["optional"])
    else:
        group = zarr.open_group(store, mode="r")
        absent = group["streams/audio/absent"][:].tolist()
        version, marked = group.attrs["format_version"], group["streams/audio"].attrs["optional"]  # type: ignore[assignment]
    assert absent == list(WHOLE.values()) and version == 2 and marked is True


def test_a_cache_without_an_optional_stream_is_of_version_1(tmp_path: Path) -> None:
    write_cache(tmp_path / "v1.zarr", [make_video("a.mp4", streams=(CLIP,))], streams=(CLIP,))
    said = json.loads((tmp_path / "v1.zarr" / "zarr.json").read_text())
    assert said["attributes"]["format_version"] == 1
    tree = said["consolidated_metadata"]["metadata"]
    assert "streams/clip/absent" not in tree and "optional" not in tree["streams/clip"]["attributes"]


def test_what_is_required_may_not_be_absent(store: Path) -> None:
    required = StreamSpec("audio", 3, "float16", SOUND.fingerprint)
    with (
        open_writer(store, streams=(CLIP, required)) as writer,
        pytest.raises(CacheError, match=r"b\.mp4: stream audio is required, and absent: no audio stream"),
    ):
        writer.commit([without_sound("b.mp4")], [])
    with pytest.raises(
        CacheError, match="audio is optional in this run but required in .*: give --require audio"
    ):
        open_writer(store, streams=STREAMS)


def test_records_that_contradict_themselves_are_refused() -> None:
    whole = make_video("a.mp4", streams=STREAMS)
    with pytest.raises(ValueError, match="stream audio has tokens and is absent"):
        VideoFeatures(whole.row, whole.tokens, {"audio": NO_SOUND})
    with pytest.raises(ValueError, match="audio is absent without a reason"):
        without_sound("a.mp4", "")
    with pytest.raises(ValueError, match="clip has no token; an absent stream needs a reason"):
        none = whole.tokens["clip"]
        VideoFeatures(whole.row, {"clip": type(none)(none.values[:0], none.spans[:0])})
    assert len(without_sound("a.mp4", "x" * 5000).absent["audio"]) == MAX_DETAIL_CHARACTERS


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_converting_and_merging_keep_it(store: Path, tmp_path: Path, suffix: str) -> None:
    write_cache(store, VIDEOS[:3], streams=STREAMS)
    write_cache(store, [without_sound("a.mp4", version=1)], streams=STREAMS)
    convert(store, tmp_path / f"copy.{suffix}")
    assert reasons(tmp_path / f"copy.{suffix}") == reasons(store)
    other = write_cache(tmp_path / "other.zarr", VIDEOS[3:], [make_reject("x.mp4")], streams=STREAMS)
    merge([store, other], tmp_path / f"all.{suffix}")
    assert reasons(tmp_path / f"all.{suffix}") == reasons(store) | {"d.mp4": ""}
    again = write_cache(tmp_path / "again.zarr", [without_sound("d.mp4")], streams=STREAMS)
    with pytest.raises(CacheError, match=r"d\.mp4 stands in"):
        merge([other, again], tmp_path / "never.zarr")


def test_parts_that_differ_in_it_are_not_read_as_one(tmp_path: Path) -> None:
    required = StreamSpec("audio", 3, "float16", SOUND.fingerprint)
    one = write_cache(tmp_path / "a.zarr", VIDEOS[:1], streams=STREAMS)
    two = write_cache(
        tmp_path / "b.zarr", [make_video("z.mp4", streams=(CLIP, required))], streams=(CLIP, required)
    )
    with pytest.raises(CacheError, match="audio is optional in .* but required in"):
        open_cache(one, two)


def test_it_is_attached_to_a_stored_cache(store: Path, tmp_path: Path) -> None:
    write_cache(store, [make_video(video.row.id, streams=(CLIP,)) for video in VIDEOS], streams=(CLIP,))
    write_cache(store, [make_video("a.mp4", streams=(CLIP,), version=1, n_tokens=4)], streams=(CLIP,))
    sidecar = tmp_path / "sound.zarr"
    rows = [
        make_video("a.mp4", streams=(CLIP,), version=1, n_tokens=4).row,
        *(video.row for video in VIDEOS[1:]),
    ]
    alone = [
        VideoFeatures(row, {k: v for k, v in video.tokens.items() if k == "audio"}, video.absent)
        for row, video in zip(rows, VIDEOS, strict=True)
    ]
    write_cache(sidecar, alone, streams=(SOUND,))
    with CacheWriter.reopen(store) as writer:
        writer.attach_stream(sidecar)
    assert reasons(store) == WHOLE


def test_a_contradiction_in_a_store_is_found(store: Path) -> None:
    write_cache(store, VIDEOS, streams=STREAMS)
    if store.suffix == ".h5":
        with h5py.File(store, "r+") as file:
            file["streams/audio/absent"][:2] = [NO_SOUND, ""]
    else:
        zarr.open_group(store, mode="r+")["streams/audio/absent"][:2] = np.array([NO_SOUND, ""], object)  # type: ignore[index]
    with open_cache(store) as cache:
        found = [problem.what for problem in check_cache(cache)]
    assert found == [
        "1 videos without a token: 'b.mp4'",
        "1 videos with tokens that are said to be absent: 'a.mp4'",
    ]


def test_a_column_that_is_too_short_is_corrupt(tmp_path: Path) -> None:
    path = write_cache(tmp_path / "a.zarr", VIDEOS, streams=STREAMS)
    record = json.loads((path / "zarr.json").read_text())
    record["consolidated_metadata"]["metadata"]["streams/audio/absent"]["shape"] = [3]
    (path / "zarr.json").write_text(json.dumps(record))
    with pytest.raises(CacheCorrupt, match="streams/audio/absent has 3 rows for 4 videos"):
        open_cache(path)


@pytest.mark.parametrize("store", ["zarr", pytest.param("h5", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.usefixtures("without_fsync")
def test_a_death_at_any_moment_leaves_the_old_state_or_the_new(store: Path) -> None:
    """And the same commits go on from there."""

    def write(path: Path) -> None:
        for batch in (VIDEOS[:2], VIDEOS[2:]):
            with open_writer(path, streams=STREAMS) as writer:
                writer.commit([video for video in batch if video.row.id not in writer.known()], [])

    for steps in range(0, 1000, 47):
        path = store.with_name(f"{steps}-{store.name}")
        with dying_after(steps) as countdown, contextlib.suppress(Killed):
            write(path)
        if path.exists():
            with open_cache(path) as cache:
                assert cache.absent("audio").tolist() == list(WHOLE.values())[: len(cache)]
        if not countdown.dead:
            break
        write(path)
        assert reasons(path) == WHOLE
    else:
        pytest.fail("it never ended well")
