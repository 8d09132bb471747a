"""A frozen encoder of text as a stream: cues become pieces that fit it, a piece becomes a token.

Neighbouring cues are joined while both together last no longer than the window and fit the encoder; a cue that does not fit is
halved at the space nearest its middle until its parts do, which share its time by their letters. Shapes: B pieces, L numbers of
tokens counted from 1 (0: none; the memory of a batch begins as zeros, and what is empty must cost nothing), D feature width.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones.base import DTYPES, Batching, exact_float32, library_versions, memory_full
from pipeline.backbones.kind import Machine, Settled, identity
from pipeline.backbones.weights import WeightsRecord
from pipeline.decoding.decode import DecodedVideo
from pipeline.decoding.words import Cue, Words

BATCH = 32
GROUP = (8, 32)
"""Pieces of one padded length in a pass, on a CPU and on CUDA: of a fixed shape, so that a token never depends on its company."""
LONG_LETTERS = 16
"""Letters for each token that fits; words of texts with more of them are hardly ever that few tokens."""
SHORTEST = 16
"""Lengths are padded to a power of two from here on."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one token, and its span."""

    start_seconds: float
    end_seconds: float
    text: str = field(repr=False)
    timed: bool = True


@dataclass(frozen=True, slots=True)
class TextNetwork:
    """A frozen encoder, float32, eval mode, on the CPU.

    module: (ids [B, L] int64, mask [B, L] bool, True = real) to features [B, D]. numbers: of the tokens of a text, without
    `before` and `after`, which enclose it. pad: stands where no token is. whole: every text is padded to the encoder's limit.
    plainly: a text through the library's own tokenizer to features [D]. fields: what else the fingerprint holds.
    """

    module: torch.nn.Module
    numbers: Callable[[str], Sequence[int]]
    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int
    plainly: Callable[[str], torch.Tensor]
    weights: WeightsRecord
    feature: str
    libraries: tuple[str, ...]
    whole: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextTokens:
    """What one stream reads of one video: numbers of tokens from 1 on, int32 [T, max_tokens]; spans, float32 [T, 2] seconds."""

    rows: NDArray[np.int32]
    spans: NDArray[np.float32]


NO_WORD = "no transcript: no word in it is one to the tokenizer"


def tokens_of(
    video: DecodedVideo, readers: Mapping[str, TextBackbone]
) -> tuple[DecodedVideo, dict[str, TextTokens]]:
    """What the words of a video are to each stream that reads them; a stream to which they are nothing is absent."""
    found: dict[str, TextTokens] = {}
    absent = dict(video.absent)
    for name, words in video.words.items():
        pieces = readers[name].pieces(words)
        if not pieces:
            absent[name] = NO_WORD
            continue
        spans = np.array([(piece.start_seconds, piece.end_seconds) for piece in pieces], dtype=np.float32)
        found[name] = TextTokens(readers[name].rows(pieces), spans)
    return replace(video, absent=absent), found


