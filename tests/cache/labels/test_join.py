"""Joining labels to videos: every id style, both sides counted, nothing guessed."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import LabelError
from cache.labels.join import (
    LabelEntry,
    LabelNames,
    VideoLabel,
    join_labels,
    label_videos,
    match_entries,
    normalised_stem,
    require_joined,
)
from cache.labels.names import is_number

NAMES = LabelNames("NonFight", "Fight")


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("RWF-2000/V_123_0.0_4.0", "v_123_0.0_4.0"),
        ("V_123_0.0_4.0.mp4", "v_123_0.0_4.0"),
        ("V_123_0.0_4.0.MP4", "v_123_0.0_4.0"),
        ("a\\b\\Clip 1.AVI ", "clip 1"),
        ("./x.mkv", "x"),
        ("x.mp4.mp4", "x.mp4"),
        ("notes.txt", "notes.txt"),
        (".mp4", ".mp4"),
        ("photo.JPeG", "photo"),
        ("caf" + unicodedata.normalize("NFD", "é") + ".mp4", "café"),
    ],
)
def test_normalised_stem(text: str, stem: str) -> None:
    assert normalised_stem(text) == stem


@pytest.mark.parametrize(
    "key",
    [
        "train/Fight/V_123_0.0_4.0.mp4",
        "./train/Fight/V_123_0.0_4.0.mp4",
        "train\\Fight\\V_123_0.0_4.0.mp4",
        "TRAIN/fight/v_123_0.0_4.0.MP4",
        "/data/RWF-2000/train/Fight/V_123_0.0_4.0.mp4",
        "C:\\data\\train\\Fight\\V_123_0.0_4.0.mp4",
        "Fight/V_123_0.0_4.0",
        "V_123_0.0_4.0.mp4",
        "V_123_0.0_4.0.avi",
        "V_123_0.0_4.0",
        "RWF-2000/V_123_0.0_4.0",
        " V_123_0.0_4.0 ",
    ],
)
def test_every_style_joins(key: str) -> None:
    ids = ["train/Fight/V_123_0.0_4.0.mp4", "train/Fight/V_123_4.0_8.0.mp4"]
    join = join_labels(ids, [LabelEntry(key, "Fight", "train", "V_123")], names=NAMES)
    assert join.matched == {ids[0]: VideoLabel(1, "Fight", "train", "V_123")}
    assert join.unmatched_ids == (ids[1],)
    assert join.unmatched_keys == ()


def test_a_path_decides_between_files_of_one_name() -> None:
    ids = ["train/Fight/a.mp4", "train/NonFight/a.mp4", "val/Fight/a.avi"]
    entries = [
        LabelEntry("NonFight/a.mp4", "NonFight"),
        LabelEntry("data/train/Fight/a.mp4", "Fight"),
        LabelEntry("a.avi", "Fight"),
    ]
    join = join_labels(ids, entries, names=NAMES)
    assert {video_id: label.label for video_id, label in join.matched.items()} == {
        ids[0]: 1,
        ids[1]: 0,
        ids[2]: 1,
    }


def test_ids_that_differ_only_in_case_go_by_exact_spelling() -> None:
    join = join_labels(
        ["a.mp4", "A.mp4"], [LabelEntry("A.mp4", "Fight"), LabelEntry("a.mp4", "NonFight")], names=NAMES
    )
    assert join.matched["A.mp4"].label == 1
    assert join.matched["a.mp4"].label == 0


def test_ambiguous_key_names_both_videos() -> None:
    with pytest.raises(LabelError, match=r"line 3: 'a' fits 2 videos: train/Fight/a.mp4, val/Fight/a.mp4"):
        join_labels(
            ["train/Fight/a.mp4", "val/Fight/a.mp4"],
            [LabelEntry("a", "Fight", where="labels.csv, line 3")],
            names=NAMES,
        )


def test_repeated_rows_are_fine_and_contradicting_ones_are_not() -> None:
    ids = ["Fight/a.mp4"]
    twice = [LabelEntry("a", "Fight", where="line 2"), LabelEntry("a.mp4", "fight", where="line 3")]
    assert join_labels(ids, twice, names=NAMES).matched[ids[0]].label == 1
    for other in (
        LabelEntry("a", "NonFight", where="line 4"),
        LabelEntry("a", "Fight", "val", where="line 4"),
    ):
        with pytest.raises(
            LabelError, match=r"contradict each other about Fight/a.mp4: line 2 .* line 4 says"
        ):
            join_labels(ids, [twice[0], other], names=NAMES)


def test_a_row_for_an_absent_file_of_the_same_name_is_unmatched() -> None:
    matched, unmatched, _ = match_entries(
        ["a.mp4"], [LabelEntry("other/a.mp4", "NonFight"), LabelEntry("a.mp4", "Fight")]
    )
    assert matched["a.mp4"].label_name == "Fight"
    assert unmatched == ("other/a.mp4",)


def test_unknown_label_names_the_row() -> None:
    with pytest.raises(LabelError, match=r"line 9: 'a' has the label 'Fihgt', which is neither"):
        join_labels(["a.mp4"], [LabelEntry("a", "Fihgt", where="labels.csv, line 9")], names=NAMES)


def test_report_and_requirements() -> None:
    ids = ["Fight/V_1.mp4", "Fight/V_2.mp4", "NonFight/V_30.mp4"]
    whole = join_labels(ids, [LabelEntry(f"V_{n}", "Fight") for n in (1, 2, 30)], names=NAMES)
    require_joined(whole, allow_unmatched=False)
    assert whole.report() == (
        "labels: 3 videos matched (3 Fight, 0 NonFight), 0 videos without a label, 0 labels without a video",
        "  joined: 3 by stem; e.g. 'V_30' -> NonFight/V_30.mp4",
    )

    partly = join_labels(ids, [LabelEntry("V_1", "Fight"), LabelEntry("V_3O", "NonFight")], names=NAMES)
    require_joined(partly, allow_unmatched=True)
    with pytest.raises(LabelError, match="--allow-unmatched") as caught:
        require_joined(partly, allow_unmatched=False)
    assert "1 videos matched (1 Fight, 0 NonFight), 2 videos without a label, 1 labels" in str(caught.value)
    assert "near miss: label 'V_3O' and video 'NonFight/V_30.mp4'" in str(caught.value)


def test_only_unmatched_ids_or_only_unmatched_keys_is_an_error_too() -> None:
    for ids, keys in ((["a", "b"], ["a"]), (["a"], ["a", "b"])):
        join = join_labels(ids, [LabelEntry(key, "Fight") for key in keys], names=NAMES)
        with pytest.raises(LabelError):
            require_joined(join, allow_unmatched=False)


def test_a_join_of_zero_is_always_an_error_with_near_misses() -> None:
    join = join_labels(
        ["Fight/video_001.mp4", "Fight/video_002.mp4"], [LabelEntry("video-001", "Fight")], names=NAMES
    )
    for allow in (True, False):
        with pytest.raises(LabelError, match="no label matched any video") as caught:
            require_joined(join, allow_unmatched=allow)
        assert "near miss: label 'video-001' and video 'Fight/video_001.mp4'" in str(caught.value)


def test_from_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(
        b"\xef\xbb\xbfclip,class\r\nRWF-2000/V_1_0.0_4.0,Fight\r\nRWF-2000/V_2_0.0_4.0,nonfight\r\n"
    )
    ids = ["V_1_0.0_4.0.mp4", "V_2_0.0_4.0.mp4"]
    join = label_videos(ids, labels_file=path, positive=None, allow_unmatched=False)
    assert [join.matched[video_id].label for video_id in ids] == [1, 0]
    turned = label_videos(ids, labels_file=path, positive="nonfight", allow_unmatched=False)
    assert [turned.matched[video_id].label for video_id in ids] == [0, 1]
    with pytest.raises(LabelError, match="no label matched"):
        label_videos(["W_1.mp4"], labels_file=path, positive=None, allow_unmatched=True)


def test_a_third_name_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("id,label\na,Fight\nb,NonFight\nc,Fihgt\n")
    with pytest.raises(LabelError, match=r"Fihgt \(.*labels.csv, line 4\)"):
        label_videos(["a", "b", "c"], labels_file=path, positive=None, allow_unmatched=True)


@pytest.mark.slow
def test_fifty_thousand_rows_join_in_seconds() -> None:
    """3 s of processor time; a step that compares every row with every video would take minutes."""
    ids = [f"train/Fight/V_{n}_0.0_4.0.mp4" for n in range(50_000)]
    entries = [LabelEntry(f"RWF-2000/V_{n}_0.0_4.0", "Fight") for n in range(1, 50_001)]
    before = time.process_time()
    join = join_labels(ids, entries, names=NAMES)
    assert (len(join.matched), join.unmatched_ids) == (49_999, (ids[0],))
    assert join.unmatched_keys == ("RWF-2000/V_50000_0.0_4.0",)
    join.report()
    assert time.process_time() - before < 30


names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=("C", "Z")), min_size=1
)


@given(
    st.lists(
        names.filter(lambda name: name.strip(".") == name and not is_number(name)),
        min_size=1,
        max_size=8,
        unique_by=normalised_stem,
    ),
    st.data(),
)
def test_any_style_of_key_finds_its_own_video(stems: list[str], data: st.DataObject) -> None:
    ids = [f"train/Fight/{stem}.mp4" for stem in stems]
    styles = st.sampled_from(
        ["{0}.mp4", "RWF-2000/{0}.avi", "/x/train/Fight/{0}.mp4", "train\\Fight\\{0}.MP4"]
    )
    entries = [LabelEntry(data.draw(styles).replace("{0}", stem), "Fight", source=stem) for stem in stems]
    join = join_labels(ids, entries, names=NAMES)
    assert {video_id: label.source for video_id, label in join.matched.items()} == dict(
        zip(ids, stems, strict=True)
    )
    assert join.unmatched_ids == join.unmatched_keys == ()
