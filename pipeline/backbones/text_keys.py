"""What a user may say of a stream that reads text: its own keys of `--stream`, which network reads text, and what that makes.

A stream reads text where its model does nothing else, where `reads=text` is said, and where it is called `text` and nothing
else is said.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cache.errors import InputError
from pipeline.backbones.choice import StreamChoice
from pipeline.decoding.words import WordsPlan

TEXT_KEYS: Mapping[str, str] = {
    "reads": "text, where the model has a tower for pictures too; a stream called text reads text anyway",
    "pool": "cls or mean: what stands for a piece of text",
    "window": "seconds up to which neighbouring cues are joined; 0: every cue alone",
    "track": "which subtitle track of the file, from 0 on, and no other source of words",
    "encoding": "of files that hold the words, where it is neither told by them nor to be guessed",
}
DEFAULT_WINDOW_SECONDS = 5.0
LONGEST_WINDOW_SECONDS = 3600.0
MOST_TRACKS = 64
NAME = "text"
"""A stream of this name reads text where its model has towers for text and for pictures, and nothing else is said."""


def text_plan(choice: StreamChoice, max_tokens: int) -> tuple[WordsPlan, dict[str, Any]]:
    """What a choice reads, and its sampling for the fingerprint. Raises InputError for keys with values that cannot be."""
    for key in ("fps", "stride", "size"):
        if value := getattr(choice, key):
            raise InputError(
                f"{choice.setting(key, value)}: streams of text have no such setting; window= joins cues"
            )
    if choice.runtime not in ("", "auto", "torch"):
        raise InputError(f"{choice.setting('runtime', choice.runtime)}: streams of text run in torch")
    window = _window(choice)
    track = choice.option("track")
    if track and not (track.isascii() and track.isdigit() and int(track) < MOST_TRACKS):
        raise InputError(
            f"{choice.setting('track', track)}: the number of a subtitle track, 0 to {MOST_TRACKS - 1}"
        )
    encoding = choice.option("encoding")
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError:
        raise InputError(
            f"{choice.setting('encoding', encoding)}: no such encoding; such as cp949 or utf-16"
        ) from None
    if track and encoding:
        raise InputError(f"{choice.setting('encoding', encoding)}: is for files, and track= reads none")
    plan = WordsPlan(max_tokens, int(track) if track else None, encoding)
    return plan, {"window_seconds": window, "max_tokens": max_tokens}


def _window(choice: StreamChoice) -> float:
    given = choice.option("window", f"{DEFAULT_WINDOW_SECONDS:g}")
    try:
        window = float(given)
    except ValueError:
        window = math.nan
    if not 0 <= window <= LONGEST_WINDOW_SECONDS:
        raise InputError(f"{choice.setting('window', given)}: seconds, 0 to {LONGEST_WINDOW_SECONDS:g}")
    return window


def with_defaults(choice: StreamChoice, **values: str) -> StreamChoice:
    """The choice with its own keys said in full, so that what is left out and what is said alike are one."""
    own = {"window": f"{_window(choice):g}", **{key: value for key, value in values.items() if value}}
    return replace(choice, options=tuple(sorted({**dict(choice.options), **own}.items())))


def refuse_text_keys(choice: StreamChoice) -> None:
    """Raise InputError where a stream that reads something else is told how to read text."""
    for key, value in choice.options:
        if key in TEXT_KEYS and (key, value) != ("reads", "pictures"):
            raise InputError(
                f"{choice.setting(key, value)}: is for streams that read text, and this model reads pictures"
            )


def reads_text(choice: StreamChoice, *, also_pictures: bool) -> bool:
    """Whether a stream of a model with a text tower reads text. Raises InputError for `reads=` of something else."""
    said = choice.option("reads")
    if said not in ("", "text", "pictures") or (said == "pictures" and not also_pictures):
        good = "text or pictures" if also_pictures else "text"
        raise InputError(f"{choice.setting('reads', said)}: this model can read {good}")
    return said == "text" or not also_pictures or (not said and choice.name == NAME)
