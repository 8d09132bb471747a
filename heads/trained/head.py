"""A trained head: its model, everything that says what it is, and `predict`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cache.arguments import require_open_cache, shown
from cache.errors import HeadError
from cache.fingerprint import require_same
from cache.schema import StreamTokens
from cache.tables import TokenArray
from heads.data.dataset import (
    StreamInput,
    any_random,
    in_memory,
    load_tokens,
    random_note,
    weights_line,
    without_any,
)
from heads.data.splits import MOST_FOLDS
from heads.data.tokens import TokenSource
from heads.data.videos import plain_tokens
from heads.models.model import TokenModel
from heads.scoring.bootstrap import Interval
from heads.scoring.calibration import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE, probabilities
from heads.scoring.thresholds import ThresholdChoice
from heads.trained.typed import require_types
from heads.training.config import TrainConfig
from heads.training.fit import predict_logits

if TYPE_CHECKING:
    from cache.reader import Cache
    from heads.trained.record import TrainingRecord

HEAD_FORMAT = 1
MOST_THRESHOLD = float(np.nextafter(1.0, 2.0))
"""What flags no video, where one has a score of 1."""

VideoTokens = Mapping[str, StreamTokens | npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class HeadInfo:
    """Everything of head.json: what the head reads, how it decides, how it was made and how it scored.

    grid: the stream on whose tokens streams are joined. label_names: (negative, positive). temperature
    divides logits before the sigmoid. metrics: by part of the split ("val" chose the model; "test" was scored
    once). trained_on: dataset, digest and video counts of the cache, the split, and its videos by part
    (`heads.trained.seen`). versions: of the libraries. threshold_history: what stood here before each
    `onepass threshold --write`, oldest first: threshold, config, metrics, floors, notes, replaced_at. members: heads
    of folds whose mean the head is, or 1. portfolio: what `--model auto` compared, a row a candidate; empty where
    the model was named.
    """

    config: TrainConfig
    streams: tuple[StreamInput, ...]
    grid: str
    label_names: tuple[str, str]
    threshold: ThresholdChoice
    temperature: float
    best_epoch: int
    pos_weight: float
    precision: str
    n_parameters: int
    metrics: Mapping[str, Any]
    floors: Mapping[str, Any]
    trained_on: Mapping[str, Any]
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    threshold_history: tuple[Mapping[str, Any], ...] = ()
    members: int = 1
    portfolio: tuple[Mapping[str, Any], ...] = ()

    @property
    def weights(self) -> str:
        """Which backbone weights stand behind every score, such as "clip: random (seed 0)"."""
        return weights_line(self.streams)

    @property
    def random_weights(self) -> bool:
        """True when any stream comes from random weights."""
        return any_random(self.streams)

    @property
    def random_note(self) -> str:
        """Which streams are random and what scores say then; empty where none is."""
        return random_note(self.streams)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return {
            "format": HEAD_FORMAT,
            "weights": self.weights,
            "random_weights": self.random_weights,
            **{k: v for k, v in asdict(self).items() if k not in ("config", "streams")},
            "config": self.config.as_dict(),
            "streams": [asdict(stream) for stream in self.streams],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HeadInfo:
        """Read what `as_dict` wrote. Raises HeadError for another format version, missing keys, and what cannot be."""
        if values.get("format") != HEAD_FORMAT:
            raise HeadError(f"head format {values.get('format')} is not {HEAD_FORMAT}; train the head again")
        require_types(values, cls)
        require_types(values["threshold"], ThresholdChoice, name="threshold")
        if (given := values["threshold"].get("interval")) is not None:
            require_types(given, Interval, name="threshold.interval")
        for stream in values["streams"]:
            require_types(stream, StreamInput, name="streams")
        require_types(values["trained_on"], _TrainedOn, name="trained_on")
        try:
            threshold = dict(values["threshold"])
            interval = threshold.pop("interval")
            threshold["warnings"] = tuple(threshold["warnings"])
            negative, positive = values["label_names"]
            for name, value, fits in (
                ("threshold", threshold["threshold"], 0 <= threshold["threshold"] <= MOST_THRESHOLD),
                (
                    "temperature",
                    values["temperature"],
                    LOWEST_TEMPERATURE * 0.99 <= values["temperature"] <= 1.01 * HIGHEST_TEMPERATURE,
                ),
                ("members", values.get("members", 1), 1 <= values.get("members", 1) <= MOST_FOLDS),
            ):
                if not fits:
                    raise HeadError(f"head.json: {name} cannot be {value}; train the head again")
            return cls(
                config=TrainConfig.from_dict(values["config"]),
                streams=tuple(StreamInput(**stream) for stream in values["streams"]),
                label_names=(negative, positive),
                threshold=ThresholdChoice(
                    **threshold, interval=None if interval is None else Interval(**interval)
                ),
                notes=tuple(values["notes"]),
                threshold_history=tuple(values.get("threshold_history", ())),
                members=int(values.get("members", 1)),
                portfolio=tuple(values.get("portfolio", ())),
                **{name: values[name] for name in _PLAIN},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise HeadError(f"head.json is not readable: {error!r}") from error


@dataclass(frozen=True, slots=True)
class _TrainedOn:
    """What is read of `HeadInfo.trained_on`; earlier versions left out what has a default."""

    dataset: str
    cache_digest: str
    n_videos: int
    split: str
    counts: Mapping[str, Any]
    chosen_on: str
    median_seconds: float = 0.0
    videos: Mapping[str, Any] | None = None


_PLAIN = (
    *("grid", "temperature", "best_epoch", "pos_weight", "precision", "n_parameters"),
    *("metrics", "floors", "trained_on", "versions"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Scores of M videos. probabilities: float64 [M] in [0, 1], NaN for a video that has none of the head's streams; flagged:
    bool [M], probability >= threshold. lacking: how many of them lack an optional stream, by its name.

    weights names the backbone weights behind the scores; random_weights says whether any are random.
    """

    ids: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    threshold: float
    label_names: tuple[str, str]
    weights: str
    random_weights: bool
    lacking: Mapping[str, int] = field(default_factory=dict)

    @property
    def flagged(self) -> npt.NDArray[np.bool_]:
        """bool [M]."""
        return self.probabilities >= self.threshold

    @property
    def decisions(self) -> tuple[str, ...]:
        """Label name of each decision, "" for a video that cannot be scored."""
        unscored = np.isnan(self.probabilities)
        return tuple(
            "" if none else self.label_names[int(flag)]
            for flag, none in zip(self.flagged, unscored, strict=True)
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return (
            f"Predictions({len(self)} videos, {int(self.flagged.sum())} {self.label_names[1]} "
            f"at threshold {self.threshold:.4f}, weights {self.weights})"
        )


@dataclass(frozen=True, slots=True, eq=False)
class TrainedHead:
    """A model in eval mode and its info. training: what a fresh training leaves for reports, else None."""

    model: TokenModel
    info: HeadInfo
    training: TrainingRecord | None = None

    def __repr__(self) -> str:
        return (
            f"TrainedHead({self.info.config.model.architecture}, {self.info.n_parameters:,} parameters, "
            f"threshold {self.info.threshold.threshold:.4f}, weights {self.info.weights})"
        )

    @classmethod
    def load(cls, folder: str | Path) -> TrainedHead:
        """Read a folder that `save` wrote. Raises HeadError when it is missing, damaged or does not fit."""
        from heads.trained.checkpoint import load_head

        return load_head(folder)

    def save(self, folder: str | Path) -> Path:
        """Write head.safetensors and head.json, atomically; returns the folder."""
        from heads.trained.checkpoint import save_head

        return save_head(self, folder)

    def predict(
        self, features: Cache | VideoTokens | Sequence[VideoTokens], *, ignore_libraries: bool = False
    ) -> Predictions:
        """Score a cache, one video's tokens by stream name, or a list of such.

        Tokens are `StreamTokens`, or plain float arrays [T, D] where the head reads a single stream; such a head takes
        an array without the stream's name as well, [T, D] for a video and [V, T, D] for several. A stream that is optional may
        be left out of a mapping. Raises
        FingerprintMismatch when a cache's features were made in another way, HeadError when a stream is missing or
        has another width, and for what holds no tokens.
        """
        from cache.reader import Cache

        if isinstance(features, Cache):
            lacking = self.require_fits(features, ignore_libraries=ignore_libraries)
            ids = tuple(str(i) for i in features.videos.id)
            tokens: TokenSource = load_tokens(
                features,
                [stream.name for stream in self.info.streams],
                np.arange(len(ids)),
                separate_streams=self.info.config.model.separate_streams,
                grid=self.info.grid,
            )
            logits = self.logits(tokens, np.arange(len(ids)))
            if lacking:
                logits[without_any(features, [stream.name for stream in self.info.streams])] = np.nan
            return self._predictions(ids, logits, lacking)
        videos = _videos(features)
        ids = tuple(str(i) for i in range(len(videos)))
        if not videos:
            return self._predictions((), np.zeros(0))
        tokens = self._tokens(videos)
        return self._predictions(ids, self.logits(tokens, np.arange(len(ids))))

    def logits(self, tokens: TokenSource, videos: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Raw logits of chosen videos of a token source that has this head's channels: float64 [M]."""
        return predict_logits(self.model, tokens, videos)

    def probabilities(self, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """sigmoid(logits / temperature), float64 [M]."""
        return probabilities(logits, temperature=self.info.temperature)

    def require_fits(self, cache: Cache, *, ignore_libraries: bool = False) -> dict[str, int]:
        """How many videos lack which of the head's streams. Raises HeadError for a stream that is missing, of another width, or

        absent from videos while the head was made for such as lack none, and FingerprintMismatch for other features.
        """
        require_open_cache(cache, "a head")
        where = cache.names[0]
        for stream in self.info.streams:
            if stream.name not in cache.streams:
                raise HeadError(
                    f"the head reads stream {stream.name}; {where} holds {', '.join(sorted(cache.streams))}"
                )
            found = cache.streams[stream.name]
            require_same(
                stream.fingerprint,
                found.fingerprint,
                where=where,
                ignore_libraries=ignore_libraries,
                of="head",
            )
            if found.dim != stream.dim:
                raise HeadError(
                    f"{where}: stream {stream.name} is {found.dim} wide; the head reads {stream.dim}"
                )
        return self._lacking(cache)

    def _lacking(self, cache: Cache) -> dict[str, int]:
        found = {s.name: int((cache.absent(s.name) != "").sum()) for s in self.info.streams}
        found = {name: count for name, count in found.items() if count}
        alone = len(self.info.streams) == 1
        if found and not (self.info.config.model.absent or (alone and self.info.streams[0].optional)):
            name, count = next(iter(found.items()))
            raise HeadError(
                f"{count} of {len(cache)} videos in {cache.names[0]} lack stream {name}, which was in all that the head was "
                "trained on: train it on a cache where the stream is optional"
            )
        return found

    def _predictions(
        self,
        ids: tuple[str, ...],
        logits: npt.NDArray[np.float64],
        lacking: Mapping[str, int] = MappingProxyType({}),
    ) -> Predictions:
        return Predictions(
            ids=ids,
            probabilities=self.probabilities(logits),
            threshold=self.info.threshold.threshold,
            label_names=self.info.label_names,
            weights=self.info.weights,
            random_weights=self.info.random_weights,
            lacking=dict(lacking),
        )

    def _tokens(self, videos: Sequence[VideoTokens]) -> TokenSource:
        ragged = {
            stream.name: TokenArray.join([self._stream_tokens(video, stream) for video in videos])
            for stream in self.info.streams
        }
        return in_memory(
            ragged, separate_streams=self.info.config.model.separate_streams, grid=self.info.grid
        )

    def _stream_tokens(self, video: Any, stream: StreamInput) -> StreamTokens:
        if isinstance(video, (np.ndarray, StreamTokens)) and len(self.info.streams) == 1:
            video = {stream.name: video}
        if not isinstance(video, Mapping):
            names = ", ".join(s.name for s in self.info.streams)
            raise HeadError(f"a video is a mapping of stream ({names}) to tokens, not {shown(video)}")
        if stream.name not in video and stream.optional and len(self.info.streams) > 1:
            return StreamTokens(np.empty((0, stream.dim), np.float32), np.empty((0, 2), np.float32))
        if stream.name not in video:
            raise HeadError(
                f"the head reads stream {stream.name}; a video has {', '.join(sorted(video)) or 'none'}"
            )
        tokens: Any = video[stream.name]
        if not isinstance(tokens, StreamTokens):
            if len(self.info.streams) > 1:
                raise HeadError("a head of several streams needs StreamTokens: their spans align the streams")
            try:
                tokens = plain_tokens(tokens)
            except ValueError as error:
                raise HeadError(f"stream {stream.name}: {error}") from error
        if tokens.values.shape[1] != stream.dim:
            raise HeadError(
                f"stream {stream.name}: tokens are {tokens.values.shape[1]} wide; the head reads {stream.dim}"
            )
        found: StreamTokens = tokens
        return found


def _videos(features: Any) -> list[Any]:
    """One video or several as a list. Raises HeadError for what cannot be videos."""
    if isinstance(features, (Mapping, StreamTokens)) or (
        isinstance(features, np.ndarray) and features.ndim == 2
    ):
        return [features]
    if isinstance(features, (str, PurePath)):
        raise HeadError(f"predict takes an open cache, not a path: predict(open_cache({str(features)!r}))")
    if not isinstance(features, Iterable):
        raise HeadError(
            f"predict takes an open cache, a video's tokens by stream, or a list of such, not {shown(features)}"
        )
    return list(features)
