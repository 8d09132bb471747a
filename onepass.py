"""The `onepass` command: composes the two stages, which know nothing of each other."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cache.cli import convert_command, inspect_command
from cache.cli_errors import run_app
from cache.errors import InputError
from heads.cli import train_head_command
from heads.cli_ablate import ablate_command
from heads.cli_audit import audit_command
from heads.cli_export import export_onnx_command
from heads.cli_threshold import threshold_command
from pipeline.cli import conclude, extract_command
from pipeline.cli_verify import verify_command

if TYPE_CHECKING:
    from rich.console import Console

    from cache.reader import Cache
    from heads.timeline import Timeline
    from heads.trained import Predictions, TrainedHead
    from pipeline.config import ExtractConfig
    from pipeline.report import ExtractReport

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Decode every video once into a feature cache, then train violence-detection heads from it all day.",
)
app.command(name="extract")(extract_command)
app.command(name="train-head")(train_head_command)
app.command(name="audit")(audit_command)
app.command(name="ablate")(ablate_command)
app.command(name="threshold")(threshold_command)
app.command(name="export-onnx")(export_onnx_command)
app.command(name="inspect")(inspect_command)
app.command(name="verify")(verify_command)
app.command(name="convert")(convert_command)

CACHE_SUFFIXES = (".zarr", ".h5", ".hdf5")
SCORE_COLUMNS = ("id", "probability", "decision", "threshold", "weights", "reject_reason", "reject_detail")


@app.command()
def predict(
    paths: Annotated[list[Path], typer.Argument(help="Videos, folders, manifests, or existing caches.")],
    head: Annotated[Path, typer.Option(help="Folder of a trained head.")],
    out: Annotated[Path, typer.Option(help="Scores to write: .csv or .jsonl.")] = Path("scores.csv"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    workers: Annotated[int, typer.Option(help="Decode processes; 0: one a core.")] = 0,
    decoder: Annotated[str, typer.Option(help="pyav, decord or opencv.")] = "pyav",
    clip_weights: Annotated[str | None, typer.Option(help="FILE, where CLIP weights came from one.")] = None,
    slowfast_weights: Annotated[str | None, typer.Option(help="FILE, likewise for SlowFast.")] = None,
    max_rejects: Annotated[
        float, typer.Option(help="Share of rejects up to which the exit code is 0.")
    ] = 0.1,
    timeline: Annotated[
        Path | None, typer.Option(help="Also write the score over time, window by window: .csv or .json.")
    ] = None,
    timeline_method: Annotated[
        str, typer.Option(help="attention, sliding, or auto: attention where the head pools by it.")
    ] = "auto",
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
    from rich.console import Console

    from heads import TrainedHead

    if out.suffix not in (".csv", ".jsonl"):
        raise InputError(f"--out {out}: scores are written as .csv or .jsonl")
    if keep_cache is not None and len(paths) > 1:
        raise InputError("--keep-cache keeps the features of one path; give one path, or run once a path")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    trained = TrainedHead.load(head)
    console.print(f"head {head}: {trained.info.config.model.architecture}, weights {trained.info.weights}")
    caches = [path for path in paths if path.suffix in CACHE_SUFFIXES]
    sources = [path for path in paths if path not in caches]
    over_time = None
    if timeline is not None:
        over_time = _OverTime(timeline, timeline_method, timeline_window, trained)
    rows: list[dict[str, Any]] = []
    ends: list[tuple[ExtractReport, ExtractConfig]] = []
    for path in caches:
        rows += _score_cache(
            path, trained, console=console, ignore_libraries=allow_library_mismatch, over_time=over_time
        )
    if sources:
        base = _head_settings(
            trained,
            device=device,
            workers=workers,
            decoder=decoder,
            clip_weights=clip_weights,
            slowfast_weights=slowfast_weights,
            max_rejects=max_rejects,
        )
        with tempfile.TemporaryDirectory(prefix="onepass-predict-") as scratch:
            for number, path in enumerate(sources):
                config = replace(base, src=path, out=keep_cache or Path(scratch) / f"{number}.zarr")
                found, report = _score_source(
                    config,
                    trained,
                    console=console,
                    ignore_libraries=allow_library_mismatch,
                    over_time=over_time,
                )
                rows += found
                ends.append((report, config))
    _write_scores(out, rows)
    _print_scores(rows, trained, console)
    console.print(f"scores     {out}")
    if over_time is not None:
        console.print(over_time.write())
    for report, config in ends:
        conclude(report, config)


class _OverTime:
    """Scores over time of everything that predict scores, written at its end. Raises InputError for options
    that do not fit the head."""

    def __init__(self, path: Path, method: str, window_seconds: float | None, trained: TrainedHead) -> None:
        from heads.timeline_file import TimelineRequest

        self._request = TimelineRequest(path, method, window_seconds)  # type: ignore[arg-type]
        self._method = self._request.check(trained)
        self._trained = trained
        self._found: list[Timeline] = []

    def add(self, cache: Cache, *, ignore_libraries: bool) -> None:
        self._found += self._request.timelines(self._trained, cache, ignore_libraries=ignore_libraries)

    def write(self) -> str:
        from heads.timeline import MEANING
        from heads.timeline_file import write_timelines

        n_windows = write_timelines(self._request, self._found, self._trained)
        meaning = f"{self._method}: {MEANING[self._method]}"
        return f"timeline   {self._request.path}: {n_windows} windows of {len(self._found)} videos; {meaning}"


def _head_settings(
    trained: TrainedHead,
    *,
    device: str,
    workers: int,
    decoder: str,
    clip_weights: str | None,
    slowfast_weights: str | None,
    max_rejects: float,
) -> ExtractConfig:
    """The extraction that gives what the head was trained on."""
    from pipeline.backbones.load import config_from_fingerprints
    from pipeline.config import ExtractConfig
    from pipeline.pool import PoolSettings, default_workers

    backbones = config_from_fingerprints(
        {stream.name: stream.fingerprint for stream in trained.info.streams},
        device=device,
        clip_weights=clip_weights,
        slowfast_weights=slowfast_weights,
    )
    return ExtractConfig(
        src=Path(),
        out=Path("scratch.zarr"),
        backbones=backbones,
        allow_unmatched=True,
        decoder=decoder,  # type: ignore[arg-type]
        pool=PoolSettings(workers=workers or default_workers()),
        max_rejects=max_rejects,
    )


def _score_source(
    config: ExtractConfig,
    trained: TrainedHead,
    *,
    console: Console,
    ignore_libraries: bool,
    over_time: _OverTime | None,
) -> tuple[list[dict[str, Any]], ExtractReport]:
    from pipeline.run import extract

    report = extract(config, console=console)
    for line in report.lines():
        console.print(line)
    rows = _score_cache(
        config.out, trained, console=console, ignore_libraries=ignore_libraries, over_time=over_time
    )
    return rows, report


def _score_cache(
    path: Path,
    trained: TrainedHead,
    *,
    console: Console,
    ignore_libraries: bool,
    over_time: _OverTime | None,
) -> list[dict[str, Any]]:
    """A row a video and a row a reject. Raises FingerprintMismatch naming the fields."""
    from cache.reader import open_cache

    with open_cache(path) as cache:
        predictions = trained.predict(cache, ignore_libraries=ignore_libraries)
        rows = [_score_row(predictions, index) for index in range(len(predictions))]
        rejects = cache.rejects
        for video_id, reason, detail in zip(rejects.id, rejects.reason, rejects.detail, strict=True):
            empty = dict.fromkeys(SCORE_COLUMNS)
            rows.append(
                {**empty, "id": str(video_id), "reject_reason": str(reason), "reject_detail": str(detail)}
            )
        _print_agreement(cache.videos.label, predictions, console)
        if over_time is not None:
            over_time.add(cache, ignore_libraries=ignore_libraries)
    return rows


def _score_row(predictions: Predictions, index: int) -> dict[str, Any]:
    return {
        "id": predictions.ids[index],
        "probability": float(predictions.probabilities[index]),
        "decision": predictions.decisions[index],
        "threshold": predictions.threshold,
        "weights": predictions.weights,
        "reject_reason": None,
        "reject_detail": None,
    }


def _print_agreement(labels: Any, predictions: Predictions, console: Console) -> None:
    """Where the videos carry labels, how the decisions compare with them."""
    from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

    known = labels >= 0
    if not known.any():
        return
    truth, flagged = labels[known], predictions.flagged[known]
    scores = ", ".join(
        f"{name} {score(truth, flagged, **options):.4f}"
        for name, score, options in (
            ("accuracy", accuracy_score, {}),
            ("precision", precision_score, {"zero_division": 0}),
            ("recall", recall_score, {"zero_division": 0}),
            ("F1", f1_score, {"zero_division": 0}),
        )
    )
    console.print(f"against the labels of {int(known.sum())} videos, at the stored threshold: {scores}")


def _write_scores(out: Path, rows: list[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        if out.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, SCORE_COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    part.replace(out)


def _print_scores(rows: list[dict[str, Any]], trained: TrainedHead, console: Console) -> None:
    scored = [row for row in rows if row["reject_reason"] is None]
    positive = trained.info.label_names[1]
    flagged = sum(row["decision"] == positive for row in scored)
    console.print(
        f"scored {len(scored)} videos: {flagged} {positive} at threshold {trained.info.threshold.threshold:.4f}; "
        f"{len(rows) - len(scored)} rejected; weights {trained.info.weights}"
    )
    for row in sorted(scored, key=lambda row: -row["probability"])[:5]:
        console.print(f"  {row['probability']:.4f} {row['decision']} {row['id']}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the videos and all results.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(help="Seed of videos and training.")] = 0,
) -> None:
    """The main job end to end on videos it makes: extract, verify, train a head, score new video. Random weights."""
    from rich.console import Console

    from pipeline.demo_videos import make_demo_tree

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if (out / "videos").exists() and not (out / "demo").exists():
        raise InputError(f"{out} exists and is no demo folder: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "demo").touch()
    cache, head, scores = out / "demo.zarr", out / "head", out / "scores.csv"
    console.rule("1 of 5  videos", align="left")
    videos = make_demo_tree(out / "videos", videos_per_class_train=8, videos_per_class_val=4, seed=seed)
    console.print(f"made {videos}: two classes, and broken files that must end as rejects")
    steps = (
        ("2 of 5  extract", ["extract", "--src", str(videos), "--out", str(cache), "--weights", "random",
                             "--runtime", "torch", "--max-rejects", "0.2"]),
        ("3 of 5  verify", ["verify", str(cache), "--src", str(videos), "--sample", "2"]),
        ("4 of 5  train-head", ["train-head", "--features", str(cache), "--out", str(head), "--seed", str(seed)]),
        ("5 of 5  predict", ["predict", str(videos / "val"), "--head", str(head), "--out", str(scores),
                             "--max-rejects", "0.5"]),
    )  # fmt: skip
    for title, arguments in steps:
        console.rule(title, align="left")
        console.print(f"$ onepass {' '.join(arguments)}")
        app(arguments, standalone_mode=False)
    console.rule("done", align="left")
    console.print(
        "RANDOM weights throughout: the numbers above show that the machinery works, not that violence is found"
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
