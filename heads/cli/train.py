"""The `train-head` command. Heavy imports wait until the arguments are understood."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cache.errors import InputError
from cache.process.ending import run_app
from cache.process.outputs import require_output_folder
from heads.cli.labels import join_given

if TYPE_CHECKING:
    from heads.train import Ensemble
    from heads.training.config import TrainConfig
    from heads.training.device import Device

DATA, MODEL, LOSS = "Data", "Model", "Loss and imbalance"
TRAINING, DECISION, REPORT = "Training", "Threshold and selection", "Report"


def _text(help_text: str, panel: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=False)


_SETTING: Any = typer.Option(hidden=True)
"""A setting with a flag of its own, which --set KEY=VALUE and --help-settings have as well."""


def print_settings(asked: bool) -> None:
    """Every setting of --set with what it may be, as the configs say it, and end."""
    if not asked:
        return
    import textwrap

    from heads.training.config import all_settings

    for setting in all_settings():
        typer.echo(f"{setting.key}={setting.default}   ({setting.values})")
        typer.echo(textwrap.fill(setting.about, 100, initial_indent="    ", subsequent_indent="    "))
    raise typer.Exit


def train_head_command(
    features: Annotated[
        list[Path], _text("Cache, .zarr or .h5, or its s3:// address; several may follow.", DATA)
    ],
    more: Annotated[list[Path] | None, typer.Argument(hidden=True, metavar="[CACHE]...")] = None,
    out: Annotated[Path | None, _text("Folder to write (default: heads-out/CACHE-MODEL).", DATA)] = None,
    labels: Annotated[
        Path | None, _text("Labels that replace those of the cache: .csv, .tsv, .json, .jsonl.", DATA)
    ] = None,
    positive: Annotated[str | None, _text("Name of the positive class in --labels.", DATA)] = None,
    allow_unmatched: Annotated[
        bool,
        typer.Option(
            "--allow-unmatched", help="Go on without labels that match no video.", rich_help_panel=DATA
        ),
    ] = False,
    ignore_libraries: Annotated[
        bool,
        typer.Option(
            "--allow-library-mismatch", help="Join caches of other library versions.", rich_help_panel=DATA
        ),
    ] = False,
    streams: Annotated[str | None, _text("Streams, comma-separated (default: all).", DATA)] = None,
    grid: Annotated[str | None, _SETTING] = None,
    val_share: Annotated[float | None, _SETTING] = None,
    ignore_splits: Annotated[
        bool,
        typer.Option("--ignore-splits", help="As if the cache stored no splits.", rich_help_panel=DATA),
    ] = False,
    preset: Annotated[str, typer.Option(help="default or final-model-4.", rich_help_panel=MODEL)] = "default",
    model: Annotated[
        str | None,
        _text(
            "auto (a few compared out of fold; the default), logistic, mlp, conv, attention-pool, transformer, fusion or linear.",
            MODEL,
        ),
    ] = None,
    pool: Annotated[str | None, _SETTING] = None,
    delta: Annotated[str | None, _SETTING] = None,
    join: Annotated[str | None, _SETTING] = None,
    depth: Annotated[int | None, _SETTING] = None,
    width: Annotated[int | None, _SETTING] = None,
    heads: Annotated[int | None, _SETTING] = None,
    dropout: Annotated[float | None, _SETTING] = None,
    stream_dropout: Annotated[float | None, _SETTING] = None,
    scaling: Annotated[str | None, _SETTING] = None,
    loss: Annotated[str | None, _SETTING] = None,
    pos_weight: Annotated[str | None, _SETTING] = None,
    focal_alpha: Annotated[str | None, _SETTING] = None,
    focal_gamma: Annotated[float | None, _SETTING] = None,
    label_smoothing: Annotated[float | None, _SETTING] = None,
    sampler: Annotated[str | None, _SETTING] = None,
    epochs: Annotated[int | None, _text("Passes over train.", TRAINING)] = None,
    lr: Annotated[float | None, _text("Learning rate.", TRAINING)] = None,
    batch_size: Annotated[int | None, _SETTING] = None,
    weight_decay: Annotated[float | None, _SETTING] = None,
    schedule: Annotated[str | None, _SETTING] = None,
    warmup_share: Annotated[float | None, _SETTING] = None,
    clip_norm: Annotated[str | None, _SETTING] = None,
    ema_decay: Annotated[str | None, _SETTING] = None,
    patience: Annotated[str | None, _SETTING] = None,
    precision: Annotated[str | None, _SETTING] = None,
    device: Annotated[
        str, typer.Option(help="auto (the CPU), cpu or cuda.", rich_help_panel=TRAINING)
    ] = "auto",
    seed: Annotated[int | None, _text("Of weights, order and dropout.", TRAINING)] = None,
    threshold_grid: Annotated[str | None, _SETTING] = None,
    objective: Annotated[
        str | None,
        _text("f1, fbeta, precision-at-recall, recall-at-precision or false-alarms-per-hour.", DECISION),
    ] = None,
    beta: Annotated[float | None, _SETTING] = None,
    floor: Annotated[float | None, _SETTING] = None,
    max_false_alarms_per_hour: Annotated[float | None, _SETTING] = None,
    selection: Annotated[str | None, _SETTING] = None,
    calibration: Annotated[str | None, _SETTING] = None,
    cv: Annotated[
        int | None,
        _text("Folds by source group that decide threshold and temperature (default: up to 5).", DECISION),
    ] = None,
    no_cv: Annotated[
        bool, typer.Option("--no-cv", help="val decides; no folds.", rich_help_panel=DECISION)
    ] = False,
    ensemble: Annotated[
        str | None,
        _text("Of the folds: their mean (folds) or one head on all videos (refit).", DECISION),
    ] = None,
    folds: Annotated[
        Path | None,
        _text(
            "File that names each video's fold (columns id, fold), in place of folds drawn here; sets --cv.",
            DECISION,
        ),
    ] = None,
    src: Annotated[
        Path | None, _text("Root of the videos: report.html shows the mistaken ones.", REPORT)
    ] = None,
    tensorboard: Annotated[Path | None, _text("Folder for TensorBoard (extra tensorboard).", REPORT)] = None,
    floor_scores: Annotated[
        list[str] | None,
        _text(
            "NAME=FILE: scores of something else as a floor, such as onepass zero-shot's (repeatable).",
            REPORT,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        _text("Any setting of --help-settings, KEY=VALUE; may be repeated.", TRAINING, "--set"),
    ] = None,
    help_settings: Annotated[
        bool,
        typer.Option(
            "--help-settings",
            help="Name every setting of --set, with its values, and end.",
            callback=print_settings,
            is_eager=True,
            rich_help_panel=TRAINING,
        ),
    ] = False,
) -> None:
    """Train a head from a feature cache: folds choose model and threshold, floors stand beside the result."""
    named = {
        "data.streams": streams,
        "data.grid": grid,
        "data.val_share": val_share,
        "data.ignore_splits": ignore_splits or None,
        "model.architecture": None if model == "auto" else model,
        "model.pool": pool,
        "model.delta": delta,
        "model.join": join,
        "model.depth": depth,
        "model.width": width,
        "model.n_heads": heads,
        "model.dropout": dropout,
        "model.stream_dropout": stream_dropout,
        "model.scaling": scaling,
        "loss.kind": loss,
        "loss.pos_weight": pos_weight,
        "loss.focal_alpha": focal_alpha,
        "loss.focal_gamma": focal_gamma,
        "loss.label_smoothing": label_smoothing,
        "optim.sampler": sampler,
        "optim.epochs": epochs,
        "optim.lr": lr,
        "optim.batch_size": batch_size,
        "optim.weight_decay": weight_decay,
        "optim.schedule": schedule,
        "optim.warmup_share": warmup_share,
        "optim.clip_norm": clip_norm,
        "optim.ema_decay": ema_decay,
        "optim.patience": patience,
        "optim.precision": precision,
        "threshold.grid": threshold_grid,
        "threshold.objective": objective,
        "threshold.beta": beta,
        "threshold.floor": floor,
        "threshold.max_false_alarms_per_hour": max_false_alarms_per_hour,
        "selection": selection,
        "calibration": calibration,
        "seed": seed,
    }
    chosen_device = read_device(device)
    caches = [*features, *(more or ())]
    given = {k: v for k, v in named.items() if v is not None}
    config = build_config(preset, given, settings or ())
    auto = choose_auto(model, preset, config, no_cv=no_cv)
    if auto and not {"epochs", "optim.epochs"} & {*given, *(one.partition("=")[0] for one in settings or ())}:
        from heads.training.portfolio import EPOCHS

        config = config.updated({"epochs": EPOCHS})
    if (cv is not None or folds is not None) and no_cv:
        raise InputError(
            f"--{'cv' if folds is None else 'folds'} and --no-cv do not go together; leave one out"
        )
    if no_cv and ensemble is not None:
        raise InputError("--ensemble says what is stored of folds; leave out --no-cv")
    folder = out or Path("heads-out") / f"{caches[0].stem}-{'auto' if auto else config.model.architecture}"
    require_output_folder("--out", folder)
    if tensorboard is not None:
        require_output_folder("--tensorboard", tensorboard)
    from cache.lock import note_writers
    from cache.reader import open_cache
    from heads.scoring.floor_scores import parse_floor_files

    floor_files = parse_floor_files(floor_scores or ())
    note_writers(*caches)
    with open_cache(*caches, ignore_libraries=ignore_libraries) as cache:
        labelled = join_given(cache, labels, positive=positive, allow_unmatched=allow_unmatched, say=None)
        from heads.cli.run import train_from_cache

        train_from_cache(
            cache,
            config,
            out=folder,
            labels=labelled,
            device=chosen_device,
            cv=cv,
            folds=folds,
            no_cv=no_cv or (cv is None and preset != "default"),
            ensemble=read_ensemble(ensemble),
            auto=auto,
            src=src,
            tensorboard=tensorboard,
            floor_files=floor_files,
        )


def build_config(preset: str, named: dict[str, Any], settings: list[str] | tuple[str, ...]) -> TrainConfig:
    """A preset with options set. Raises InputError for an unknown preset or setting."""
    from heads.training.config import PRESETS

    if preset not in PRESETS:
        raise InputError(f"unknown preset '{preset}'; known: {', '.join(PRESETS)}")
    values = dict(named)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set takes KEY=VALUE, got '{setting}'")
        values[key] = value
    return PRESETS[preset].updated(values)


def choose_auto(model: str | None, preset: str, config: TrainConfig, *, no_cv: bool) -> bool:
    """Whether models are compared: asked for, or nothing said about the model. Raises InputError where a model's
    options are given without the model.
    """
    from heads.training.config import PRESETS

    asked = model == "auto"
    if asked and no_cv:
        raise InputError("--model auto compares models on folds; name a model with --no-cv")
    if asked and preset != "default":
        raise InputError(f"--model auto and --preset {preset} do not go together; leave one out")
    if (model is not None or preset != "default" or no_cv) and not asked:
        return False
    if config.model.architecture != PRESETS["default"].model.architecture:
        return False  # named by --set
    if config.model != PRESETS["default"].model:
        raise InputError(
            "auto chooses the model with its pool, width and other options; name a --model to set one of them"
        )
    return True


def read_ensemble(name: str | None) -> Ensemble | None:
    """--ensemble as typed. Raises InputError for anything but folds and refit."""
    match name:
        case None | "folds" | "refit":
            return name
    raise InputError(f"--ensemble must be folds or refit, got '{name}'")


def read_device(name: str) -> Device:
    """--device as typed. Raises InputError for anything but auto, cpu and cuda."""
    match name:
        case "auto" | "cpu" | "cuda":
            return name
    raise InputError(f"--device must be auto, cpu or cuda, got '{name}'")


def main() -> None:
    """Entry point of `train-head`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(train_head_command)
    run_app(app)


if __name__ == "__main__":
    main()
