"""Puts a video back together: tokens arrive stream by stream and batch by batch, a video leaves whole or as a reject."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cache.schema import Reject, StreamTokens, TokenDtype, VideoFeatures, VideoRow, storable_text
from pipeline.backbones.base import MAX_RELATIVE_ERROR, Backbone
from pipeline.decoding.sampling import token_spans
from pipeline.decoding.sound import sound_spans
from pipeline.decoding.trouble import Stamp
from pipeline.decoding.worker import Failed, Finished
from pipeline.sources.inventory import Input


@dataclass(slots=True)
class _Open:
    input: Input
    attempt: int = 0
    vectors: dict[str, dict[int, NDArray[np.float32]]] = field(default_factory=dict)
    finished: Finished | None = None
    spans: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def is_whole(self) -> bool:
        return self.finished is not None and all(
            len(self.vectors[name]) == len(span) for name, span in self.spans.items()
        )


class Assembler:
    """Keeps the tokens of the videos in flight: kilobytes a video, never a frame."""

    def __init__(
        self, backbones: Mapping[str, Backbone], *, dtype: TokenDtype, optional: Collection[str] = ()
    ) -> None:
        """optional: streams that a stored video may lack."""
        self._plans = {name: backbone.plan for name, backbone in backbones.items()}
        self._dtype: TokenDtype = dtype
        self._optional = frozenset(optional)
        self._open: dict[int, _Open] = {}
        self._whole_numbers: set[int] = set()

    def start(self, number: int, item: Input) -> None:
        """A video is on its way."""
        self._open[number] = _Open(item, vectors={name: {} for name in self._plans})

    def id(self, number: int) -> str:
        """Id of a video in flight."""
        return self._open[number].input.source.id

    def restart(self, number: int) -> None:
        """The decode starts over: forget the tokens so far."""
        video = self._open[number]
        video.attempt += 1
        video.vectors = {name: {} for name in self._plans}

    def token(self, number: int, attempt: int, stream: str, index: int, vector: NDArray[np.float32]) -> None:
        """One feature vector, float32 [D]."""
        video = self._open.get(number)
        if video is not None and video.attempt == attempt:
            video.vectors[stream][index] = vector.copy()
            self._note(number, video)

    def attempt(self, number: int) -> int:
        """How often the decode of a video in flight has started over."""
        return self._open[number].attempt

    def finished(self, message: Finished, words: Mapping[str, NDArray[np.float32]] | None = None) -> None:
        """The decode ended well; tokens may still be on their way. words: spans of the streams that read, float32 [T, 2]."""
        video = self._open[message.number]
        duration = message.video.duration_seconds
        video.finished = message
        heard = message.video.heard
        video.spans = {
            name: sound_spans(heard[name], plan.sampling)
            if plan.sound
            else token_spans(duration, plan.sampling)
            for name, plan in self._plans.items()
            if name not in message.video.absent and plan.words is None
        }
        video.spans |= words or {}
        self._note(message.number, video)

    def _note(self, number: int, video: _Open) -> None:
        if video.is_whole():
            self._whole_numbers.add(number)

    def failed(self, message: Failed) -> Reject:
        """The decode ended badly."""
        item = _as_read(self._open.pop(message.number).input, message.stamp)
        return reject(item, message.reason, message.detail, digest=message.digest)

    def unchanged(self, number: int) -> Input:
        """The file is what it was."""
        return self._open.pop(number).input

    def complete(self) -> Iterator[tuple[Finished, VideoFeatures | Reject]]:
        """Every video that is whole by now, once; a reject where its features cannot be stored."""
        for number in sorted(self._whole_numbers):
            video = self._open.pop(number)
            self._whole_numbers.discard(number)
            assert video.finished is not None
            item = _as_read(video.input, video.finished.stamp)
            yield video.finished, self._whole(item, video.finished, video.vectors, video.spans)

    def _whole(
        self,
        item: Input,
        message: Finished,
        vectors: Mapping[str, dict[int, NDArray[np.float32]]],
        spans: Mapping[str, NDArray[np.float32]],
    ) -> VideoFeatures | Reject:
        tokens: dict[str, StreamTokens] = {}
        absent = message.video.absent
        if lacking := sorted(absent.keys() - self._optional):
            return reject(
                item, "missing-stream", f"{lacking[0]}: {absent[lacking[0]]}", digest=message.digest
            )
        for name, span in spans.items():
            exact = np.stack([vectors[name][index] for index in range(len(span))])
            problem, detail = "non-finite-features", ""
            with np.errstate(over="ignore"):
                values = exact.astype(self._dtype)
            if not np.isfinite(exact).all():
                detail = f"{name}: {int((~np.isfinite(exact)).any(axis=1).sum())} of {len(span)} tokens"
            elif not np.isfinite(values).all():
                detail = f"{name}: values up to {np.abs(exact).max():.3g} exceed float16; use --dtype float32"
            elif (values == values[:, :1]).all(axis=1).any():
                problem, detail = "constant-features", f"{name}: a token has the same value in every place"
            elif (blurred := _blurred(values, exact)).any():
                most = float(np.abs(exact[blurred]).max())
                detail = f"{name}: values up to {most:.3g} are too small for float16; use --dtype float32"
            if detail:
                return reject(item, problem, detail, digest=message.digest)
            tokens[name] = StreamTokens(values=values, spans=span)
        return VideoFeatures(row=self._row(item, message), tokens=tokens, absent=absent)

    def _row(self, item: Input, message: Finished) -> VideoRow:
        decoded = message.video
        return VideoRow(
            id=item.source.id,
            digest=message.digest,
            size_bytes=item.size_bytes,
            mtime_ns=item.mtime_ns,
            label=item.label.label,
            label_name=item.label.label_name,
            split=item.label.split,
            source=item.label.source,
            duration_seconds=decoded.duration_seconds,
            fps=decoded.fps,
            width=decoded.width,
            height=decoded.height,
            n_frames=decoded.n_frames,
            decoder=message.decoder,
        )

    def __len__(self) -> int:
        return len(self._open)


def _blurred(values: NDArray[np.floating], exact: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tokens [T] whose stored values are further off than the parity bound: float16 holds small numbers by a few bits."""
    return np.asarray(np.abs(values - exact).max(axis=1) > MAX_RELATIVE_ERROR * np.abs(exact).max(axis=1))


def _as_read(item: Input, stamp: Stamp | None) -> Input:
    """The input with the size and time of the file that was read, which may be newer than those when it was listed."""
    return item if stamp is None else replace(item, size_bytes=stamp[0], mtime_ns=stamp[1])


def reject(item: Input, reason: str, detail: str, *, digest: str = "") -> Reject:
    """The reject row of an input."""
    return Reject(
        id=item.source.id,
        reason=reason,
        detail=storable_text(detail),
        digest=digest,
        size_bytes=item.size_bytes,
        mtime_ns=item.mtime_ns,
    )
