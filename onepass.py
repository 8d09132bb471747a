"""The `onepass` command: composes the two stages, which know nothing of each other."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cache.cli import convert_command, export_command, inspect_command, sweep_command
from cache.errors import DeviceError, InputError, LimitReached, OnepassError, StorageFull
from cache.objects.store import as_location
from cache.process.ending import run_app
from cache.process.outputs import require_cache_output, require_output
from cache.process.terminal import make_console
from heads.cli.ablate import ablate_command
from heads.cli.audit import audit_command
from heads.cli.evaluate import evaluate_command
from heads.cli.export import export_onnx_command
from heads.cli.probe import probe_command
from heads.cli.threshold import threshold_command
from heads.cli.train import train_head_command
from pipeline.cli.extract import GOES_ON, conclude, extract_command
from pipeline.cli.imports import import_command
from pipeline.cli.merge import merge_command
from pipeline.cli.plan import plan_command
from pipeline.cli.streams import streams_command
from pipeline.cli.verify import verify_command

if TYPE_CHECKING:
    from rich.console import Console

    from heads.report.score_sheet import ScoreSheet
    from heads.trained.head import TrainedHead
    from pipeline.backbones.base import Backbone
    from pipeline.config import ExtractConfig
    from pipeline.decoding.scratch import ScratchFolder
    from pipeline.reporting.report import ExtractReport

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Decode every video once into a feature cache, then train violence-detection heads from it all day.",
)
app.command(name="extract")(extract_command)
app.command(name="train-head")(train_head_command)
app.command(name="evaluate")(evaluate_command)
app.command(name="probe")(probe_command)
app.command(name="audit")(audit_command)
app.command(name="ablate")(ablate_command)
app.command(name="threshold")(threshold_command)
app.command(name="export-onnx")(export_onnx_command)
app.command(name="inspect")(inspect_command)
app.command(name="verify")(verify_command)
app.command(name="plan")(plan_command)
app.command(name="streams")(streams_command)
app.command(name="convert")(convert_command)
app.command(name="import")(import_command)
app.command(name="export")(export_command)
app.command(name="merge")(merge_command)
app.command(name="sweep")(sweep_command)

FEATURES_DROPPED = "the scores of what was whole are written, its features are dropped; --keep-cache keeps them for the next run"

CACHE_SUFFIXES = (".zarr", ".h5", ".hdf5")


@app.command()
def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Videos, folders, manifests, or existing caches; s3://, gs:// or az:// addresses too."
        ),
    ],
    head: Annotated[Path, typer.Option(help="Folder of a trained head.")],
    out: Annotated[Path, typer.Option(help="Scores to write: .csv or .jsonl.")] = Path("scores.csv"),
    device: Annotated[
        str,
        typer.Option(
            help="auto, cpu, cuda, several (cuda:0,cuda:1) or all; precision and runtime are those of the head's features."
        ),
    ] = "auto",
    workers: Annotated[int, typer.Option(help="Decode processes; 0: one a core.")] = 0,
    decoder: Annotated[str, typer.Option(help="pyav, decord or opencv.")] = "pyav",
    weights_file: Annotated[
        list[str] | None,
        typer.Option(metavar="STREAM=FILE", help="Where weights that came from a file lie (repeatable)."),
    ] = None,
    clip_weights: Annotated[str | None, typer.Option(help="Short for --weights-file clip=FILE.")] = None,
    slowfast_weights: Annotated[
        str | None, typer.Option(help="Short for --weights-file slowfast=FILE.")
    ] = None,
    max_rejects: Annotated[
        float, typer.Option(help="Share of rejects up to which the exit code is 0.")
    ] = 0.1,
    transcripts: Annotated[
        Path | None, typer.Option(help="Words of the videos: a folder or a manifest, as extract takes it.")
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="Also write the score over time, window by window: .csv or .json.")
    ] = None,
    timeline_method: Annotated[
        str,
        typer.Option(
            help="sliding: the probability of each window alone; or attention: where the head looked."
        ),
    ] = "sliding",
    timeline_window: Annotated[
        float | None,
        typer.Option(help="Seconds of a sliding window; left out: one token.", show_default=False),
    ] = None,
    keep_cache: Annotated[Path | None, typer.Option(help="Keep the features here (one path only).")] = None,
    allow_library_mismatch: Annotated[
        bool, typer.Option(help="Accept features made with other library versions.")
    ] = False,
) -> None:
    """Score videos with a trained head: extract with the head's own settings, apply its stored threshold."""
    from heads.trained.folder import require_head

    require_head(head)
    from heads import TrainedHead
    from heads.report.score_file import require_score_file
    from heads.report.score_sheet import ScoreSheet
    from heads.report.timeline_file import OverTime, TimelineRequest

    require_score_file(out)
    caches = [path for path in paths if path.suffix.lower() in CACHE_SUFFIXES]
    sources = [path for path in paths if path not in caches]
    if keep_cache is not None:
        if len(paths) > 1 or caches:
            raise InputError(
                "--keep-cache keeps the features of one path of videos; give one, or run once a path"
            )
        require_cache_output("--keep-cache", keep_cache)
    console = make_console()
    trained = TrainedHead.load(head)
    console.print(f"head {head}: {trained.info.config.model.architecture}, weights {trained.info.weights}")
    over_time = None
    if timeline is not None:
        require_output("--timeline", timeline)
        request = TimelineRequest(timeline, timeline_method, timeline_window)  # type: ignore[arg-type]
        over_time = OverTime(request, trained)
    sheet = ScoreSheet(trained, out, console, over_time, ignore_libraries=allow_library_mismatch)
    sheet.require_fits(caches)
    run = _Scoring(trained, sheet, console)
    if not sources:
        run.score(caches)
        return
    from pipeline.backbones.load import weights_files
    from pipeline.decoding.scratch import PREDICT_PREFIX, ScratchFolder, require_temp_folder

    base = _head_settings(
        trained,
        device=device,
        workers=workers,
        decoder=decoder,
        files=weights_files(weights_file or [], clip=clip_weights, slowfast=slowfast_weights),
        max_rejects=max_rejects,
        transcripts=transcripts,
    )
    require_temp_folder()
    run.load_backbones(base, sources, ignore_libraries=allow_library_mismatch)
    with ScratchFolder(PREDICT_PREFIX) as scratch:
        configs = [
            replace(base, src=path, out=keep_cache or scratch.path / f"{number}.zarr")
            for number, path in enumerate(sources)
        ]
        run.score(caches, configs, scratch=scratch)


