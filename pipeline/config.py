"""The settings of `extract`, and what they make: the writer of the cache and the pass over the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from cache.arguments import is_number, is_whole, shown
from cache.errors import InputError
from cache.fingerprint import Fingerprint, require_same
from cache.lock import CacheLock
from cache.objects.address import remote_url
from cache.objects.store import as_location, base_name
from cache.reader import open_cache
from cache.schema import StreamSpec, TokenDtype
from cache.stores.open import cache_exists, cache_format
from cache.writer import CacheWriter
from pipeline.backbones.base import Backbone, device_libraries, device_name
from pipeline.backbones.choice import recipe_of
from pipeline.backbones.kind import Settled, identity
from pipeline.backbones.load import BackboneConfig, config_from_fingerprints
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.decoders.base import DECODING_RULES, DecoderName
from pipeline.decoding.fetching import FetchSettings
from pipeline.decoding.memory import asked_workers
from pipeline.decoding.pool import PoolSettings
from pipeline.flow import Flow, FlowSettings
from pipeline.sources.labelled import ResolvedSources, resolve_labels
from pipeline.sources.names import portable_path
from pipeline.sources.shards import Shard
from pipeline.sources.transcripts import with_transcripts
from pipeline.sources.tree import SourceTree

FLAGS = {"max_error_share": "--max-decode-errors", "max_rejects": "--max-rejects"}
"""The flag of `extract` by which a setting is given, where errors name it."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "dtype": ("float16", "float32"),
    "decoder": ("pyav", "decord", "opencv"),
    "duplicates": ("keep", "reject"),
    "redo": ("affected", "all"),
}
"""Settings that are one of a few words."""

TRIED = "tried"
"""Key of a cache's provenance: streams in less than float32 of which a trial showed that they keep the parity bound in it."""


@dataclass(frozen=True, slots=True)
class ExtractConfig:
    """What to extract, from where, into which cache; ranges are checked on construction (InputError, CacheError).

    Fields are the flags of `extract` of those names, but for these: max_error_share is --max-decode-errors, required --require,
    ignore_libraries --allow-library-mismatch; pool: workers, deadline and memory of decoding; fetch: --scratch and --scratch-gb.
    commit_videos, commit_seconds: what is whole is committed once it is so many videos, or that long after the last commit.
    """

    src: Path | str
    """A folder, a manifest or a video; or the URL of one in object storage, as text."""
    out: Path
    backbones: BackboneConfig = field(default_factory=BackboneConfig)
    labels: Path | None = None
    sources: Path | None = None
    positive: str | None = None
    allow_unmatched: bool = False
    dtype: TokenDtype = "float16"
    decoder: DecoderName = "pyav"
    pool: PoolSettings = field(default_factory=PoolSettings)
    max_error_share: float = 0.2
    min_seconds: float = 0.0
    max_rejects: float = 0.1
    duplicates: Literal["keep", "reject"] = "keep"
    retry_rejects: bool = False
    redo: Literal["", "affected", "all"] = ""
    shard: Shard | None = None
    profile: bool = False
    ignore_libraries: bool = False
    commit_videos: int = 64
    commit_seconds: float = 5.0
    optional: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    transcripts: Path | None = None
    keep_text: bool = False
    publish_seconds: float = 60.0
    fetch: FetchSettings = field(default_factory=FetchSettings)

    def optional_streams(self, backbones: Mapping[str, Backbone]) -> tuple[str, ...]:
        """Streams that a stored video may lack: those of sound and words, unless they are required, and what was named."""
        from pipeline.backbones.kind import kind_named

        own = {choice.name for choice in self.backbones.streams if kind_named(choice.kind).optional}
        own |= {name for name, backbone in backbones.items() if backbone.plan.sound or backbone.plan.words}
        return tuple(sorted((own | set(self.optional)) - set(self.required)))

    def left_to_auto(self, backbones: Mapping[str, Backbone]) -> list[str]:
        """Streams that run in less than float32 without that anybody named it: in a new cache, after a trial."""
        named = {
            c.name for c in self.backbones.streams if (c.precision or self.backbones.precision) != "auto"
        }
        less = {name for name, backbone in backbones.items() if backbone.fingerprint()["precision"] != "fp32"}
        return sorted(less - named)

    def takes_sound_files(self, plans: Sequence[StreamPlan] | None = None) -> bool:
        """Whether a file without pictures can be stored: a stream hears, and none that sees is required.

        plans: of all streams, where they are settled already. Raises InputError, WeightsError.
        """
        from pipeline.backbones.kind import kind_named

        needed = [choice for choice in self.backbones.streams if choice.name not in self.optional]
        if not all(kind_named(choice.kind).hears for choice in needed):
            return False
        given = [one.plan for one in self.backbones.settled()] if plans is None else plans
        sees = any(plan.sees and plan.name not in self.optional for plan in given)
        return not sees and any(plan.sound is not None for plan in given)

    def __post_init__(self) -> None:
        self._require_types()
        object.__setattr__(self, "src", as_location(self.src))
        for flag, names in (("--optional", self.optional), ("--require", self.required)):
            if unknown := sorted(set(names) - set(self.backbones.names)):
                raise InputError(
                    f"{flag} {unknown[0]}: no such stream in this run; choose from {', '.join(self.backbones.names)}"
                )
        if both := sorted(set(self.optional) & set(self.required)):
            raise InputError(f"--optional {both[0]}: it is required as well; say one of both")
        for name, words in CHOICES.items():
            if (value := getattr(self, name)) not in words and not (name == "redo" and value == ""):
                raise InputError(f"--{name} {value}: choose from {', '.join(words)}")
        cache_format(self.out)  # a name that no cache can have, before models are loaded for it
        if self.keep_text and remote_url(self.out) is not None:
            raise InputError("--keep-text: words are kept beside a local cache only; give a local --out")
        if not self.publish_seconds >= 0:
            raise InputError(f"--publish-seconds {self.publish_seconds:g}: must not be negative")
        for name in ("max_error_share", "max_rejects"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{FLAGS[name]} is a share between 0 and 1, got {getattr(self, name)}")
        if not self.min_seconds >= 0 or self.commit_videos < 1 or not self.commit_seconds > 0:
            raise InputError(
                "--min-seconds must not be negative; commits need at least one video and a positive time"
            )
        if self.shard is not None and self.duplicates == "reject":
            raise InputError(
                "--duplicates reject: a shard does not see the videos of the others; extract with keep, and onepass audit of the "
                "merged cache names equal videos"
            )

    def _require_types(self) -> None:
        """Raise InputError for what the command could not be given."""
        for name in ("max_error_share", "max_rejects", "min_seconds", "publish_seconds", "commit_seconds"):
            if not is_number(getattr(self, name)):
                raise InputError(f"{name} must be a number, got {shown(getattr(self, name))}")
        if not is_whole(self.commit_videos):
            raise InputError(f"commit_videos must be a whole number, got {shown(self.commit_videos)}")
        for name, kind in (("pool", PoolSettings), ("fetch", FetchSettings), ("backbones", BackboneConfig)):
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"{name} must be a {kind.__name__}, got {shown(getattr(self, name))}")
        if not isinstance(self.shard, Shard | None):
            raise InputError(
                f"shard must be a Shard, got {shown(self.shard)}: see pipeline.sources.shards.parse_shard"
            )


