"""Transcript files to cues: what is read, what is left out, what is no transcript."""

from __future__ import annotations

import math

import pytest

from pipeline.decoding.subtitles import NoTranscript, parse_transcript, plain_text
from tests.words import clock, recognised, srt, vtt

CUES = [(0.5, 1.25, "Hello there"), (1.5, 3723.004, "Stop!")]


@pytest.mark.parametrize(("suffix", "write"), [(".srt", srt), (".vtt", vtt), (".json", recognised)])
def test_every_format_gives_the_same_cues(suffix: str, write: object) -> None:
    found = parse_transcript(write(CUES), suffix)  # type: ignore[operator]
    assert [(c.start_seconds, c.end_seconds, c.text) for c in found.cues] == CUES and not found.n_refused
    assert all(cue.timed for cue in found.cues)


def test_text_is_in_no_repr() -> None:
    assert "Hello" not in repr(parse_transcript(srt(CUES), ".srt"))


@pytest.mark.parametrize(
    ("marked", "words"),
    [
        ("<i>Hello</i> <b>there</b>", "Hello there"),
        ('<font color="#ff0000">Stop</font>\n  it', "Stop it"),
        (r"{\an8}{\i1}Up{\i0} here\Nand there\hnow", "Up here and there now"),
        ("<v Anna>Come <00:00:01.500><c.loud>here</c>", "Come here"),
        ("Tom &amp; Eve &lt;3", "Tom & Eve <3"),
        ("3 < 4 {not a tag}", "3 < 4 {not a tag}"),
        ("<i></i>", ""),
    ],
)
def test_markup_is_taken_off(marked: str, words: str) -> None:
    assert plain_text(marked) == words


def test_times_that_cannot_be_are_left_out_and_counted() -> None:
    text = srt([(1.0, 0.5, "backwards"), (0.2, 0.4, "kept")])
    text += "\n3\n-00:00:01,000 --> 00:00:01,000\nnegative\n\n4\nab:cd --> 00:00:02,000\nno times\n"
    found = parse_transcript(text, ".srt")
    assert [cue.text for cue in found.cues] == ["kept"] and found.n_refused == 3
    held = parse_transcript(
        '[{"start": -1, "end": 2, "text": "a"}, {"start": "x", "end": 2, "text": "b"}, {"start": true, "end": 2, "text": "c"},'
        '{"start": 1, "end": NaN, "text": "d"}, {"end": 2, "text": "e"}, {"start": 1, "end": 1, "text": "f"}]',
        ".json",
    )
    assert [cue.text for cue in held.cues] == ["f"] and held.n_refused == 5


def test_odd_but_whole_files_are_read() -> None:
    cues = parse_transcript(
        "1\r\n00:01 --> 00:02\r\nno hours\r\n\r\nand a gap\r\n2\r\n00:00:03,5 --> 00:00:04\r\nb\r\n", ".srt"
    ).cues
    assert [(c.start_seconds, c.end_seconds, c.text) for c in cues] == [
        (1, 2, "no hours and a gap"),
        (3.5, 4, "b"),
    ]
    assert clock(3723.004) == "01:02:03,004"
    text = "WEBVTT - a title\n\nNOTE 00:01.000 --> 00:02.000\nnot said\n\nSTYLE\n::cue { color: red }\n\n"
    text += "name\n00:01.000 --> 00:02.000 align:start\na\n\n"
    found = parse_transcript(text, ".vtt")
    assert [(c.start_seconds, c.text) for c in found.cues] == [(1, "a")] and not found.n_refused
    assert not parse_transcript("WEBVTT\n\nNOTE nobody speaks\n", ".vtt").cues
    chunks = parse_transcript(
        '{"text": "all", "chunks": [{"timestamp": [0.5, null], "text": " a  b "}]}', ".json"
    ).cues
    assert [(c.start_seconds, c.end_seconds, c.text) for c in chunks] == [(0.5, math.inf, "a b")]


def test_text_without_times_is_one_cue() -> None:
    for text, suffix in (("a\n b\n", ".txt"), ('{"text": " a b "}', ".json")):
        (cue,) = parse_transcript(text, suffix).cues
        assert (cue.text, cue.timed, cue.start_seconds, cue.end_seconds) == ("a b", False, 0.0, math.inf)


@pytest.mark.parametrize("suffix", [".srt", ".vtt", ".json", ".txt"])
def test_an_empty_file_has_no_cues(suffix: str) -> None:
    assert not parse_transcript(" \n\n", suffix).cues


@pytest.mark.parametrize(
    ("suffix", "text", "why"),
    [
        (".srt", "secret words", "no line of times"),
        (".vtt", "secret words", "does not begin with WEBVTT"),
        (".json", '{"secret": ', "not JSON"),
        (".json", '{"secret": 1}', "holds no segments"),
        (".json", "[[[1]]]", "holds no segments"),
        (".json", '[{"start": 0, "end": 1}]', "a segment without text"),
        (".json", "[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_transcript_says_why_without_its_text(suffix: str, text: str, why: str) -> None:
    with pytest.raises(NoTranscript, match=why) as caught:
        parse_transcript(text, suffix)
    assert "secret" not in str(caught.value)
