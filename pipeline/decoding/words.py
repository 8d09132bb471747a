"""What the words of a video are to a stream: cues of text with their time, and where they come from, or why there are none.

Times are seconds from the first picture on. Text is personal data: it is in no `repr`, no message and no reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

TRANSCRIPT_SUFFIXES = (".srt", ".vtt", ".json", ".txt")
"""Files that hold words; where a video has several, the first of these is read."""
NO_TRANSCRIPT = "no transcript"
UNREADABLE = "transcript could not be read"


@dataclass(frozen=True, slots=True)
class Cue:
    """Words and when they are said; untimed: end_seconds is infinite and the span is the whole video."""

    start_seconds: float
    end_seconds: float
    text: str = field(repr=False)
    timed: bool = True


def in_order(cues: Iterable[Cue]) -> tuple[Cue, ...]:
    """By time; of cues that are alike in time and words, as captions made by machines often are, one."""
    return tuple(dict.fromkeys(sorted(cues, key=lambda cue: (cue.start_seconds, cue.end_seconds))))


def untimed(text: str) -> Cue:
    """Words of which nobody says when."""
    return Cue(0.0, math.inf, text, timed=False)


@dataclass(frozen=True, slots=True)
class WordsPlan:
    """What a stream reads of a video's words.

    track: the subtitle track of the container, from 0, and nothing else; None: a file where there is one, else track 0. encoding:
    of files, where it is said. max_tokens: places of one piece of text as the parent hands it to the network.
    """

    max_tokens: int
    track: int | None = None
    encoding: str = ""


@dataclass(frozen=True, slots=True)
class Transcript:
    """The words of one video as its user gave them: a file, or cues that a manifest holds.

    called: the file's name for messages. problem: why it cannot be read, where that is known without reading. n_refused: cues
    whose times cannot be.
    """

    called: str
    path: Path | None = None
    cues: tuple[Cue, ...] = field(default=(), repr=False)
    problem: str = ""
    n_refused: int = 0


@dataclass(frozen=True, slots=True)
class Words:
    """What was read, in order of time, within the pictures. came_from: in words. notes: what is to be known."""

    cues: tuple[Cue, ...] = field(repr=False)
    came_from: str = ""
    notes: tuple[str, ...] = ()
