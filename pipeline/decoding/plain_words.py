"""The words of a video once more, for `onepass verify`: files by FFmpeg's parsers, tracks from the bytes of their packets.

Nothing is shared with `reading.py`, `subtitles.py` and `in_order` but encodings and the taking off of markup.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av

from pipeline.decoding.decoders.animation import is_animated_webp
from pipeline.decoding.decoders.base import DecodeProblem, checked_path
from pipeline.decoding.decoders.streams import choose_stream, open_container
from pipeline.decoding.subtitles import plain_text
from pipeline.decoding.text_encoding import UnknownEncoding, decoded_text
from pipeline.decoding.words import Cue, Transcript, WordsPlan

FFMPEG_FORMATS = {".srt": "srt", ".vtt": "webvtt"}
STARTS, ENDS = ("start", "start_seconds", "begin", "from"), ("end", "end_seconds", "stop", "to")
"""Names that the documentation of recognisers gives to the times of a segment."""
NO_TIMES = "99:59:59.000 --> 99:59:58.000"
"""In place of times that cannot be read: a cue that runs backwards, which is left out."""
EVENT_CODECS = ("ass", "ssa")


def plain_cues(
    path: Path, plan: WordsPlan, transcript: Transcript | None, *, duration_seconds: float
) -> tuple[Cue, ...]:
    """All cues, in order of time; none where there is nothing to read."""
    if plan.track is None and transcript is not None:
        found = _of_file(transcript, plan.encoding)
    else:
        found = list(_of_track(path, plan.track or 0))
    inside = []
    for start, end, text in found:
        begin, until = max(0.0, start), min(end, duration_seconds)
        if text and start < duration_seconds and (end > 0 or start == 0):
            inside.append(
                Cue(begin, until, text, timed=not (start == 0 and end == math.inf and _untimed(transcript)))
            )
    return _each_once(inside)


def _each_once(cues: Sequence[Cue]) -> tuple[Cue, ...]:
    """By start, then end, then as they were; of cues with the very same times and words the first."""
    by_time: dict[tuple[float, float], list[Cue]] = {}
    for cue in cues:
        alike = by_time.setdefault((cue.start_seconds, cue.end_seconds), [])
        if not any((other.text, other.timed) == (cue.text, cue.timed) for other in alike):
            alike.append(cue)
    return tuple(cue for times in sorted(by_time) for cue in by_time[times])


def _untimed(transcript: Transcript | None) -> bool:
    return transcript is not None and not (
        transcript.path and transcript.path.suffix.lower() in FFMPEG_FORMATS
    )


def _of_file(transcript: Transcript, encoding: str) -> list[tuple[float, float, str]]:
    if transcript.path is None or transcript.problem:
        return [(cue.start_seconds, cue.end_seconds, cue.text) for cue in transcript.cues]
    suffix = transcript.path.suffix.lower()
    try:
        text, _ = decoded_text(transcript.path.read_bytes(), encoding)
    except (OSError, UnknownEncoding):
        return []
    if suffix == ".txt":
        return [(0.0, math.inf, " ".join(text.split()))]
    if suffix == ".json":
        return _of_json(text)
    found = []
    try:
        text = "\n".join(map(_in_full, text.splitlines()))
        backwards = _backwards(text)
        with av.open(io.BytesIO(text.encode()), format=FFMPEG_FORMATS[suffix]) as container:
            for packet in container.demux():
                for event in packet.decode() if packet.size else ():
                    start = float(packet.pts * packet.time_base)
                    end = start + float(packet.duration * packet.time_base)
                    if 0 <= start <= end and round(start, 3) not in backwards:
                        found.append((start, end, plain_text(bytes(event.ass).decode().split(",", 8)[-1])))
    except (av.error.FFmpegError, ValueError):
        return []
    return found


def _in_full(line: str) -> str:
    """A line of times as FFmpeg's parsers want them, which take 00:01,5 for no time or for 5 ms, and an indented one for text."""
    if not (found := re.match(r"\s*([\d:.,]+)\s*-->\s*([\d:.,]+)(?=\s|$)", line)):
        return NO_TIMES if "-->" in line else line if line.strip() else ""
    times = []
    for time in found.groups():
        clock, _, part = time.replace(",", ".").partition(".")
        places = ["0", *clock.split(":")][-3:]
        times.append(":".join(place.zfill(2) for place in places) + f".{part:0<3}")
    return " --> ".join(times)


def _backwards(text: str) -> set[float]:
    """Starts of cues that end before they begin: FFmpeg gives them an end of its own."""
    found = set()
    for times in re.findall(r"([\d:.,]+)\s+-->\s+([\d:.,]+)", text):
        start, end = (
            sum(
                float(part) * 60**place
                for place, part in enumerate(reversed(time.replace(",", ".").split(":")))
                if part
            )
            for time in times
        )
        if end < start:
            found.add(round(start, 3))
    return found


def _of_json(text: str) -> list[tuple[float, float, str]]:
    try:
        held = json.loads(text)
    except ValueError:
        return []
    if (
        isinstance(held, Mapping)
        and isinstance(held.get("text"), str)
        and held.get("segments", held.get("chunks")) is None
    ):
        return [(0.0, math.inf, " ".join(held["text"].split()))]
    listed = held.get("segments", held.get("chunks", [])) if isinstance(held, Mapping) else held
    found = []
    for item in listed if isinstance(listed, list) else ():
        start, end = item.get("timestamp") or (_first(item, STARTS), _first(item, ENDS))
        try:
            if isinstance(start, bool) or isinstance(end, bool):
                continue
            start, end = float(start), math.inf if end is None else float(end)
        except (TypeError, ValueError):
            continue
        if 0 <= start <= end:
            found.append((float(start), float(end), " ".join(str(item["text"]).split())))
    return found


def _first(item: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((item[name] for name in names if name in item), math.nan)


def _of_track(path: Path, track: int) -> Iterator[tuple[float, float, str]]:
    path = checked_path(path)
    if is_animated_webp(path):
        return
    with open_container(path) as container:
        try:
            pictures, _ = choose_stream(container, path)
            first = next((frame for frame in container.decode(pictures) if frame.pts is not None), None)
        except DecodeProblem:
            first = None
        origin = 0.0 if first is None else float(first.pts * first.time_base)
    with open_container(path) as container:
        if track >= len(container.streams.subtitles):
            return
        stream = container.streams.subtitles[track]
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None:
                start = float(packet.pts * packet.time_base) - origin
                end = start + float((packet.duration or 0) * packet.time_base)
                if end >= start:
                    yield start, end, plain_text(_payload(bytes(packet), stream))


def _payload(data: bytes, stream: Any) -> str:
    """The text of a packet as its container holds it."""
    name = stream.codec_context.name
    if name == "mov_text":
        data = data[
            2 : 2 + int.from_bytes(data[:2], "big")
        ]  # ISO 14496-17: a length, the text, boxes of style
        return data.decode("utf-16" if data[:2] in (b"\xfe\xff", b"\xff\xfe") else "utf-8", "replace")
    text = data.decode("utf-8", "replace")
    return text.split(",", 8)[-1] if name in EVENT_CODECS else text
