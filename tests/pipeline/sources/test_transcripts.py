"""Which words are whose: files beside videos, folders and manifests, and joins that fail with what is nearly right."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cache.errors import InputError
from pipeline.decoding.words import Transcript
from pipeline.sources.transcripts import named_transcripts, sidecars, with_transcripts
from pipeline.sources.tree import Source
from tests.words import srt

CUES = [(0.0, 1.0, "secret words")]
IDS = ("train/Fight/V_1_0.mp4", "train/Fight/V_2_0.mp4", "val/NonFight/V_3_0.avi")


def put(path: Path, text: str = "secret words") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def sources(root: Path, *names: str) -> list[Source]:
    return [Source(name, put(root / name, "a video"), "", "", "") for name in names]


def table(path: Path, *rows: str) -> Path:
    return put(path, "\n".join(rows) + "\n")


def test_a_file_beside_a_video_is_its_words(tmp_path: Path) -> None:
    videos = sources(
        tmp_path, "a/V_1.mp4", "a/V_2.MP4", "b/V_1.mp4", "b/v_3.mkv", "b/V_4.mp4", "b/V_5_0.0_4.0.mp4"
    )
    for name in (
        "a/V_1.srt",
        "a/v_2.mp4.VTT",
        "b/V_1.ko.srt",
        "b/v_3.txt",
        "b/v_3.json",
        "b/V_5_0.0_4.0.srt",
    ):
        put(tmp_path / name)
    put(tmp_path / "b" / ".V_4.srt")
    put(tmp_path / "b" / "V_44.srt")
    put(tmp_path / "b" / "labels.json")
    found = sidecars(videos)
    assert {i: each.called for i, each in found.by_id.items()} == {
        "a/V_1.mp4": "V_1.srt",
        "a/V_2.MP4": "v_2.mp4.VTT",
        "b/V_1.mp4": "V_1.ko.srt",
        "b/v_3.mkv": "v_3.json",
        "b/V_5_0.0_4.0.mp4": "V_5_0.0_4.0.srt",
    }
    assert found.lines == (
        "words: 5 videos have a transcript beside them (3 .srt, 1 .vtt, 1 .json)",
        "words: 1 videos have several, of which one is read: b/v_3.mkv: v_3.json, not v_3.txt",
        "warning: 1 transcripts lie beside no video of their name: V_44.srt",
        "  near miss: transcript 'V_44' and video 'b/V_4.mp4'",
    )


def test_the_language_is_no_part_of_a_name_unless_it_is(tmp_path: Path) -> None:
    videos = sources(tmp_path, "clip.cam.mp4", "clip.mp4", "x.mp4")
    for name in ("clip.cam.srt", "x.ko.srt", "x.en-US.srt", "x.avi.srt"):
        put(tmp_path / name)
    found = sidecars(videos)
    assert {i: each.called for i, each in found.by_id.items()} == {
        "clip.cam.mp4": "clip.cam.srt",
        "clip.mp4": "clip.cam.srt",
        "x.mp4": "x.en-US.srt",
    }
    assert any("x.avi.srt" in line for line in found.lines)


def test_a_folder_joins_by_path_and_by_name_alone(tmp_path: Path) -> None:
    for name in (
        "train/Fight/V_1_0.srt",
        "V_2_0.mp4.vtt",
        "V_2_0.txt",
        "RWF/V_3_0.ko.json",
        "V_9_0.srt",
        "notes.pdf",
    ):
        put(tmp_path / name)
    found = named_transcripts(tmp_path, IDS)
    assert {i: each.called for i, each in found.by_id.items()} == {
        IDS[0]: "train/Fight/V_1_0.srt",
        IDS[1]: "V_2_0.mp4.vtt",
        IDS[2]: "RWF/V_3_0.ko.json",
    }
    assert found.lines[0] == (
        f"transcripts: 3 of 3 videos matched in {tmp_path}, 0 videos without a transcript, 1 transcripts without a video"
    )
    assert "  transcripts without a video: V_9_0" in found.lines
    assert any("1 videos have several" in line for line in found.lines)


def test_the_old_failure_names_what_is_nearly_right(tmp_path: Path) -> None:
    put(tmp_path / "t" / "V1_0.srt")
    with pytest.raises(InputError, match=r"no transcript joins any video; they are such as V1_0") as caught:
        named_transcripts(tmp_path / "t", IDS)
    assert "near miss: transcript 'V1_0' and video 'train/Fight/V_1_0.mp4'" in str(caught.value)
    put(tmp_path / "real" / "V_1_0.srt")
    wrong = table(tmp_path / "m.csv", "path,srt", "V_1_0.mp4,reel/V_1_0.srt", "V_2_0.mp4,real/V_1-0.srt")
    with pytest.raises(
        InputError, match="2 of 2 transcripts that .* names are not there: reel/V_1_0.srt, real/"
    ) as caught:
        named_transcripts(wrong, IDS)
    assert f"near miss: 'reel/V_1_0.srt' is not there, '{tmp_path / 'real' / 'V_1_0.srt'}' is" in str(
        caught.value
    )
    assert f"near miss: 'real/V_1-0.srt' is not there, '{tmp_path / 'real' / 'V_1_0.srt'}' is" in str(
        caught.value
    )
    half = table(tmp_path / "h.csv", "path,srt", "V_1_0.mp4,real/V_1_0.srt", "V_2_0.mp4,real/V_2_0.srt")
    found = named_transcripts(half, IDS)
    assert found.by_id[IDS[0]] == Transcript("real/V_1_0.srt", tmp_path / "real/V_1_0.srt")
    assert found.by_id[IDS[1]].problem == "no such file"
    assert any(line.startswith("warning: 1 of 2 transcripts that") for line in found.lines)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json"])
def test_a_manifest_holds_texts_or_paths(suffix: str, tmp_path: Path) -> None:
    put(tmp_path / "V_2_0.srt", srt(CUES))
    rows = [("V_1_0", "secret\nwords, and more"), ("train/Fight/V_2_0.mp4", "V_2_0.srt"), ("V_3_0.avi", "")]
    path = tmp_path / f"m.{suffix}"
    if suffix in ("csv", "tsv"):
        comma = "," if suffix == "csv" else "\t"
        put(path, f"id{comma}text\n" + "".join(f'{key}{comma}"{text}"\n' for key, text in rows))
    else:
        held = [{"id": key, "text": text} for key, text in rows]
        put(path, json.dumps(held) if suffix == "json" else "\n".join(map(json.dumps, held)))
    lines = named_transcripts(path, IDS).lines
    assert f"  warning: for 1 videos it holds no words, empty or null: {IDS[2]}" in lines
    found = named_transcripts(path, IDS).by_id
    (cue,) = found[IDS[0]].cues
    assert (cue.text, cue.timed, cue.end_seconds) == ("secret words, and more", False, math.inf)
    assert found[IDS[1]].path == tmp_path / "V_2_0.srt"
    assert found[IDS[2]].cues == () and not found[IDS[2]].problem


def test_null_is_no_text_and_said(tmp_path: Path) -> None:
    path = put(tmp_path / "m.jsonl", '{"id": "V_1_0", "text": "secret"}\n{"id": "V_2_0", "text": null}\n')
    found = named_transcripts(path, IDS)
    assert found.by_id[IDS[1]].cues == ()
    assert found.lines[-1] == f"  warning: for 1 videos it holds no words, empty or null: {IDS[1]}"


def test_a_row_a_segment_is_a_cue_a_row(tmp_path: Path) -> None:
    path = table(
        tmp_path / "m.csv",
        "video,start,end,text",
        *("V_1_0,0.5,1.0,one", "V_1_0,1.5,2,two", "V_1_0,3,2,back", "V_2_0,x,2,bad", "V_9_0,0,1,other"),
    )
    found = named_transcripts(path, IDS)
    first = found.by_id[IDS[0]]
    assert [(c.start_seconds, c.end_seconds, c.text) for c in first.cues] == [
        (0.5, 1.0, "one"),
        (1.5, 2.0, "two"),
    ]
    assert first.n_refused == 1 and found.by_id[IDS[1]].problem == "1 rows have times that cannot be"
    assert "2 of 3 videos matched" in found.lines[0] and "1 transcripts without a video" in found.lines[0]


def test_korean_excel_and_hours_of_speech_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes("id,text\nV_1_0,오늘 날씨가 좋네요\n".encode("cp949"))
    assert named_transcripts(path, IDS).by_id[IDS[0]].cues[0].text == "오늘 날씨가 좋네요"
    long = table(tmp_path / "l.csv", "id,text", f"V_1_0,{'word ' * 40_000}")
    assert len(named_transcripts(long, IDS).by_id[IDS[0]].cues[0].text) == 199_999


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("m.csv", "id,label\nV_1_0,secret\n", "no column with words; name one 'text'"),
        ("m.csv", "text\nsecret\n", "no path column"),
        ("m.json", '{"id": "secret', "not valid JSON"),
        ("m.json", '["secret"]', "expected a list of objects"),
        ("m.jsonl", '"secret"\n', "line 1: expected an object"),
        ("m.jsonl", '{"id": "a", "text": "secret", "text": "b"}\n', "a key stands twice"),
        ("m.csv", "id,text\nV_1_0,a,secret\n", "3 cells under 2 columns"),
        ("m.jsonl", '{"id": "V_1_0", "text": ["secret"]}\n', "line 1: 'text' is a list, not a text"),
        ("m.json", '[{"id": "V_1_0", "Text": {"secret": 1}}]', "item 0: 'Text' is a dict, not a text"),
        ("m.json", '{"V_1_0": {"text": true}}', "key 'V_1_0': 'text' is a bool, not a text"),
        ("m.docx", "secret", "give a folder of .srt"),
    ],
)
def test_what_cannot_be_used_is_said_without_its_text(name: str, text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why) as caught:
        named_transcripts(put(tmp_path / name, text), IDS)
    assert "secret" not in str(caught.value)


def test_folders_that_hold_nothing_and_names_that_fit_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        named_transcripts(tmp_path / "gone", IDS)
    with pytest.raises(InputError, match="holds no .srt"):
        named_transcripts(put(tmp_path / "e" / "a.pdf").parent, IDS)
    put(tmp_path / "f" / "V_1.srt")
    with pytest.raises(
        InputError, match=r"f: V_1.srt: 'V_1' fits 2 videos: a/V_1.mp4, b/V_1.mp4; write the path"
    ):
        named_transcripts(tmp_path / "f", ("a/V_1.mp4", "b/V_1.mp4"))


def test_what_is_named_comes_before_what_lies_beside(tmp_path: Path) -> None:
    videos = sources(tmp_path / "v", "V_1_0.mp4", "V_2_0.mp4", "V_3_0.mp4")
    put(tmp_path / "v" / "V_1_0.srt")
    put(tmp_path / "v" / "V_2_0.srt")
    put(tmp_path / "t" / "V_1_0.vtt")
    read, lines = with_transcripts(videos, [video.id for video in videos], tmp_path / "t")
    assert [each.transcript and each.transcript.called for each in read] == ["V_1_0.vtt", "V_2_0.srt", None]
    assert lines[-1] == (
        "words: 2 of 3 videos have a transcript in a file; of the others a subtitle track is read where there is one"
    )
    shared, _ = with_transcripts(videos[1:], [video.id for video in videos], tmp_path / "t")
    assert len(shared) == 2 and shared[0].transcript is not None


def test_subtitles_of_videos_that_another_shard_has_are_no_strays(tmp_path: Path) -> None:
    (mine,) = sources(tmp_path, "mine.mp4")
    for name in ("mine.mp4", "other.mp4", "other.ko.srt", "third.mkv", "third.mkv.vtt", "nobody.srt"):
        put(tmp_path / name)
    assert sidecars([mine]).lines[0] == "warning: 1 transcripts lie beside no video of their name: nobody.srt"


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_table_without_a_header_is_refused_and_not_quoted(suffix: str, tmp_path: Path) -> None:
    comma = {"csv": ",", "tsv": "\t"}[suffix]
    manifest = put(tmp_path / f"t.{suffix}", f"V_1{comma}what was said\nV_2{comma}and answered\n")
    with pytest.raises(InputError, match="no column with words") as refused:
        named_transcripts(manifest, ["V_1.mp4", "V_2.mp4"])
    assert "said" not in str(refused.value)
