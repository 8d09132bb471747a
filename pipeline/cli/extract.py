"""The `extract` command. Heavy imports wait until the arguments are understood."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cache.errors import InputError, OnepassError, RejectLimitExceeded
from cache.process.ending import INTERRUPTED, run_app
from cache.process.outputs import require_cache_output, require_output
from cache.process.terminal import make_console

if TYPE_CHECKING:
    from pipeline.config import ExtractConfig
    from pipeline.reporting.report import ExtractReport

SOURCES = "Sources and labels"
MODELS = "Models"
DECODING = "Decoding"
OUTCOME = "Outcome"
ENGINE = "Many machines"


def extract_command(
    src: Annotated[
        Path,
        typer.Option(
            help="Folder, manifest (.csv, .tsv, .json, .jsonl) or video; also in object storage: s3://bucket/prefix, gs://, az://.",
            rich_help_panel=SOURCES,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Cache to create or add to: .zarr or .h5, or an s3://, gs:// or az:// address."),
    ] = Path("cache/v1.zarr"),
    labels: Annotated[
        Path | None, typer.Option(help="Labels: .csv, .tsv, .json or .jsonl.", rich_help_panel=SOURCES)
    ] = None,
    sources: Annotated[
        Path | None,
        typer.Option(
            help="File as of --labels: the recording of each clip, for splits that do not leak.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="Name of the positive (harmful) class.", rich_help_panel=SOURCES)
    ] = None,
    allow_unmatched: Annotated[
        bool,
        typer.Option(
            help="Accept videos without a label and labels without a video.", rich_help_panel=SOURCES
        ),
    ] = False,
    transcripts: Annotated[
        Path | None,
        typer.Option(
            help="Words of the videos: a folder of .srt, .vtt, .json, .txt, or a manifest; see docs/words.md.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    keep_text: Annotated[
        bool,
        typer.Option(
            "--keep-text",
            help="Keep the words that are read, in a file beside the cache.",
            rich_help_panel=OUTCOME,
        ),
    ] = False,
    streams: Annotated[
        str | None,
        typer.Option(
            help="Built-in recipes: clip, slowfast, image, motion, audio, text (default: clip,slowfast).",
            rich_help_panel=MODELS,
        ),
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=KIND:MODEL[,KEY=VALUE...]",
            help="Any frozen backbone as a stream (repeatable); onepass streams lists the kinds.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Streams written down: YAML, see docs/streams.md.", rich_help_panel=MODELS),
    ] = None,
    optional: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Streams that a video may lack, with a reason that is kept (sound and words may, unless required).",
            rich_help_panel=MODELS,
        ),
    ] = None,
    require: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Streams that no video may lack: without one it is rejected.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="For all streams: 'random' (seeded, for dry runs).", rich_help_panel=MODELS),
    ] = None,
    clip_model: Annotated[
        str | None, typer.Option(help="open_clip model (default: ViT-B-32).", rich_help_panel=MODELS)
    ] = None,
    clip_weights: Annotated[
        str | None, typer.Option(help="Tag, FILE or 'random' (default: openai).", rich_help_panel=MODELS)
    ] = None,
    clip_tag: Annotated[
        str | None, typer.Option(help="Published tag whose weights the FILE holds.", rich_help_panel=MODELS)
    ] = None,
    slowfast_weights: Annotated[
        str | None,
        typer.Option(help="kinetics400, FILE or 'random' (default: kinetics400).", rich_help_panel=MODELS),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random weights.", rich_help_panel=MODELS)] = 0,
    clip_fps: Annotated[
        float | None, typer.Option(help="CLIP frames per second (default: 2).", rich_help_panel=MODELS)
    ] = None,
    slowfast_stride: Annotated[
        int | None,
        typer.Option(
            help="15 fps samples between SlowFast windows of 32 (default: 32).", rich_help_panel=MODELS
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, several (cuda:0,cuda:1) or all.", rich_help_panel=MODELS)
    ] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16.", rich_help_panel=MODELS)] = "auto",
    runtime: Annotated[
        str,
        typer.Option(
            help="torch, openvino (CPU), compile (CUDA, as --gpu-engine compile); auto: openvino where installed, else torch.",
            rich_help_panel=MODELS,
        ),
    ] = "auto",
    gpu_engine: Annotated[
        str, typer.Option(help="On CUDA: graph (recorded once), eager, compile.", rich_help_panel=MODELS)
    ] = "graph",
    batch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STREAM=N", help="Windows a forward pass, by stream (repeatable).", rich_help_panel=MODELS
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Stored values: float16 or float32.", rich_help_panel=MODELS)
    ] = "float16",
    decoder: Annotated[
        str, typer.Option(help="pyav, decord or opencv; PyAV takes over per video.", rich_help_panel=DECODING)
    ] = "pyav",
    workers: Annotated[
        int, typer.Option(help="Decode processes; 0: one a core, as memory allows.", rich_help_panel=DECODING)
    ] = 0,
    deadline: Annotated[
        float,
        typer.Option(
            help="Seconds without a sign of life until a decode is given up.", rich_help_panel=DECODING
        ),
    ] = 60.0,
    worker_memory: Annotated[
        float, typer.Option(help="GiB a decoder may use.", rich_help_panel=DECODING)
    ] = 4.0,
    memory: Annotated[
        float,
        typer.Option(
            help="GiB for all decoders together; 0: half of what is free.", rich_help_panel=DECODING
        ),
    ] = 0.0,
    max_decode_errors: Annotated[
        float, typer.Option(help="Share of damaged frames a video may have.", rich_help_panel=DECODING)
    ] = 0.2,
    min_seconds: Annotated[
        float, typer.Option(help="Reject shorter videos.", rich_help_panel=DECODING)
    ] = 0.0,
    max_rejects: Annotated[
        float,
        typer.Option(
            help="Share of rejected inputs up to which the exit code is 0.", rich_help_panel=OUTCOME
        ),
    ] = 0.1,
    duplicates: Annotated[
        str, typer.Option(help="keep or reject videos with the bytes of another.", rich_help_panel=OUTCOME)
    ] = "keep",
    retry_rejects: Annotated[
        bool,
        typer.Option(
            help="Try all rejects again, not only those of passing trouble.", rich_help_panel=OUTCOME
        ),
    ] = False,
    redo: Annotated[
        str,
        typer.Option(
            help="Extract stored videos again: 'affected' (by older decoding rules) or 'all'.",
            rich_help_panel=OUTCOME,
        ),
    ] = "",
    allow_library_mismatch: Annotated[
        bool, typer.Option(help="Add to a cache made with other library versions.", rich_help_panel=OUTCOME)
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where the time went.", rich_help_panel=OUTCOME)
    ] = False,
    publish_seconds: Annotated[
        float,
        typer.Option(
            help="Into object storage: publish what is committed at most this often.",
            rich_help_panel=OUTCOME,
        ),
    ] = 60.0,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Extract this share of the source only; see onepass merge.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Which video is in which shard: what onepass plan wrote.", rich_help_panel=SOURCES),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="'ray' places shards on a cluster and merges them.", rich_help_panel=ENGINE)
    ] = "",
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster (default: $RAY_ADDRESS, else this machine).",
            rich_help_panel=ENGINE,
            show_default=False,
        ),
    ] = None,
    shards: Annotated[
        int, typer.Option(help="How many; 0: by the cluster's size.", rich_help_panel=ENGINE)
    ] = 0,
    retries: Annotated[
        int, typer.Option(help="How often a shard whose node died is begun again.", rich_help_panel=ENGINE)
    ] = 3,
    shard_gpus: Annotated[
        float,
        typer.Option(
            help="GPUs of a shard, such as 0.25; -1: one where there are any.", rich_help_panel=ENGINE
        ),
    ] = -1.0,
    scratch: Annotated[
        Path | None, typer.Option(help="Folder for copies of objects, else temp.", rich_help_panel=SOURCES)
    ] = None,
    scratch_gb: Annotated[
        float, typer.Option(help="GiB of copies, at most half of what is free.", rich_help_panel=SOURCES)
    ] = 8.0,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Probe only: what would be rejected, and why.", rich_help_panel=OUTCOME
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write the summary as JSON.", rich_help_panel=OUTCOME)
    ] = None,
) -> None:
    """Decode every video once and write the features of frozen backbones to a cache. Run it again to resume or to add videos."""
    from pipeline.config import ExtractConfig
    from pipeline.decoding.fetching import FetchSettings
    from pipeline.decoding.scratch import require_temp_folder
    from pipeline.run import extract

    require_temp_folder()
    if report is not None:
        require_output("--report", report)
    if not dry_run:
        require_cache_output("--out", out, remote=not engine)
    console = make_console()
    config = ExtractConfig(
        src=src,
        out=out,
        labels=labels,
        sources=sources,
        positive=positive,
        allow_unmatched=allow_unmatched,
        backbones=_backbones(
            _asked(streams, stream or [], recipe),
            weights=weights,
            clip_model=clip_model,
            clip_weights=clip_weights,
            clip_tag=clip_tag,
            slowfast_weights=slowfast_weights,
            seed=seed,
            clip_fps=clip_fps,
            slowfast_stride=slowfast_stride,
            device=device,
            precision=precision,
            runtime=runtime,
            batch=batch or [],
            gpu_engine=gpu_engine,
        ),
        dtype=dtype,  # type: ignore[arg-type]  # these words are checked there
        decoder=decoder,  # type: ignore[arg-type]
        pool=_pool(
            workers=workers, deadline=deadline, worker_memory=worker_memory, memory=memory, say=console.print
        ),
        max_error_share=max_decode_errors,
        min_seconds=min_seconds,
        max_rejects=max_rejects,
        duplicates=duplicates,  # type: ignore[arg-type]
        retry_rejects=retry_rejects,
        redo=redo,  # type: ignore[arg-type]
        profile=profile,
        ignore_libraries=allow_library_mismatch,
        shard=None if engine else _shard(shard, plan),
        optional=_names(optional),
        required=_names(require),
        transcripts=transcripts,
        keep_text=keep_text,
        publish_seconds=publish_seconds,
        fetch=FetchSettings.of(scratch, scratch_gb),
    )
    if not engine and (address is not None or shards):
        raise InputError(
            "--address, --shards N: place shards with --engine ray; one machine's share is --shard I/N"
        )
    if engine:
        from pipeline.engines.on_ray import RayEngine, extract_on_ray

        if engine != "ray":
            raise InputError(f"--engine {engine}: choose from ray")
        if shard is not None or dry_run:
            raise InputError("--engine ray makes all shards itself: leave --shard and --dry-run out")
        placing = RayEngine(address, shards, retries, shard_gpus)
        result = extract_on_ray(config, placing, console=console, plan=plan, workers=workers)
    elif dry_run:
        from pipeline.dry_run import dry_run as probe

        config.backbones.settled()  # streams that cannot be are refused, though none is made
        result = probe(config, console=console)
    else:
        result = extract(config, console=console)
    if not dry_run:
        console.print(f"{config.src} -> {result.out}")  # a rule would cut a long path
        for line in result.lines():
            console.print(line, highlight=False, markup=False)
    if report is not None:
        result.write(report)
        console.print(f"report     {report}", highlight=False, markup=False)
    conclude(result, config)


GOES_ON = "what was whole is committed; run the same command again to resume"


def conclude(result: ExtractReport, config: ExtractConfig, *, interrupted_says: str = GOES_ON) -> None:
    """Exit code of a run. Raises RejectLimitExceeded or typer.Exit where it is not 0. interrupted_says: what is left then."""
    if result.interrupted:
        typer.echo(f"interrupted: {interrupted_says}", err=True)
        raise typer.Exit(INTERRUPTED)
    if not result.adds_up:
        raise AssertionError(
            f"{result.stored} stored + {result.rejected} rejected is not {result.found} found"
        )
    if result.waiting:
        raise OnepassError(
            f"stream {', '.join(result.waiting)} was not attached to {result.out}: "
            f"{len(set().union(*result.waiting.values()))} stored videos could not be read this time and stand above; "
            "run the same command again when they can"
        )
    if result.reject_share > config.max_rejects:
        raise RejectLimitExceeded(
            f"{result.rejected} of {result.found} inputs were rejected ({result.reject_share:.1%}), over --max-rejects "
            f"{config.max_rejects:g}; the reasons stand above, raise the limit to accept them"
        )


def _names(given: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (given or "").split(",") if name.strip())


def _asked(streams: str | None, described: list[str], recipe: Path | None) -> list[Any]:
    """What is asked for, in order: named recipes, described streams, those of a file; the default where nothing is."""
    from pipeline.backbones.choice import DEFAULT_STREAMS, read_recipe

    named = [name.strip() for name in streams.split(",") if name.strip()] if streams is not None else []
    written = read_recipe(recipe) if recipe is not None else ()
    if streams is None and not described and not written:
        named = list(DEFAULT_STREAMS)
    return [*named, *described, *written]


def _backbones(asked: list[Any], *, batch: list[str], **settings: Any) -> Any:
    from pipeline.backbones.choice import require_flags_have_streams
    from pipeline.backbones.load import BackboneConfig, parse_batch_sizes

    found = BackboneConfig.of(asked, batch_sizes=parse_batch_sizes(batch), **settings)
    require_flags_have_streams(found.streams, settings)
    return found


def _shard(shard: str | None, plan: Path | None) -> Any:
    from pipeline.sources.shards import parse_shard

    if shard is None:
        if plan is not None:
            raise InputError(f"--plan {plan}: says who extracts what; name this machine's share, --shard I/N")
        return None
    return parse_shard(shard, plan)


def _pool(*, workers: int, deadline: float, worker_memory: float, memory: float, say: Any) -> Any:
    from pipeline.decoding.memory import asked_workers, fit_pool
    from pipeline.decoding.pool import PoolSettings

    n_workers = asked_workers(workers)
    for flag, value in (("--deadline", deadline), ("--worker-memory", worker_memory)):
        if not 0 < value < float("inf"):
            raise InputError(f"{flag} {value}: must be a positive number")
    if not 0 <= memory < float("inf"):
        raise InputError(f"--memory {memory}: GiB, 0 for half of what is free")
    asked = PoolSettings(
        workers=n_workers,
        deadline_seconds=deadline,
        worker_memory_bytes=int(worker_memory * (1 << 30)),
    )
    settings = fit_pool(asked, int(memory * (1 << 30)) if memory else None)
    if settings.workers < asked.workers:
        fewer = f"{settings.workers} of {asked.workers} decode workers"
        say(f"{fewer} fit into the memory budget", highlight=False)
    return settings


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command(name="extract")(extract_command)


def main() -> None:
    """Entry point of `extract`."""
    run_app(app)
