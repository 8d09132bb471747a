"""Features made elsewhere, written as a cache.

    write_features("cache/made.zarr", {"Fight/a.mp4": {"image": array}}, fps=2, labels={"Fight/a.mp4": "Fight"})

What nobody knows is not made up: videos have no digest, size, frame rate or pictures (`""` and 0), their duration is where the
last span ends (0 where no time was given), and the stream says `imported`, with a digest of its values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.arguments import is_number, shown
from cache.convert import require_replaceable
from cache.errors import CacheError, InputError
from cache.fingerprint import IMPORTED, imported_fingerprint
from cache.labels.join import LabelJoin, choose_positive, shortened
from cache.lock import CacheLock
from cache.merge import adopt_digests, publish
from cache.objects.address import require_local
from cache.reader import open_cache
from cache.schema import (
    STREAM_NAME,
    UNKNOWN_LABEL,
    Reject,
    StreamSpec,
    StreamTokens,
    TokenDtype,
    VideoFeatures,
    VideoLabel,
    VideoRow,
)
from cache.stores import files
from cache.stores.open import cache_exists, cache_format
from cache.token_arrays import UnusableFeatures, stored_dtype, timing, token_spans, token_values
from cache.writer import CacheWriter

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

STAGING_SUFFIX = ".importing.zarr"
COMMIT_BYTES = 64 << 20
COMMIT_VIDEOS = 64
UNKNOWN = VideoLabel(UNKNOWN_LABEL, "")


def write_features(
    path: str | Path,
    features: Mapping[str, Mapping[str, ArrayLike]],
    *,
    fps: float | None = None,
    snippet: int = 1,
    stride_seconds: float | None = None,
    window_seconds: float | None = None,
    spans: Mapping[str, ArrayLike | Mapping[str, ArrayLike]] | None = None,
    labels: Mapping[str, str | int] | LabelJoin | None = None,
    positive: str | None = None,
    splits: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    dataset: str = "",
    made_by: str = "",
    dtype: TokenDtype | None = None,
    overwrite: bool = False,
) -> Path:
    """Write features made elsewhere as a new cache, and return its path.

    features: by video id, arrays [T, D] (or [D]: one token) by stream; every video has the same streams. When the tokens are:
    fps (one token a frame, or every `snippet` frames), or stride_seconds (and window_seconds, else as long as the stride), or
    spans, [T, 2] seconds by id, or by id and stream. Videos of one token need none: they then have no duration.

    labels: class names (or 1 and 0) by id, or what `cache.labels.label_videos` gives; ids without one are unlabelled. positive:
    the harmful class, where its name does not say so. splits (train, val, test) and sources (the recording) by id.
    made_by: what made them, in your words: caches of the same made_by may be read together, and a head trained on one scores
    the other. dtype: float16 or float32; left out, float16 stays and everything else becomes float32.

    Raises InputError for features that cannot be stored (not finite, constant, of another width), ids in `labels`, `splits` or
    `sources` without features, and missing times; CacheError for a cache that is there already unless `overwrite`.
    """
    path = Path(path)
    if not isinstance(features, Mapping):
        raise InputError(
            f'features are a mapping, {{"a.mp4": {{"image": array}}}}: ids of videos to arrays by stream, not {shown(features)}'
        )
    if not features:
        raise InputError("there are no features to write: give arrays by video id and stream")
    said = timing(fps=fps, snippet=snippet, stride_seconds=stride_seconds, window_seconds=window_seconds)
    if said is not None and spans is not None:
        raise InputError("give spans or a time grid (fps, stride_seconds), not both")
    names, by_id = _labels(features, labels, positive=positive, splits=splits, sources=sources)
    streams = _streams(features, dtype)
    plan = ImportPlan(
        streams=tuple(streams),
        dtypes=tuple(kind for _, kind in streams.values()),
        dims=tuple(dim for dim, _ in streams.values()),
        sampling=said.as_fields() if said else {"spans": "given" if spans is not None else "none"},
        made_by=made_by,
        dataset=dataset or path.stem,
        label_names=names,
        provenance={"imported": "from Python"},
    )

    def videos() -> Iterator[VideoFeatures]:
        for video_id, arrays in features.items():
            found = {}
            for name, (dim, kind) in streams.items():
                with naming(video_id, name):
                    values = token_values(arrays[name], dim=dim, dtype=kind)
                    found[name] = StreamTokens(
                        values, token_spans(len(values), said, _given(spans, video_id, name))
                    )
            yield imported_video(video_id, found, by_id.get(video_id, UNKNOWN))

    store_features(path, plan, videos(), overwrite=overwrite)
    return path


@contextlib.contextmanager
def naming(video_id: str, stream: str) -> Iterator[None]:
    """What is wrong with a video's features, as InputError with its name."""
    try:
        yield
    except (UnusableFeatures, ValueError) as problem:
        raise InputError(f"{video_id}: stream {stream}: {problem}") from None