class TextBackbone:
    """A `Backbone` made of a `TextNetwork`; torch runs it, whatever runs the networks of pictures."""

    queue = None

    def __init__(self, settled: Settled, network: TextNetwork, machine: Machine) -> None:
        assert settled.plan.words is not None
        self._settled, self._network, self._machine = settled, network, machine
        self.name, self.plan, self.note = settled.choice.name, settled.plan, settled.note
        self._limit = settled.plan.words.max_tokens
        self._window = float(settled.sampling["window_seconds"])
        self._group = GROUP[machine.device.type == "cuda"]
        self._dtype = DTYPES[machine.precision]
        self.batching = Batching(machine.batch_size or BATCH)
        plain = machine.device.type == "cpu" and self._dtype == torch.float32
        with torch.inference_mode(False):
            module = network.module if plain else copy.deepcopy(network.module)
            module = module.to(machine.device, self._dtype)
        self._module = module
        self.dim = int(self._pass(self._row("").to(machine.device)[None]).shape[1])

    def pieces(self, words: Words) -> tuple[Piece, ...]:
        """What the words of a video are as tokens, in order; none where no word is one to the tokenizer."""
        made = pieces_of(words.cues, window_seconds=self._window, fits=self._fits)
        return tuple(piece for piece in made if self._network.numbers(piece.text))

    def _fits(self, text: str) -> bool:
        """Whether a text fits the encoder. Of a long one its beginning tells, so that megabytes are not read once a halving."""
        begins = (
            text.rfind(" ", 0, LONG_LETTERS * self._room) if len(text) > LONG_LETTERS * self._room else -1
        )
        if begins > 0 and len(self._network.numbers(text[:begins])) > self._room:
            return False
        return len(self._network.numbers(text)) <= self._room

    def rows(self, pieces: Sequence[Piece]) -> NDArray[np.int32]:
        """Numbers of tokens from 1 on, int32 [T, max_tokens], 0 behind the last one."""
        found: NDArray[np.int32] = torch.stack([self._row(piece.text) for piece in pieces]).numpy()
        return found

    @property
    def _room(self) -> int:
        return self._limit - len(self._network.before) - len(self._network.after)

    def _row(self, text: str) -> torch.Tensor:
        network = self._network
        ids = [*network.before, *network.numbers(text), *network.after]
        return torch.tensor([n + 1 for n in ids] + [0] * (self._limit - len(ids)), dtype=torch.int32)

    @torch.inference_mode()
    def embed(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """Numbers of tokens [B, max_tokens] to float32 [B, D]; of rows without a token 0."""
        ids_BL = frames_BTHWC
        by_length: dict[int, list[int]] = defaultdict(list)
        for row, length in enumerate((ids_BL > 0).sum(1).tolist()):
            if length:
                by_length[self._padded(length)].append(row)
        out = torch.zeros(len(ids_BL), self.dim, dtype=torch.float32, device=ids_BL.device)
        for length, rows in sorted(by_length.items()):
            for first in range(0, len(rows), self._group):
                some = rows[first : first + self._group]
                filled = some + some[:1] * (self._group - len(some))
                out[some] = self._pass(ids_BL[filled, :length])[: len(some)]
        return out

    def _padded(self, length: int) -> int:
        if self._network.whole:
            return self._limit
        return min(self._limit, max(SHORTEST, 1 << (length - 1).bit_length()))

    @torch.inference_mode()
    def _pass(self, ids_BL: torch.Tensor) -> torch.Tensor:
        mask = ids_BL > 0
        ids = torch.where(mask, ids_BL - 1, self._network.pad).long()
        try:
            with exact_float32():
                features: torch.Tensor = self._module(ids, mask)
        except torch.cuda.OutOfMemoryError as error:
            raise memory_full(self.name, self.batching.batch_size) from error
        return features.to(torch.float32)

    @torch.inference_mode()
    def embed_plainly(self, frames: Sequence[Any]) -> NDArray[np.float32]:
        """One piece of text through the library's own tokenizer and the float32 network, on the CPU. float32 [D]."""
        features: NDArray[np.float32] = self._network.plainly(frames[0]).float().numpy()
        return features

    def count_plainly(self, text: str) -> tuple[int, int]:
        """Tokens of a text by the library's own tokenizer, and with those that enclose it."""
        n = len(self._network.numbers(text))
        return n, n + len(self._network.before) + len(self._network.after)

    def fingerprint(self) -> dict[str, Any]:
        """All that can change a feature."""
        settled, network = self._settled, self._network
        return {
            **identity(settled),
            "weights": network.weights.as_fields(),
            **network.fields,
            "preprocessing": dict(settled.preprocessing),
            "sampling": dict(settled.sampling),
            "feature": network.feature,
            "precision": self._machine.precision,
            "runtime": "torch",
            "libraries": library_versions("torch", *network.libraries),
        }


def pieces_of(cues: Sequence[Cue], *, window_seconds: float, fits: Callable[[str], bool]) -> list[Piece]:
    """Cues in order of time, joined and split."""
    made: list[Piece] = []
    for cue in cues:
        piece = Piece(cue.start_seconds, cue.end_seconds, cue.text, cue.timed)
        if made and (both := _joined(made[-1], piece, window_seconds)) is not None and fits(both.text):
            made[-1] = both
        elif fits(piece.text):
            made.append(piece)
        else:
            made += _halved(piece, fits)
    return made


def _joined(first: Piece, second: Piece, window_seconds: float) -> Piece | None:
    end = max(first.end_seconds, second.end_seconds)
    if not (first.timed and second.timed) or end - first.start_seconds > window_seconds:
        return None
    return replace(first, end_seconds=end, text=f"{first.text} {second.text}")


def _halved(piece: Piece, fits: Callable[[str], bool]) -> Iterator[Piece]:
    text, middle = piece.text, len(piece.text) // 2
    if fits(text) or len(text) < 2:
        yield piece
        return
    spaces = [at for at in (text.rfind(" ", 1, middle + 1), text.find(" ", middle, len(text) - 1)) if at > 0]
    cut = min(spaces, key=lambda at: abs(at - middle)) if spaces else middle
    at = piece.start_seconds + (piece.end_seconds - piece.start_seconds) * cut / len(text)
    split = (at, at) if piece.timed else (piece.end_seconds, piece.start_seconds)
    yield from _halved(replace(piece, end_seconds=split[0], text=text[:cut].strip()), fits)
    yield from _halved(replace(piece, start_seconds=split[1], text=text[cut:].strip()), fits)
