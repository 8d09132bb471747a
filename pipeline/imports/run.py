"""Importing features in one screen: items found, labelled or joined by id, read one by one, written as a cache or a stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import InputError, LabelError
from cache.features import UNKNOWN, ImportPlan, attach_features, imported_video, plan_of, store_features
from cache.fingerprint import weights_name
from cache.labels.files import LabelEntry
from cache.labels.join import match_entries, near_misses, shortened
from cache.reader import open_cache
from cache.schema import (
    REJECT_REASONS,
    STREAM_NAME,
    Reject,
    StreamTokens,
    TokenDtype,
    VideoFeatures,
    VideoLabel,
)
from cache.stores.open import cache_exists, cache_format
from cache.token_arrays import Timing, UnusableFeatures, stored_dtype, token_spans, token_values
from pipeline.imports.arrays import parquet_rows, read_array, shape_of
from pipeline.imports.crops import Crops, crop_axis, without_crops
from pipeline.imports.items import Item, find_items
from pipeline.imports.spans import is_place, spans_reader
from pipeline.sources.labelled import resolve_labels
from pipeline.sources.names import portable_path

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class ImportConfig:
    """What to import, from where, into which cache. Raises InputError, CacheError for what cannot be.

    timing: the tokens' time grid, None where `spans` (a file, a folder, a column of the manifest) says when they are. crops:
    what several crops of one moment become; crops_axis: which axis counts them. The other fields are flags of `onepass import`.
    """

    src: Path
    out: Path
    stream: str
    timing: Timing | None = None
    spans: str = ""
    crops: Crops = "mean"
    crops_axis: int | None = None
    key: str = ""
    root: Path | None = None
    ending: str = ""
    labels: Path | None = None
    sources: Path | None = None
    positive: str | None = None
    negative: str = ""
    allow_unmatched: bool = False
    made_by: str = ""
    dtype: TokenDtype | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        cache_format(self.out)
        if not STREAM_NAME.fullmatch(self.stream):
            raise InputError(f"--stream {self.stream}: lower-case letters, digits, '-' and '_', such as i3d")
        if self.crops not in ("mean", "tokens"):
            raise InputError(f"--crops {self.crops}: choose mean or tokens")
        if self.dtype not in (None, "float16", "float32"):
            raise InputError(f"--dtype {self.dtype}: choose float16 or float32")
        if self.timing is not None and self.spans:
            raise InputError(f"--spans {self.spans}: or a time grid (--fps, --stride-seconds), not both")


@dataclass(slots=True)
class ImportReport:
    """What an import did: every video found is stored, rejected, or, in a join, without a video in the cache."""

    out: Path
    stream: str
    found: int
    stored: int = 0
    n_tokens: int = 0
    rejects: list[Reject] = field(default_factory=list)
    without_video: int = 0
    weights: str = ""

    @property
    def adds_up(self) -> bool:
        """Whether stored + rejected (+ without a video) = found."""
        return self.stored + len(self.rejects) + self.without_video == self.found

    @property
    def reject_share(self) -> float:
        """Rejected over found, in [0, 1]."""
        return len(self.rejects) / self.found

    def lines(self) -> list[str]:
        """The summary, one fact a line."""
        lines = [f"stream     {self.stream}: {self.n_tokens} tokens, weights {self.weights}"]
        for reason, count in Counter(reject.reason for reject in self.rejects).most_common():
            lines.append(f"  {count:>6}  {reason}: {REJECT_REASONS[reason]}")
        lines += [f"          {r.id}: {r.reason}: {r.detail[:160]}" for r in self.rejects[:10]]
        if len(self.rejects) > 10:
            lines.append(f"          and {len(self.rejects) - 10} more: onepass inspect {self.out}")
        others = f" + {self.without_video} without a video in the cache" if self.without_video else ""
        verdict = "adds up" if self.adds_up else "DOES NOT ADD UP"
        lines.append(
            f"found      {self.found} = {self.stored} stored + {len(self.rejects)} rejected{others}: {verdict}"
        )
        return lines


def import_features(config: ImportConfig, *, say: Say) -> ImportReport:
    """Write the features as a new cache, or add them to the one at `out` as a stream. Raises an OnepassError."""
    found = find_items(
        config.src,
        root=config.root,
        ending=config.ending,
        key=config.key,
        spans_column="" if is_place(config.spans) else config.spans,
        negative=config.negative,
    )
    if config.spans and not is_place(config.spans) and not any(item.spans for item in found.items):
        raise InputError(
            f"--spans {config.spans}: no such file or folder, and no manifest with such a column"
        )
    report = ImportReport(config.out, config.stream, len(found.items))
    reading = _looked_at(config, found.items, report, say)
    plan = plan_of(
        config.stream,
        dim=reading.dim,
        dtype=reading.dtype,
        sampling=_sampling(config, found.items, reading),
        made_by=config.made_by,
        dataset=portable_path(config.src.resolve().stem),
        provenance={"source": portable_path(config.src), "crops": config.crops},
    )
    if cache_exists(config.out) and not config.overwrite:
        for line in found.lines:
            say(line)
        _attach(config, plan, reading, found.items, report, say)
    else:
        resolved = resolve_labels(
            found.tree(),
            labels_file=config.labels,
            sources_file=config.sources,
            positive=config.positive,
            allow_unmatched=config.allow_unmatched,
        )
        for line in resolved.lines:
            say(line)
        if resolved.names is not None:
            plan = replace(plan, label_names=(resolved.names.negative, resolved.names.positive))
        videos = reading.videos({item.id: item.id for item in found.items}, resolved.labels)
        store_features(config.out, plan, videos, report.rejects, overwrite=config.overwrite)
    with open_cache(config.out) as cache:
        info = cache.streams[config.stream]
        report.n_tokens, report.weights = info.n_tokens, weights_name(info.fingerprint)
    return report


def _sampling(config: ImportConfig, items: Sequence[Item], reading: _Reading) -> dict[str, Any]:
    """For the fingerprint: when the tokens are, and what became of crops."""
    crops = {"crops": config.crops} if reading.had_crops else {}
    if config.timing:
        return config.timing.as_fields() | crops
    tables = any(item.places[0].path.suffix.lower() == ".parquet" for item in items)
    return {"spans": "given" if config.spans or tables else "none"} | crops


@dataclass(slots=True)
class _Reading:
    """How the arrays are to be read: width and dtype of a token, the axis of crops, and the videos that can be read at all."""

    config: ImportConfig
    items: Sequence[Item]
    dim: int
    dtype: TokenDtype
    axis: int | None
    had_crops: bool
    report: ImportReport
    durations: Mapping[str, float] = field(default_factory=dict)
    coverage: dict[str, float] = field(default_factory=dict)

    def videos(self, ids: Mapping[str, str], labels: Mapping[str, VideoLabel]) -> Iterator[VideoFeatures]:
        """The videos among `ids` (item to video), one by one; what cannot be used goes to the report's rejects."""
        spans_of = spans_reader(self.config.spans)
        for item in self.items:
            if item.id not in ids:
                continue
            try:
                arrays = [read_array(place) for place in item.places]
                given = spans_of(item)
                if (
                    given is None
                    and item.places[0].path.suffix.lower() == ".parquet"
                    and not self.config.timing
                ):
                    given = parquet_rows(item.places[0].path, item.places[0].key)[1]
                values, n_crops = without_crops(arrays, axis=self.axis, crops=self.config.crops)
                values = token_values(values, dim=self.dim, dtype=self.dtype)
                spans = token_spans(len(values) // n_crops, self.config.timing, given)
                spans = self._within(ids[item.id], spans).repeat(n_crops, axis=0)
            except UnusableFeatures as problem:
                self.report.rejects.append(Reject(item.id, problem.reason, problem.detail, "", 0, 0))
                continue
            self.report.stored += 1
            tokens = {self.config.stream: StreamTokens(values, spans)}
            yield imported_video(ids[item.id], tokens, labels.get(item.id, UNKNOWN))

    def _within(
        self, video_id: str, spans: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Spans cut at the end of the decoded video. Raises UnusableFeatures where tokens begin after it."""
        duration = self.durations.get(video_id, 0.0)
        if not duration:
            return spans
        if spans[-1, 0] > duration:
            raise UnusableFeatures(
                "unusable-array",
                f"its last token begins at {spans[-1, 0]:.2f} s, and the video ends at {duration:.2f} s: another --fps or "
                "--stride-seconds?",
            )
        self.coverage[video_id] = min(1.0, float(spans[:, 1].max()) / duration)
        return np.minimum(spans, np.float32(duration))


def _looked_at(config: ImportConfig, items: Sequence[Item], report: ImportReport, say: Say) -> _Reading:
    """Shapes and dtypes of all arrays; those that cannot be read are rejects by now. Raises InputError where none can."""
    usable: list[Item] = []
    shapes: list[tuple[int, ...]] = []
    dtypes = set()
    for item in items:
        try:
            if item.problem:
                raise UnusableFeatures("unusable-array", item.problem)
            shape, dtype = shape_of(item.places[0])
            if not shape or len(shape) > 3:
                raise UnusableFeatures("unusable-array", f"has the shape {list(shape)}")
        except UnusableFeatures as problem:
            report.rejects.append(Reject(item.id, problem.reason, problem.detail, "", 0, 0))
            continue
        usable.append(item)
        shapes.append(shape)
        dtypes.add(dtype)
    if not usable:
        first = report.rejects[0]
        raise InputError(
            f"{config.src}: none of {len(items)} videos has features that can be used; {first.id}: {first.detail}"
        )
    axis = crop_axis(shapes, given=config.crops_axis)
    widths = Counter(shape[-1] for shape in shapes)
    crops = {shape[axis] for shape in shapes if len(shape) == 3} if axis is not None else set()
    crops |= {len(item.places) for item in usable if len(item.places) > 1}
    averaged = bool(crops) and config.crops == "mean"
    if crops:
        counted = ", ".join(map(str, sorted(crops)))
        done = "averaged" if averaged else "kept as tokens of the same span"
        say(f"crops: {counted} a moment, {done} (--crops)")
    kept: TokenDtype = config.dtype or ("float32" if averaged else stored_dtype(dtypes))
    if kept == "float32" and np.dtype(np.float64) in dtypes:
        say("float64 is stored as float32")
    return _Reading(config, usable, widths.most_common(1)[0][0], kept, axis, bool(crops), report)


def _attach(
    config: ImportConfig,
    plan: ImportPlan,
    reading: _Reading,
    items: Sequence[Item],
    report: ImportReport,
    say: Say,
) -> None:
    """Join by id and add the stream, to every video or not at all."""
    for flag, value in (
        ("--labels", config.labels),
        ("--sources", config.sources),
        ("--positive", config.positive),
        ("--negative", config.negative),
    ):
        if value:
            raise InputError(
                f"{flag} {value}: {config.out} is there and has its own labels; leave it out (train-head takes others), "
                "or write a new cache with --overwrite or another --out"
            )
    with open_cache(config.out) as cache:
        if config.stream in cache.streams:
            raise InputError(
                f"{config.out} holds a stream {config.stream} already; give another --stream or --out, or --overwrite"
            )
        ids = [str(video_id) for video_id in cache.videos.id]
        decoded = cache.videos.n_frames > 0
        durations = dict(
            zip(ids, np.where(decoded, cache.videos.duration_seconds, 0.0).tolist(), strict=True)
        )
    if not ids:
        raise InputError(f"{config.out} holds no videos; give another --out, or --overwrite")
    joined = _joined(ids, items, config, say)
    report.without_video = len(items) - len(joined)
    report.rejects = [reject for reject in report.rejects if reject.id in joined]
    reading.durations = durations

    def videos() -> Iterator[VideoFeatures]:
        yield from reading.videos(joined, {})
        if report.rejects:
            first = report.rejects[0]
            raise InputError(
                f"{config.out}: nothing was added: {len(report.rejects)} of {len(ids)} videos have features that cannot be used, "
                f"and every stored video has every stream; {first.id}: {first.detail}"
            )

    attach_features(config.out, plan, videos())
    if cover := reading.coverage:
        least = min(cover, key=lambda video_id: cover[video_id])
        mean = sum(cover.values()) / len(cover)
        say(
            f"tokens reach {mean:.0%} of the videos' durations on average, at least {cover[least]:.0%} ({least})"
        )
    say(
        "joined by id alone: imported features do not tell of which bytes they were made, so that nothing else could be compared"
    )


def _joined(ids: Sequence[str], items: Sequence[Item], config: ImportConfig, say: Say) -> dict[str, str]:
    """Video id by item id. Raises LabelError unless every video has features and, but for --allow-unmatched, these a video."""
    match = match_entries(ids, [LabelEntry(item.id, "", where=str(item.places[0])) for item in items])
    joined = {entry.key: video_id for video_id, entry in match.entries.items()}
    unmatched = set(match.unmatched)
    if twice := [item.id for item in items if item.id not in joined and item.id not in unmatched]:
        raise LabelError(
            f"{twice[0]!r} and other features are of one video of {config.out}; keep one of them"
        )
    absent = [video_id for video_id in ids if video_id not in match.entries]
    told = (
        f"joined with {config.out}: {len(joined)} of {len(ids)} videos have features, {len(absent)} have none, "
        f"{len(unmatched)} features have no video"
    )
    say(f"{told}; {match.how.line()}")
    if absent or (unmatched and not config.allow_unmatched):
        near = [line.replace("label", "features", 1) for line in near_misses(match.unmatched, absent)]
        parts = [told]
        parts += [f"videos without features: {shortened(absent)}"] if absent else []
        parts += [f"features without a video: {shortened(match.unmatched)}"] if unmatched else []
        what = (
            "every stored video has every stream: give features for all"
            if absent
            else "pass --allow-unmatched to leave them out"
        )
        raise LabelError("; ".join((*parts, *near, what)))
    return joined