def imported_video(video_id: str, tokens: Mapping[str, StreamTokens], label: VideoLabel) -> VideoFeatures:
    """A video of which nothing is known but its tokens and its label. Raises ValueError for an id that no cache can hold."""
    row = VideoRow(
        id=video_id,
        digest="",
        size_bytes=0,
        mtime_ns=0,
        label=label.label,
        label_name=label.label_name,
        split=label.split,
        source=label.source,
        duration_seconds=max(float(found.spans[:, 1].max()) for found in tokens.values()),
        fps=0.0,
        width=0,
        height=0,
        n_frames=0,
        decoder=IMPORTED,
    )
    return VideoFeatures(row, tokens)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What an import writes beside its videos: streams with widths and dtypes, and what is said of them."""

    streams: tuple[str, ...]
    dims: tuple[int, ...]
    dtypes: tuple[TokenDtype, ...]
    sampling: Mapping[str, Any]
    made_by: str
    dataset: str
    label_names: tuple[str, str] | None
    provenance: Mapping[str, Any]

    def specs(self) -> list[StreamSpec]:
        """The streams, their digests to be filled in when all values are there."""
        columns = zip(self.streams, self.dims, self.dtypes, strict=True)
        return [
            StreamSpec(
                name,
                dim,
                dtype,
                imported_fingerprint(name, digest="", sampling=self.sampling, made_by=self.made_by),
            )
            for name, dim, dtype in columns
        ]


def plan_of(
    stream: str,
    *,
    dim: int,
    dtype: TokenDtype,
    sampling: Mapping[str, Any],
    made_by: str = "",
    dataset: str = "",
    label_names: tuple[str, str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ImportPlan:
    """The plan for one stream."""
    return ImportPlan(
        (stream,), (dim,), (dtype,), sampling, made_by, dataset, label_names, dict(provenance or {})
    )


def store_features(
    path: Path,
    plan: ImportPlan,
    videos: Iterable[VideoFeatures],
    rejects: Sequence[Reject] = (),
    *,
    overwrite: bool = False,
) -> None:
    """Write a new cache, whole or not at all. Raises CacheError where there is one already, unless `overwrite`."""
    cache_format(path)
    require_local(path)
    path = path.resolve()
    with files.storage_errors(path):
        files.make_directory(path.parent)
    lock = CacheLock(path)
    try:
        require_replaceable(path, overwrite)
        with _staged(path, plan, videos, rejects) as staging:
            publish(staging, path, fence=lock.fence)
    finally:
        lock.release()


def attach_features(path: Path, plan: ImportPlan, videos: Iterable[VideoFeatures]) -> None:
    """Add imported features as a stream of the cache at `path`, in one atomic step. Their ids are those of its videos, all of

    them and no others; nothing else tells whether both were made from the same videos. Raises CacheError.
    """
    require_local(path)
    path = path.resolve()
    with CacheWriter.reopen(path) as writer, _staged(path, plan, videos, ()) as staging:
        writer.attach_stream(staging)


@contextlib.contextmanager
def _staged(
    path: Path, plan: ImportPlan, videos: Iterable[VideoFeatures], rejects: Sequence[Reject]
) -> Iterator[Path]:
    """A finished cache beside `path`, which is removed afterwards; one that a killed import left is begun again."""
    staging = path.with_name(f"{path.name}{STAGING_SUFFIX}")
    if cache_exists(staging):
        with open_cache(staging) as left:
            if IMPORTED not in left.provenance:
                raise CacheError(f"{staging} is a cache of its own, and in the way: move it elsewhere")
    _remove(staging)
    try:
        with CacheWriter.open(
            staging,
            streams=plan.specs(),
            dataset=plan.dataset,
            label_names=plan.label_names,
            provenance={IMPORTED: "", **plan.provenance},
        ) as writer:
            batch: list[VideoFeatures] = []
            held = 0
            for video in videos:
                batch.append(video)
                held += sum(tokens.values.nbytes for tokens in video.tokens.values())
                if held >= COMMIT_BYTES or len(batch) == COMMIT_VIDEOS:
                    writer.commit(batch, [])
                    batch, held = [], 0
            writer.commit(batch, rejects)
        adopt_digests(staging)
        yield staging
    finally:
        _remove(staging)


def _remove(staging: Path) -> None:
    with files.storage_errors(staging):
        if staging.exists():
            files.remove_tree(staging)
        for suffix in (".lock", ".lock.json"):
            files.remove_file(staging.with_name(staging.name + suffix))


def _streams(
    features: Mapping[str, Mapping[str, ArrayLike]], dtype: TokenDtype | None
) -> dict[str, tuple[int, TokenDtype]]:
    """Width and stored dtype by stream. Raises InputError unless all videos have the same streams."""
    if dtype not in (None, "float16", "float32"):
        raise InputError(f"dtype must be float16 or float32, not {shown(dtype)}")
    first: Mapping[str, ArrayLike] | None = None
    found: dict[str, tuple[int, set[np.dtype[Any]]]] = {}
    for video_id, arrays in features.items():
        if not isinstance(video_id, str) or not video_id:
            raise InputError(f"a video id is text, not {shown(video_id)}")
        if not isinstance(arrays, Mapping) or not arrays:
            raise InputError(
                f'{video_id}: give its arrays by stream, {{"image": array}}, not {shown(arrays)}'
            )
        first = arrays if first is None else first
        if set(arrays) != set(first):
            raise InputError(
                f"{video_id} has the streams {', '.join(arrays)}, others {', '.join(first)}; all videos have the same streams"
            )
        for name, array in arrays.items():
            if not isinstance(name, str) or not STREAM_NAME.fullmatch(name):
                raise InputError(f"stream name {shown(name)} must be lower-case letters, digits, '-' or '_'")
            plain = np.asarray(array)
            width, kinds = found.setdefault(name, (plain.shape[-1] if plain.ndim else 0, set()))
            if not width:
                raise InputError(
                    f"{video_id}: stream {name} has the shape {list(plain.shape)}, not [T, D] or [D]"
                )
            kinds.add(plain.dtype)
    return {name: (width, dtype or stored_dtype(kinds)) for name, (width, kinds) in found.items()}


def _given(
    spans: Mapping[str, ArrayLike | Mapping[str, ArrayLike]] | None, video_id: str, stream: str
) -> ArrayLike | None:
    if spans is None:
        return None
    found: Any = spans.get(video_id)
    if isinstance(found, Mapping):
        found = found.get(stream)
    if found is None:
        raise UnusableFeatures("unusable-array", "has no spans")
    return found  # type: ignore[no-any-return]


def _class_name(video_id: str, value: object) -> str:
    """A class name as it is given, or the number 1 or 0 of one."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, (bool, np.bool_)) or (is_number(value) and value in (0, 1)):
        return str(int(value))
    raise InputError(
        f"{video_id}: a label is a class name, 1 or 0, not {shown(value)}; leave out what has none"
    )