@app.command(name="zero-shot")
def zero_shot_command(
    cache: Annotated[Path, typer.Argument(help="The cache to score.")],
    stream: Annotated[str, typer.Option(help="A stream of the kind open_clip.")],
    positive: Annotated[
        list[str],
        typer.Option(help="What the positive class looks like, in words (repeatable: an ensemble)."),
    ],
    negative: Annotated[list[str], typer.Option(help="What the negative class looks like (repeatable).")],
    out: Annotated[Path, typer.Option(help="Scores to write: .csv.")] = Path("scores.csv"),
    weights_file: Annotated[
        list[str] | None,
        typer.Option(metavar="STREAM=FILE", help="Where weights that came from a file lie."),
    ] = None,
    clip_weights: Annotated[str | None, typer.Option(help="Short for --weights-file clip=FILE.")] = None,
) -> None:
    """Score stored image features against words, by the text tower of the model that made them; nothing is trained."""
    from cache.lock import note_writers
    from cache.process.outputs import write_output
    from cache.reader import open_cache
    from heads.report.zero_shot import score_table, summary_lines
    from pipeline.backbones.load import weights_files
    from pipeline.zero_shot import require_scorable, text_sides, zero_shot

    if out.suffix != ".csv":
        raise InputError(f"--out {out}: scores are written as .csv")
    require_output("--out", out)
    console = make_console()
    note_writers(cache)
    with open_cache(cache) as opened:
        fields = require_scorable(opened, stream)
        file = weights_files(weights_file or [], clip=clip_weights).get(stream)
        sides = text_sides(stream, fields, positive=positive, negative=negative, file=file)
        found = zero_shot(opened, stream, sides)
        for note in sides.notes:
            console.print(f"note: {note}")
        write_output("--out", out, score_table(opened, stream, found.mean, found.highest))
        for line in summary_lines(opened, stream, found.mean, found.highest):
            console.print(line)
    console.print(f"scores     {out}")


