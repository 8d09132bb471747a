"""Text of transcript files to cues: SubRip (.srt), WebVTT (.vtt), a speech recogniser's segments (.json), plain text (.txt).

Nothing of the text is in an error: what a file holds is personal data.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.decoding.words import Cue, untimed

_TIME = r"(-?)(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
_TIMES = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?$")
_OVERRIDE = re.compile(r"\{\\[^{}]*\}")
"""ASS, also in SubRip files: {\\an8}, {\\i1}."""
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<\d+(?::\d+)+\.\d+>")
"""<i>, </font>, <c.yellow>, <v Speaker>, and WebVTT's times within a cue."""
_BREAK = re.compile(r"\\[Nnh]")
_START_COLUMNS = ("start", "start_seconds", "begin", "from")
_END_COLUMNS = ("end", "end_seconds", "stop", "to")
_NO_CUES = ("NOTE", "STYLE", "REGION")


class NoTranscript(ValueError):
    """The file is not what its suffix says."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """Cues in the file's order, with text that is not empty; n_refused: those whose times cannot be."""

    cues: tuple[Cue, ...]
    n_refused: int = 0


def plain_text(marked: str) -> str:
    """The words of a cue: without tags, positions and line breaks."""
    text = _BREAK.sub(" ", _OVERRIDE.sub("", marked))
    return " ".join(html.unescape(_TAG.sub("", text)).split())


def parse_transcript(text: str, suffix: str) -> Parsed:
    """The cues of a file's text. Raises NoTranscript; a file without a word has no cues."""
    if not text.strip():
        return Parsed(())
    return _PARSERS[suffix](text)


def checked_cues(given: Sequence[tuple[Any, Any, str]]) -> Parsed:
    """Cues of (start, end, text); an end of None is that of the video. Times that are negative or run backwards are refused."""
    cues, refused = [], 0
    for start, end, text in given:
        begin, until = _seconds(start), math.inf if end is None else _seconds(end)
        if math.isnan(begin) or math.isnan(until) or begin < 0 or until < begin or begin == math.inf:
            refused += 1
        elif text:
            cues.append(Cue(begin, until, text))
    return Parsed(tuple(cues), refused)


def _seconds(value: Any) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _srt(text: str) -> Parsed:
    """A cue's text goes on to the next line of times; the number before that is none of it."""
    found: list[tuple[Any, Any, list[str]]] = []
    for line in text.splitlines():
        if "-->" in line:
            if found and found[-1][2] and found[-1][2][-1].strip().isdecimal():
                found[-1][2].pop()
            found.append((*_times(line), []))
        elif found:
            found[-1][2].append(line)
    return _timed(found, ".srt")


def _vtt(text: str) -> Parsed:
    """A cue ends with an empty line; what stands before its times is its name."""
    if not text.lstrip("\ufeff").startswith("WEBVTT"):
        raise NoTranscript("it does not begin with WEBVTT")
    found: list[tuple[Any, Any, list[str]]] = []
    for block in re.split(r"\n[ \t]*\n", "\n".join(text.splitlines())):
        lines = block.strip("\n").split("\n")
        at = next((n for n, line in enumerate(lines) if "-->" in line), None)
        if at is not None and lines[0].split(" ")[0].strip() not in _NO_CUES:
            found.append((*_times(lines[at]), lines[at + 1 :]))
    if not found:
        return Parsed(())
    return _timed(found, ".vtt")


def _timed(found: Sequence[tuple[Any, Any, list[str]]], suffix: str) -> Parsed:
    if not found:
        raise NoTranscript(f"it has no line of times, as {suffix} files do")
    return checked_cues([(start, end, plain_text("\n".join(lines))) for start, end, lines in found])


def _times(line: str) -> tuple[float, float]:
    """Start and end in seconds, NaN where the line does not say them."""
    match = _TIMES.match(line)
    if match is None:
        return math.nan, math.nan
    parts = match.groups()
    return _clock(*parts[:5]), _clock(*parts[5:])


def _clock(sign: str, hours: str | None, minutes: str, seconds: str, fraction: str | None) -> float:
    found = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction or 0}")
    return -found if sign else found


def _json(text: str) -> Parsed:
    """`segments` (Whisper and its kin), `chunks` (transformers), a list of segments, or `text` alone."""
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        raise NoTranscript("it is not JSON") from None
    listed: Any = held
    if isinstance(held, Mapping):
        listed = next((held[key] for key in ("segments", "chunks") if key in held), None)
        if listed is None and isinstance(held.get("text"), str):
            return _txt(held["text"])
    if not isinstance(listed, list) or not all(isinstance(item, Mapping) for item in listed):
        raise NoTranscript("it holds no segments with start, end and text")
    given = []
    for item in listed:
        said = item.get("text")
        if not isinstance(said, str):
            raise NoTranscript("it holds a segment without text")
        start, end = _said(item, _START_COLUMNS), _said(item, _END_COLUMNS)
        if isinstance(pair := item.get("timestamp"), list) and len(pair) == 2:
            start, end = pair
        given.append((start, end, " ".join(said.split())))
    return checked_cues(given)


def _said(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((item[name] for name in names if name in item), math.nan)


def _txt(text: str) -> Parsed:
    words = " ".join(text.split())
    return Parsed((untimed(words),) if words else ())


_PARSERS: Mapping[str, Callable[[str], Parsed]] = {".srt": _srt, ".vtt": _vtt, ".json": _json, ".txt": _txt}