def full_fingerprint(backbone: Backbone, *, rules: int = DECODING_RULES) -> dict[str, Any]:
    """All that can change a stored feature: the backbone's part and the decoding rules."""
    counted = {"decoding": {"rules": rules}} if rules > 1 else {}
    return {**backbone.fingerprint(), **counted}


def stream_specs(
    config: ExtractConfig, backbones: Mapping[str, Backbone], *, rules: int = DECODING_RULES
) -> dict[str, StreamSpec]:
    """What each backbone's stream is in a cache, by name."""
    optional = config.optional_streams(backbones)
    return {
        name: StreamSpec(name, b.dim, config.dtype, full_fingerprint(b, rules=rules), name in optional)
        for name, b in backbones.items()
    }


def fingerprints_at(out: Path) -> dict[str, Fingerprint]:
    """Those of the streams of a cache that is there."""
    if not cache_exists(out):
        return {}
    with open_cache(out) as cache:
        return {name: info.fingerprint for name, info in cache.streams.items()}


def precisions(made: Mapping[str, Fingerprint]) -> dict[str, str]:
    """What each stream was made in."""
    return {name: str(fields.get("precision", "")) for name, fields in made.items()}


def require_as_settled(made: Mapping[str, Fingerprint], out: Path, streams: Sequence[Settled]) -> None:
    """Raise FingerprintMismatch unless what is certain before a model is loaded is what the cache at `out` was `made` with.

    Another frame rate, model or size is a user's mistake, and need not wait for weights to be told.
    """
    for settled in streams:
        name = settled.choice.name
        certain = {
            **identity(settled),
            "preprocessing": dict(settled.preprocessing),
            "sampling": dict(settled.sampling),
        }
        common = [key for key in certain if key in made.get(name, {})]  # a foreign kind may say other things
        require_same(
            {"stream": name, **{key: certain[key] for key in common}},
            {"stream": name, **{key: made[name][key] for key in common}},
            where=str(out),
        )