def predict_videos(
    head: str | Path | TrainedHead,
    paths: Sequence[str | Path],
    *,
    device: str = "auto",
    workers: int = 0,
    weights_files: Mapping[str, str] | None = None,
    transcripts: str | Path | None = None,
    on_line: Callable[[str], object] | None = None,
) -> list[dict[str, Any]]:
    """Score videos with a trained head, from Python: what `onepass predict` writes, as one mapping a video.

    >>> for row in predict_videos("heads-out/first", ["new_clips"]):  # doctest: +SKIP
    ...     print(row["id"], row["probability"], row["decision"])

    paths: videos, folders or manifests, extracted with the head's own settings into a folder that is removed. weights_files:
    where weights that came from a file lie now, by stream. transcripts: words, as the command takes them. on_line: called with
    every line that the extraction prints. A video that was rejected has no score: its row has the reason. Raises an OnepassError
    as the command does.
    """
    from cache.reader import open_cache
    from heads import TrainedHead
    from heads.report.score_file import score_rows
    from pipeline import run_config
    from pipeline.decoding.scratch import PREDICT_PREFIX, ScratchFolder, require_temp_folder

    trained = head if isinstance(head, TrainedHead) else TrainedHead.load(head)
    base = _head_settings(
        trained,
        device=device,
        workers=workers,
        decoder="pyav",
        files=weights_files,
        max_rejects=1.0,
        transcripts=None if transcripts is None else Path(transcripts),
    )
    require_temp_folder()
    rows: list[dict[str, Any]] = []
    with ScratchFolder(PREDICT_PREFIX) as scratch:
        for number, path in enumerate(map(as_location, paths)):
            config = replace(base, src=path, out=scratch.path / f"{number}.zarr")
            run_config(config, on_line=on_line)
            with open_cache(config.out) as cache:
                rows += score_rows(trained.predict(cache), cache, path=str(path))
    return rows


class _Scoring:
    """Scores path after path. What was scored is written whatever comes after it; a path that fails is named at the end."""

    def __init__(self, trained: TrainedHead, sheet: ScoreSheet, console: Console) -> None:
        self._trained, self._sheet, self._console = trained, sheet, console
        self._failed: list[tuple[Path | str, OnepassError]] = []
        self._backbones: dict[str, Backbone] = {}

    def load_backbones(self, config: ExtractConfig, sources: list[Path], *, ignore_libraries: bool) -> None:
        """Load the models once, for all sources. Raises for a source that holds no video, and for models that make other

        features than the head reads.
        """
        from cache.fingerprint import require_same
        from pipeline.backbones.load import load_backbones
        from pipeline.config import full_fingerprint
        from pipeline.sources.tree import discover

        sound = config.takes_sound_files()
        for path in sources:
            discover(as_location(path), sound=sound)
        self._backbones = load_backbones(config.backbones)
        for stream in self._trained.info.streams:
            require_same(
                stream.fingerprint,
                full_fingerprint(self._backbones[stream.name]),
                where="what this machine makes",
                ignore_libraries=ignore_libraries,
            )

    def score(
        self,
        caches: list[Path],
        configs: Sequence[ExtractConfig] = (),
        *,
        scratch: ScratchFolder | None = None,
    ) -> None:
        """Score all, write the scores. Raises the first failure with its exit code, or as `pipeline.cli.extract.conclude`."""
        from cache.lock import note_writers

        ends: list[tuple[ExtractReport, ExtractConfig]] = []
        note_writers(*caches)
        try:
            for path in caches:
                with self._naming_failures(path):
                    self._sheet.add(path, path)
            for config in configs:
                with self._naming_failures(config.src):
                    ends.append((self._extract(config, scratch), config))
                    self._sheet.add(config.out, config.src)
                if ends and ends[-1][0].interrupted:
                    break
        except BaseException:
            if self._sheet.rows:
                self._sheet.write()
            raise
        if self._failed and not self._sheet.rows:
            raise self._failed[0][1]
        stopped = bool(ends) and ends[-1][0].interrupted
        try:
            if self._sheet.rows or not stopped:
                self._sheet.write()
        except OnepassError as error:
            if not ends:
                raise
            if scratch is not None and ends[0][1].out.is_relative_to(scratch.path):
                scratch.keep()
            kept = ", ".join(str(config.out) for _, config in ends)
            raise type(error)(
                f"{error}. The features are kept: give predict {kept} in place of the videos"
            ) from error
        for report, config in ends:
            if report.interrupted or not self._failed:
                stays = scratch is None or not config.out.is_relative_to(scratch.path)
                conclude(report, config, interrupted_says=GOES_ON if stays else FEATURES_DROPPED)
        if self._failed:
            given, failure = self._failed[0]
            n_paths = len(caches) + len(configs)
            raise type(failure)(
                f"{given}: {failure} ({len(self._failed)} of {n_paths} paths failed; what was scored is in {self._sheet.out})"
            )

    def _extract(self, config: ExtractConfig, scratch: ScratchFolder | None) -> ExtractReport:
        from pipeline.decoding.scratch import TEMP_FULL
        from pipeline.run import extract

        dropped = scratch is not None and config.out.is_relative_to(scratch.path)
        try:
            report = extract(config, console=self._console, backbones=self._backbones)
        except (StorageFull, LimitReached, DeviceError) as error:
            with contextlib.suppress(OnepassError):  # what was whole by then
                self._sheet.add(config.out, config.src)
            if dropped and isinstance(error, StorageFull):
                raise StorageFull(TEMP_FULL.format(config.out.parent.parent)) from error
            raise
        for line in report.lines(rejects_in=self._sheet.out if dropped else None):
            self._console.print(line)
        return report

    @contextlib.contextmanager
    def _naming_failures(self, path: Path | str) -> Iterator[None]:
        """A path that fails does not keep the others from being scored; a full disk or a limit would."""
        try:
            yield
        except (StorageFull, LimitReached) as error:
            self._failed.append((path, error))
            if not self._sheet.rows:
                raise
        except OnepassError as error:
            self._failed.append((path, error))
            typer.echo(f"failed: {path}: {error}", err=True)


