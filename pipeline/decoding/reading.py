"""Reading the words of a video, on the clock of its pictures: from the file that its user gave, else from its container.

The first place that has words for the video counts, also where it turns out to be broken: what is wrong with it is said, and
nothing else takes its place without a word. Cues before the first picture and after the last one has ended are not of the video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av

from pipeline.decoding.decode import DecodedVideo, StreamPlan
from pipeline.decoding.decoders.animation import is_animated_webp
from pipeline.decoding.decoders.base import DecodeProblem, checked_path
from pipeline.decoding.decoders.streams import open_container, plain_reason
from pipeline.decoding.hearing import first_picture_seconds
from pipeline.decoding.sound import Absent
from pipeline.decoding.subtitles import NoTranscript, Parsed, checked_cues, parse_transcript, plain_text
from pipeline.decoding.text_encoding import UnknownEncoding, decoded_text
from pipeline.decoding.words import (
    NO_TRANSCRIPT,
    UNREADABLE,
    Cue,
    Transcript,
    Words,
    WordsPlan,
    in_order,
)

MOST_BYTES = 8 << 20
"""A day of speech is under 2 MiB; each MiB is some thousand passes of an encoder, for one video."""
DIALOGUE_FIELDS = 8
"""Commas before the text of an ASS event as FFmpeg hands it over: order, layer, style, name, three margins, effect."""


def with_words(
    video: DecodedVideo,
    path: Path,
    plans: Sequence[StreamPlan],
    *,
    transcript: Transcript | None,
    first_seconds: float | None,
    beat: Callable[[], None],
) -> DecodedVideo:
    """The video with the words that its streams read, or absent for a reason.

    first_seconds: the first picture's time by the container, where its decoder knows it.
    """
    words: dict[str, Words] = {}
    absent = dict(video.absent)
    notes = list(video.notes)
    for plan in plans:
        if plan.words is None:
            continue
        try:
            found = read_words(
                path,
                plan.words,
                transcript=transcript,
                origin_seconds=first_seconds,
                duration_seconds=video.duration_seconds,
                beat=beat,
            )
        except Absent as error:
            absent[plan.name] = str(error)
            continue
        words[plan.name] = found
        notes += [note for note in found.notes if note not in notes]
    return replace(video, words=words, absent=absent, notes=tuple(notes))


def read_words(
    path: Path,
    plan: WordsPlan,
    *,
    transcript: Transcript | None,
    origin_seconds: float | None,
    duration_seconds: float,
    beat: Callable[[], None],
) -> Words:
    """The words of one video. Raises Absent with the reason, whatever is wrong with a file: words never cost the pictures."""
    notes: list[str] = []
    if plan.track is None and transcript is not None:
        came_from = transcript.called
        parsed = _given(transcript, plan.encoding, notes)
    else:
        came_from, parsed = _track(path, plan.track or 0, origin_seconds, notes, beat)
    if parsed.n_refused:
        notes.append(
            f"words: {parsed.n_refused} cues with times that are negative, run backwards or cannot be read were left out"
        )
    cues, n_outside = within(parsed.cues, duration_seconds)
    if not cues:
        if n_outside:
            raise Absent(
                f"{NO_TRANSCRIPT}: all {n_outside} cues of {came_from} lie outside the {duration_seconds:.1f} s of pictures"
            )
        if parsed.n_refused:
            raise Absent(
                f"{UNREADABLE}: {came_from}: not one of {parsed.n_refused} cues has times that can be"
            )
        raise Absent(f"{NO_TRANSCRIPT}: {came_from} holds no words")
    if n_outside:
        notes.append(f"words: {n_outside} cues lie outside the pictures")
    return Words(cues, came_from, tuple(notes))


def within(cues: Sequence[Cue], duration_seconds: float) -> tuple[tuple[Cue, ...], int]:
    """The cues cut to the pictures, in order of time, and how many lie outside them."""
    inside = [
        c for c in cues if c.start_seconds < duration_seconds and (c.end_seconds > 0 or not c.start_seconds)
    ]
    cut = [
        replace(
            cue, start_seconds=max(0.0, cue.start_seconds), end_seconds=min(cue.end_seconds, duration_seconds)
        )
        for cue in inside
    ]
    return in_order(cut), len(cues) - len(inside)


def _given(transcript: Transcript, encoding: str, notes: list[str]) -> Parsed:
    called = transcript.called
    if transcript.problem:
        raise Absent(f"{UNREADABLE}: {called}: {transcript.problem}")
    if transcript.path is None:
        return Parsed(transcript.cues, transcript.n_refused)
    try:
        if (size := transcript.path.stat().st_size) > MOST_BYTES:
            raise Absent(f"{UNREADABLE}: {called}: {size >> 20} MiB are no transcript")
        text, guessed = decoded_text(transcript.path.read_bytes(), encoding)
        parsed = parse_transcript(text, transcript.path.suffix.lower())
    except OSError as error:
        raise Absent(f"{UNREADABLE}: {called}: {error.strerror or type(error).__name__}") from error
    except (UnknownEncoding, NoTranscript) as error:
        raise Absent(f"{UNREADABLE}: {called}: {error}") from None
    if guessed:
        notes.append(f"words: the encoding of {called} is guessed: {guessed}; encoding= says another")
    return parsed


def _track(
    path: Path, track: int, origin_seconds: float | None, notes: list[str], beat: Callable[[], None]
) -> tuple[str, Parsed]:
    """What the track is called and its cues, on the pictures' clock."""
    if is_animated_webp(path):
        raise Absent(NO_TRANSCRIPT)  # FFmpeg does not open it, and it holds none
    try:
        container = open_container(checked_path(path))
    except DecodeProblem as problem:
        raise Absent(f"{UNREADABLE}: {problem.detail}") from problem
    try:
        streams = container.streams.subtitles
        if track >= len(streams):
            raise Absent(
                f"no transcript: no subtitle track {track}, there are {len(streams)}"
                if len(streams)
                else NO_TRANSCRIPT
            )
        stream = streams[track]
        if stream.codec_context is None:
            raise Absent(f"{UNREADABLE}: subtitle track {track}: a codec that FFmpeg does not know")
        called = f"subtitle track {track} ({stream.codec_context.name})"
        origin = first_picture_seconds(path) if origin_seconds is None else origin_seconds
        found, n_pictures, first_error = _events(container, stream, origin, beat)
    finally:
        container.close()
    if n_pictures and not found:
        raise Absent(f"{NO_TRANSCRIPT}: {called} holds pictures of text")
    if first_error:
        if not found:
            raise Absent(f"{UNREADABLE}: {called}: {first_error}")
        notes.append(f"words: packets of {called} were lost ({first_error})")
    if len(streams) > 1:
        notes.append(f"words: {called} was taken of {len(streams)}")
    # a cue may begin before the first picture, which is no fault of the file
    early = [cue for cue in found if cue[0] < 0]
    parsed = checked_cues([cue for cue in found if cue[0] >= 0])
    return called, Parsed((*(Cue(*cue) for cue in early if cue[1] >= cue[0]), *parsed.cues), parsed.n_refused)


def _events(
    container: Any, stream: Any, origin_seconds: float, beat: Callable[[], None]
) -> tuple[list[tuple[float, float, str]], int, str]:
    """(start, end, words) of every event of text, how many were pictures, and the first trouble."""
    found: list[tuple[float, float, str]] = []
    n_pictures, first_error = 0, ""
    packets = container.demux(stream)
    while True:
        beat()
        try:
            packet = next(packets)
            events = packet.decode() if packet.size and packet.pts is not None else []
        except (StopIteration, av.error.EOFError):
            return found, n_pictures, first_error
        except (av.error.FFmpegError, IndexError, ValueError, UnicodeDecodeError) as error:
            first_error = first_error or plain_reason(error)
            if not isinstance(error, av.error.InvalidDataError):
                return found, n_pictures, first_error
            continue
        if packet.pts is None:
            continue
        start = float(packet.pts * packet.time_base) - origin_seconds
        end = start + float((packet.duration or 0) * packet.time_base)
        for event in events:
            if event.type == b"bitmap":
                n_pictures += 1
                continue
            dialogue = bytes(event.ass).decode("utf-8", "replace").split(",", DIALOGUE_FIELDS)
            if text := plain_text(dialogue[-1]):
                found.append((start, end, text))
