"""Words of real files on the pictures' clock: containers, files beside them, and the reasons where there are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.decoding import reading
from pipeline.decoding.plain_words import plain_cues
from pipeline.decoding.reading import read_words
from pipeline.decoding.sound import Absent
from pipeline.decoding.words import Cue, Transcript, Words, WordsPlan, untimed
from tests.videos import write_image, write_text, write_video
from tests.words import Cues, recognised, srt, vtt, write_with_words

CUES = [(0.5, 1.2, "<i>Hello</i> there\nyou"), (1.3, 1.9, "Stop it!")]
TOLD = [(0.5, 1.2, "Hello there you"), (1.3, 1.9, "Stop it!")]
PLAN = WordsPlan(64)


def read(
    path: Path, *, given: Transcript | None = None, plan: WordsPlan = PLAN, seconds: float = 3.0
) -> Words:
    return read_words(
        path, plan, transcript=given, origin_seconds=None, duration_seconds=seconds, beat=lambda: None
    )


def told(cues: tuple[Cue, ...]) -> list[tuple[float, float, str]]:
    return [(round(c.start_seconds, 2), round(c.end_seconds, 2), c.text) for c in cues]


def given(path: Path, text: str | bytes) -> Transcript:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Transcript(path.name, path)


@pytest.mark.parametrize("start", [0.0, 1.4])
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "mov_text"),
        ("a.mov", "mov_text"),
        ("a.mkv", "subrip"),
        ("b.mkv", "ass"),
        ("c.mkv", "webvtt"),
    ],
)
def test_a_track_lies_on_the_pictures_clock(name: str, codec: str, start: float, tmp_path: Path) -> None:
    cues = [
        (a, b, text if codec != "mov_text" else text.replace("<i>", "").replace("</i>", ""))
        for a, b, text in CUES
    ]
    path = write_with_words(tmp_path / name, [cues], codec=codec, start_seconds=start)
    words = read(path)
    assert told(words.cues) == TOLD and words.came_from.startswith("subtitle track 0 (") and not words.notes
    again = plain_cues(path, PLAN, None, duration_seconds=3.0)
    assert told(again) == TOLD


def test_one_of_several_tracks_is_taken_and_said(tmp_path: Path) -> None:
    path = write_with_words(tmp_path / "a.mkv", [CUES, [(0.1, 0.2, "other")]], codec="subrip")
    assert read(path).notes == ("words: subtitle track 0 (srt) was taken of 2",)
    second = WordsPlan(64, track=1)
    beside = given(tmp_path / "a.srt", srt([(0.0, 1.0, "beside")]))
    assert told(read(path, plan=second, given=beside).cues) == [(0.1, 0.2, "other")]
    assert told(read(path, given=beside).cues) == [(0.0, 1.0, "beside")]
    with pytest.raises(Absent, match="no transcript: no subtitle track 2, there are 2"):
        read(path, plan=WordsPlan(64, track=2))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.srt", srt(CUES)),
        ("a.vtt", vtt(CUES)),
        ("a.json", recognised(TOLD)),
        ("a.srt", srt(CUES).encode("utf-16")),
    ],
)
def test_a_file_is_read_as_ffmpeg_reads_it(name: str, text: str | bytes, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", seconds=1)
    beside = given(tmp_path / name, text)
    words = read(path, given=beside)
    assert told(words.cues) == TOLD and words.came_from == name
    assert told(plain_cues(path, PLAN, beside, duration_seconds=3.0)) == TOLD


def test_a_guess_is_said_and_text_without_times_spans_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", seconds=1)
    beside = given(tmp_path / "a.txt", "오늘 날씨가 좋네요.\n안녕".encode("cp949"))
    words = read(path, given=beside, seconds=1.0)
    assert told(words.cues) == [(0.0, 1.0, "오늘 날씨가 좋네요. 안녕")] and not words.cues[0].timed
    assert words.notes == ("words: the encoding of a.txt is guessed: cp949; encoding= says another",)
    again = plain_cues(path, PLAN, beside, duration_seconds=1.0)
    assert again == words.cues
    assert not read(path, given=beside, plan=WordsPlan(64, encoding="cp949")).notes


def test_what_lies_outside_the_pictures_is_not_of_the_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", seconds=1)
    beside = given(
        tmp_path / "a.srt", srt([(2.5, 3.5, "late"), (0.5, 0.4, "back"), (0.0, 0.5, "in"), (0.9, 1.5, "cut")])
    )
    words = read(path, given=beside, seconds=1.0)
    assert told(words.cues) == [(0.0, 0.5, "in"), (0.9, 1.0, "cut")]
    assert words.notes == (
        "words: 1 cues with times that are negative, run backwards or cannot be read were left out",
        "words: 1 cues lie outside the pictures",
    )
    assert plain_cues(path, PLAN, beside, duration_seconds=1.0) == words.cues
    with pytest.raises(
        Absent, match=r"no transcript: all 1 cues of late.srt lie outside the 1.0 s of pictures"
    ):
        read(path, given=given(tmp_path / "late.srt", srt([(2.5, 3.5, "late")])), seconds=1.0)
    early = write_with_words(
        tmp_path / "b.mkv", [[(-0.3, 0.4, "before"), (1.0, 2.0, "in")]], codec="subrip", start_seconds=1.0
    )
    assert told(read(early).cues) == [(0.0, 0.4, "before"), (1.0, 2.0, "in")]
    assert told(plain_cues(early, PLAN, None, duration_seconds=3.0)) == told(read(early).cues)


def test_what_is_not_there_or_broken_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", seconds=1)
    gone = Transcript("b.srt", tmp_path / "b.srt")
    cases = [
        (None, "no transcript"),
        (given(tmp_path / "e.srt", " \n"), "no transcript: e.srt holds no words"),
        (given(tmp_path / "t.srt", srt([(0.1, 0.2, "<i></i>")])), "no transcript: t.srt holds no words"),
        (
            given(tmp_path / "x.srt", "words"),
            "transcript could not be read: x.srt: it has no line of times, as .srt files do",
        ),
        (
            given(tmp_path / "r.srt", srt([(2, 1, "a")])),
            "transcript could not be read: r.srt: not one of 1 cues has times that can be",
        ),
        (gone, "transcript could not be read: b.srt: No such file or directory"),
        (Transcript("m.csv", problem="no such file"), "transcript could not be read: m.csv: no such file"),
        (Transcript("m.csv", cues=()), "no transcript: m.csv holds no words"),
    ]
    for transcript, why in cases:
        with pytest.raises(Absent) as caught:
            read(path, given=transcript)
        assert str(caught.value) == why
        assert not plain_cues(path, PLAN, transcript, duration_seconds=1.0)
    assert told(read(path, given=Transcript("m.csv", cues=(untimed("a"),)), seconds=1.0).cues) == [
        (0.0, 1.0, "a")
    ]
    monkeypatch.setattr(reading, "MOST_BYTES", 3)
    with pytest.raises(Absent, match=r"transcript could not be read: x.srt: 0 MiB are no transcript"):
        read(path, given=cases[3][0])


def test_files_that_hold_no_track_say_so(tmp_path: Path) -> None:
    for path in (write_image(tmp_path / "a.png"), write_video(tmp_path / "a.avi", codec="mpeg4")):
        with pytest.raises(Absent, match="^no transcript$"):
            read(path)
    with pytest.raises(Absent, match="transcript could not be read: "):
        read(write_text(tmp_path / "a.mp4"))


@pytest.mark.parametrize("write", [srt, vtt, recognised])
def test_a_cue_that_stands_there_twice_is_one_also_to_verify(
    write: Callable[[Cues], str], tmp_path: Path
) -> None:
    """FFmpeg's parsers drop repeated cues, ours did not, so a sound cache failed its verification."""
    video = write_video(tmp_path / "a.mp4", seconds=1)
    suffix = {srt: ".srt", vtt: ".vtt", recognised: ".json"}[write]
    twice = [(0.0, 0.9, "one"), (0.0, 0.9, "two"), (0.0, 0.9, "one"), (0.2, 0.9, "one")]
    beside = given(tmp_path / f"a{suffix}", write(twice))
    once = [(0.0, 0.9, "one"), (0.0, 0.9, "two"), (0.2, 0.9, "one")]
    assert told(read(video, given=beside, seconds=1.0).cues) == once
    assert told(plain_cues(video, PLAN, beside, duration_seconds=1.0)) == once