def _labels(
    features: Mapping[str, Any],
    labels: Mapping[str, str | int] | LabelJoin | None,
    *,
    positive: str | None,
    splits: Mapping[str, str] | None,
    sources: Mapping[str, str] | None,
) -> tuple[tuple[str, str] | None, dict[str, VideoLabel]]:
    """(negative, positive) names, None without labels, and what is said of each id."""
    said: dict[str, VideoLabel] = {}
    names = None
    if isinstance(labels, LabelJoin):
        said, names = dict(labels.matched), (labels.names.negative, labels.names.positive)
    elif labels:
        texts = {video_id: _class_name(video_id, value) for video_id, value in labels.items()}
        chosen = choose_positive(set(texts.values()), positive=positive)
        names = (chosen.negative, chosen.positive)
        said = {i: label for i, text in texts.items() if (label := chosen.label(text)) is not None}
    for given, what in ((said, "labels"), (splits or {}, "splits"), (sources or {}, "sources")):
        if unknown := [str(video_id) for video_id in given if video_id not in features]:
            raise InputError(f"{what} name {len(unknown)} ids without features: {shortened(unknown)}")
    found = {}
    for video_id in features:
        label = said.get(video_id, UNKNOWN)
        split = (splits or {}).get(video_id, label.split)
        if split not in ("", "train", "val", "test"):
            raise InputError(f"{video_id}: a split is train, val or test, not {shown(split)}")
        source = (sources or {}).get(video_id, label.source)
        found[video_id] = VideoLabel(label.label, label.label_name, split, source)
    return names, found
