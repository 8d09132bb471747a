"""Words of one video once more, for `onepass verify`: what is stored against what its file says, and plain features of some.

Reading is by other means (pipeline/decoding/plain_words.py), and so are joining and splitting (`plain_pieces`); the tokenizer and
the network are the library's, one text at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.schema import StreamTokens
from pipeline.backbones.text import TextBackbone
from pipeline.decoding.decoders.base import DecodeProblem
from pipeline.decoding.plain_words import plain_cues
from pipeline.decoding.words import Cue, Transcript

SPAN_SECONDS = 0.01
"""How far a token of words may lie from where it is due: containers round to milliseconds, ASS to hundredths."""


def plain_text(
    backbone: TextBackbone,
    stored: StreamTokens,
    why: str,
    path: Path,
    transcript: Transcript | None,
    *,
    duration_seconds: float,
    choose: Callable[[int], Sequence[int]],
) -> dict[int, NDArray[np.float32]]:
    """Plain features of chosen tokens. why: the reason on record where the stream is absent.

    Raises DecodeProblem where tokens are missing, too many, elsewhere, or not absent.
    """
    assert backbone.plan.words is not None
    cues = plain_cues(path, backbone.plan.words, transcript, duration_seconds=duration_seconds)
    sampling = backbone.fingerprint()["sampling"]
    pieces = plain_pieces(
        cues,
        window_seconds=float(sampling["window_seconds"]),
        most_tokens=int(sampling["max_tokens"]),
        count=backbone.count_plainly,
    )
    if len(stored.values) != len(pieces):
        said = f"it is said to be absent ({why})" if why else f"{len(stored.values)} tokens are stored"
        raise DecodeProblem("decode-errors", f"{backbone.name}: {said}, {len(pieces)} were due")
    due = np.array([piece[:2] for piece in pieces]).reshape(-1, 2)
    if len(due) and float(np.abs(stored.spans - due).max()) > SPAN_SECONDS:
        raise DecodeProblem("decode-errors", f"{backbone.name}: a token lies elsewhere than its words")
    chosen = choose(len(pieces)) if pieces else []
    return {token: backbone.embed_plainly([pieces[token][2]]) for token in chosen}


Piece = tuple[float, float, str]
"""Start and end in seconds, and the text of one token."""


def plain_pieces(
    cues: Sequence[Cue], *, window_seconds: float, most_tokens: int, count: Callable[[str], tuple[int, int]]
) -> list[Piece]:
    """What each token is to say, straight from docs/words.md. count: tokens of a text, and those with what encloses it."""
    pieces: list[tuple[float, float, str, bool]] = []
    for cue in cues:
        start, end, text, timed = cue.start_seconds, cue.end_seconds, cue.text, cue.timed
        if pieces and timed and pieces[-1][3]:
            first, until, before, _ = pieces[-1]
            both = before + " " + text
            if max(until, end) - first <= window_seconds and count(both)[1] <= most_tokens:
                pieces[-1] = (first, max(until, end), both, True)
                continue
        waiting = [(start, end, text)]
        while waiting:  # the first part is looked at first
            start, end, text = waiting.pop(0)
            if count(text)[1] <= most_tokens or len(text) < 2:
                pieces.append((start, end, text, timed))
                continue
            middle = len(text) // 2
            spaces = [at for at in range(1, len(text) - 1) if text[at] == " "]
            cut = min(spaces, key=lambda at: (abs(at - middle), at), default=middle)
            at = start + (end - start) * cut / len(text)
            waiting = [
                (start, at if timed else end, text[:cut].strip()),
                (at if timed else start, end, text[cut:].strip()),
                *waiting,
            ]
    return [(start, end, text) for start, end, text, _ in pieces if count(text)[0]]
