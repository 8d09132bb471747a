"""Words of one video once more, for `onepass verify`: what is stored against what its file says, and plain features of some.

Reading is by other means (pipeline/decoding/plain_words.py); the tokenizer and the network are the library's, one text at a time.
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
from pipeline.decoding.words import Transcript, Words

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
    pieces = backbone.pieces(Words(cues))
    if len(stored.values) != len(pieces):
        said = f"it is said to be absent ({why})" if why else f"{len(stored.values)} tokens are stored"
        raise DecodeProblem("decode-errors", f"{backbone.name}: {said}, {len(pieces)} were due")
    due = np.array([(piece.start_seconds, piece.end_seconds) for piece in pieces]).reshape(-1, 2)
    if len(due) and float(np.abs(stored.spans - due).max()) > SPAN_SECONDS:
        raise DecodeProblem("decode-errors", f"{backbone.name}: a token lies elsewhere than its words")
    chosen = choose(len(pieces)) if pieces else []
    return {token: backbone.embed_plainly([pieces[token].text]) for token in chosen}