def open_writer(
    config: ExtractConfig,
    path: Path,
    backbones: Mapping[str, Backbone],
    resolved: ResolvedSources,
    *,
    rules: int = DECODING_RULES,
    held: CacheLock | None = None,
) -> CacheWriter:
    """The single writer of the cache at `path`. rules: the decoding rules that an existing cache was made by.

    held: its lock, where the caller has it.
    """
    devices = config.backbones.torch_devices()
    several = {"devices": [str(device) for device in devices]} if len(devices) > 1 else {}
    names = (resolved.names.negative, resolved.names.positive) if resolved.names else None
    return CacheWriter.open(
        path,
        streams=list(stream_specs(config, backbones, rules=rules).values()),
        dataset=portable_path(
            base_name(config.src) if isinstance(config.src, str) else config.src.resolve().name
        ),
        label_names=names,
        provenance={
            "source": portable_path(config.src),
            "decoder": config.decoder,
            "device": device_name(devices[0]),
            **several,
            "recipe": recipe_of(config.backbones.streams),
            "batches": {name: backbone.batching.batch_size for name, backbone in backbones.items()},
            "libraries": device_libraries(devices[0]),
            **({TRIED: tried} if (tried := config.left_to_auto(backbones)) else {}),
        },
        ignore_libraries=config.ignore_libraries,
        held=held,
    )


def make_flow(
    config: ExtractConfig,
    backbones: Mapping[str, Backbone],
    *,
    writer: CacheWriter,
    digests: dict[str, str],
    adding: bool = False,
) -> Flow:
    """The pass that extracts with these settings. `digests`: contents that count as stored already, digest to id.

    adding: to videos that have other streams, so that they may lack all of these.
    """
    settings = FlowSettings(
        dtype=config.dtype,
        decoder=config.decoder,
        pool=config.pool,
        fetch=config.fetch,
        max_error_share=config.max_error_share,
        min_seconds=config.min_seconds,
        reject_duplicates=config.duplicates == "reject",
        commit_videos=config.commit_videos,
        commit_seconds=config.commit_seconds,
        optional=config.optional_streams(backbones),
        keep_text=config.out if config.keep_text else None,
        lacks_all=adding,
    )
    return Flow(settings, backbones, writer=writer, device=config.backbones.torch_device(), digests=digests)


def labelled_sources(config: ExtractConfig, tree: SourceTree, console: Console) -> ResolvedSources:
    """The sources of a tree with the labels that the settings name; how they joined is printed. Raises LabelError."""
    resolved = resolve_labels(
        tree,
        labels_file=config.labels,
        sources_file=config.sources,
        positive=config.positive,
        allow_unmatched=config.allow_unmatched,
    )
    for line in resolved.lines:
        console.print(line, highlight=False, markup=False)  # names may hold [x]
    return resolved


def with_words(
    config: ExtractConfig,
    resolved: ResolvedSources,
    all_ids: Sequence[str],
    plans: Sequence[StreamPlan],
    console: Console,
) -> ResolvedSources:
    """The sources with the files that hold their words, where a stream reads such; how they joined is printed. Raises InputError.

    all_ids: of the whole source, of which this run may take a share. plans: of all streams.
    """
    words = [plan.words for plan in plans if plan.words is not None]
    reads_files = any(plan.track is None for plan in words)
    for flag, given, need in (
        ("--transcripts", config.transcripts, reads_files),
        ("--keep-text", config.keep_text or None, bool(words)),
    ):
        if given is not None and not need:
            raise InputError(
                f"{flag}: no stream of this run reads {'files of words' if words else 'words'}; see --stream text"
            )
    if not reads_files:
        return resolved
    sources, lines = with_transcripts(resolved.sources, all_ids, config.transcripts)
    for line in lines:
        console.print(line, highlight=False, markup=False)
    return replace(resolved, sources=sources)


def config_like(
    fingerprints: Mapping[str, Mapping[str, Any]],
    *,
    optional: Sequence[str],
    device: str,
    workers: int,
    decoder: str,
    files: Mapping[str, str] | None,
    max_rejects: float,
    transcripts: Path | None = None,
) -> ExtractConfig:
    """The extraction that makes more of what has these fingerprints; its `src` and `out` are left to set.

    optional: streams that a video may lack. workers: 0 is one a core. files: where weights that came from a file lie, by stream.
    Raises InputError.
    """
    return ExtractConfig(
        src=Path(),
        out=Path("scratch.zarr"),
        backbones=config_from_fingerprints(fingerprints, device=device, files=files),
        allow_unmatched=True,
        decoder=decoder,  # type: ignore[arg-type]
        pool=PoolSettings(workers=asked_workers(workers)),
        max_rejects=max_rejects,
        transcripts=transcripts,
        optional=tuple(optional),
        required=tuple(name for name in fingerprints if name not in optional),
    )