def _head_settings(trained: TrainedHead, **settings: Any) -> ExtractConfig:
    """The extraction that gives what the head was trained on. settings: as `config_like`."""
    from pipeline.config import config_like

    streams = trained.info.streams
    optional = [stream.name for stream in streams if stream.optional]
    return config_like({stream.name: stream.fingerprint for stream in streams}, optional=optional, **settings)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the videos and all results.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(help="Seed of videos and training.")] = 0,
) -> None:
    """The main job end to end on videos it makes: extract, verify, train a head, score new video."""
    from pipeline.demo_videos import make_demo_folder, make_demo_tree

    console = make_console()
    if not 0 <= seed < 2**31:
        raise InputError(f"--seed {seed}: between 0 and 2^31 - 1")
    make_demo_folder(out)
    cache, head, scores = out / "demo.zarr", out / "head", out / "scores.csv"
    console.rule("1 of 5  videos", align="left")
    videos = make_demo_tree(out / "videos", videos_per_class_train=8, videos_per_class_val=4, seed=seed)
    console.print(f"made {videos}: two classes, and broken files that must end as rejects")
    steps = (
        ("2 of 5  extract", ["extract", "--src", str(videos), "--out", str(cache), "--streams", "image,motion,clip,slowfast",
                             "--clip-weights", "random", "--slowfast-weights", "random", "--runtime", "torch",
                             "--max-rejects", "0.2"]),
        ("3 of 5  verify", ["verify", str(cache), "--src", str(videos), "--sample", "2"]),
        ("4 of 5  train-head", ["train-head", "--features", str(cache), "--out", str(head), "--seed", str(seed)]),
        ("5 of 5  predict", ["predict", str(videos / "val"), "--head", str(head), "--out", str(scores),
                             "--max-rejects", "0.5"]),
    )  # fmt: skip
    for title, arguments in steps:
        console.rule(title, align="left")
        console.print(f"$ onepass {' '.join(arguments)}")
        if code := app(arguments, standalone_mode=False):
            raise typer.Exit(code)
    console.rule("done", align="left")
    console.print(
        "image has pretrained weights (ImageNet), motion needs none, clip and slowfast are RANDOM here. The videos are drawn: "
        "that a head tells them apart shows that the machinery works, not that violence is found"
    )
    for name, path in (
        ("cache", cache),
        ("head", head),
        ("confusion matrix", head / "confusion_matrix.png"),
        ("scores", scores),
    ):
        if not path.exists():
            raise AssertionError(f"the demo should have made {path}")
        console.print(f"{name:<17}{path}")


def main() -> None:
    """Entry point of `onepass`.

    A command that is named is run as an app of its own: reading the signatures of all and passing through a group takes typer a
    third of a second.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    for command in app.registered_commands:
        if command.callback is not None and name == (command.name or command.callback.__name__):
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.registered_commands = [command]
            run_app(alone, args=sys.argv[2:], prog_name=f"onepass {name}")
    run_app(app)


if __name__ == "__main__":
    main()