@pytest.mark.parametrize(
    ("name", "text", "cue"),
    [
        ("a.srt", "1\n00:00:00,5 --> 00:00:01,25\none\n", (0.5, 1.25, "one")),
        ("a.srt", "1\n00:01 --> 00:00:02\none\n", (1.0, 2.0, "one")),
        ("a.srt", "1\n  00:00:00,100  -->  00:00:00,900  \n  one\n", (0.1, 0.9, "one")),
        ("a.srt", f"1\n-00:00:01,000 --> 00:00:01,000\nno\n\n{srt([(1.0, 2.0, 'one')])}", (1.0, 2.0, "one")),
        ("a.vtt", "WEBVTT\n\n00:00.100 --> 00:00.900\none\n   \n00:02.000 --> x\nno\n", (0.1, 0.9, "one")),
        ("a.json", '{"segments": [{"begin": "0.1", "stop": 0.9, "text": "one"}]}', (0.1, 0.9, "one")),
        ("a.json", '[{"from": true, "to": 2, "text": "no"}, {"from": 1, "to": 2, "text": "one"}]', (1, 2, "one")),
        ("a.json", '{"segments": null, "text": "one"}', (0.0, 3.0, "one")),
    ],
)  # fmt: skip
def test_verify_reads_loosely_written_files_as_extract_does(
    name: str, text: str, cue: tuple[float, float, str], tmp_path: Path
) -> None:
    beside = given(tmp_path / name, text)
    video = tmp_path / "no.mp4"
    assert told(read(video, given=beside).cues) == [cue]
    assert told(plain_cues(video, PLAN, beside, duration_seconds=3.0)) == [cue]
