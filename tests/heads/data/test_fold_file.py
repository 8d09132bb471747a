from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cache.errors import InputError, LabelError
from cache.reader import Cache, open_cache
from heads.ablation.grid import make_cells
from heads.ablation.sweep import Sweep
from heads.cli.run import train_from_cache
from heads.cli.train import build_config
from heads.data.dataset import DataConfig, load_dataset
from heads.data.fold_file import read_folds
from heads.data.splits import fold_splits
from heads.report.show import make_console
from heads.training.config import TrainConfig
from tests.heads.synthetic import toy_videos, write_cache

IDS = ("train/a_0.mp4", "train/b_0.mp4", "val/c_0.mp4", "val/d_0.mp4")


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_folds_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    file = write(tmp_path / "f.csv", "id,fold", "train/a_0.mp4,10", "b_0,2", "val/d_0.mp4,10", "nowhere,3")
    assert read_folds(file, IDS).numbers.tolist() == [2, 1, 0, 2]
    assert read_folds(file, IDS).notes == ("f.csv: 1 row matches no video: nowhere",)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id,split", "a_0,train"], "no fold for 'a_0'"),
        (["id,fold", "a_0,"], "no fold for 'a_0'"),
        (["id,fold", "a_0,nan", "b_0,1", "c_0,2"], "no fold for 'a_0'"),
        (["id,fold", "a_0,1", "b_0,1.0", "c_0,01"], "a single fold, '1'"),
        (["id,fold", "x,1", "y,2"], "no row matches a video, such as"),
        (["id,fold", "a_0,1", "b_0,1"], "a single fold, '1'"),
        (
            ["id,fold", "a_0,1", "b_0,2", "a_0,2"],
            r"contradict each other about train/a_0.mp4: .* says fold 1, .* says fold 2",
        ),
    ],
)
def test_files_that_give_no_folds(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises((InputError, LabelError), match=message):
        read_folds(write(tmp_path / "f.csv", *lines), IDS)


def folds_of(cache: Cache, path: Path, *, parted: bool = False) -> Path:
    """Three folds by source group, or by row, which parts the groups."""
    rows = [f"{i},{'abc'[(n if parted else n // 2) % 3]}" for n, i in enumerate(sorted(cache.videos.id))]
    return write(path, "id,fold", *rows)


@pytest.mark.usefixtures("without_figures")
def test_given_folds_are_used_as_they_are_and_kept(
    toy_cache: Cache, quick: TrainConfig, tmp_path: Path
) -> None:
    file = folds_of(toy_cache, tmp_path / "f.csv")
    out = tmp_path / "h"
    config = quick.updated({"model": "linear", "epochs": 1})
    train_from_cache(toy_cache, config, out=out, folds=file, console=make_console())
    with (out / "cross_validation.csv").open(newline="") as stream:
        found = {row["id"]: int(row["fold"]) for row in csv.DictReader(stream)}
    given = read_folds(file, tuple(found)).numbers
    assert list(found.values()) == given.tolist()
    assert read_folds(out / "cross_validation.csv", tuple(found)).numbers.tolist() == given.tolist()
    with pytest.raises(InputError, match="--folds gives 3 folds"):
        train_from_cache(toy_cache, config, out=out, folds=file, cv=5, console=make_console())


def test_a_sweep_takes_them_as_well(toy_cache: Cache, quick: TrainConfig, tmp_path: Path) -> None:
    file = folds_of(toy_cache, tmp_path / "f.csv")
    cells, _ = make_cells(quick, [])
    given = read_folds(file, sorted(toy_cache.videos.id)).numbers
    with Sweep(toy_cache, quick, out=tmp_path / "s", n_seeds=2, folds=file) as sweep:
        runs = sweep.plan(cells)
    assert len(runs) == 6
    assert all(set(given[run.scored]) == {(run.fold or 0) + 1} for run in runs)


def test_names_that_are_no_single_number_stay_apart(tmp_path: Path) -> None:
    """Days and seconds that agree in twelve digits were one fold, and 1_0 was 10."""
    folds = ["20240101120000", "20240101120001", "20240101120001.0", "1_0", "10", "1e1", "1.50", "1.5", "inf"]
    (tmp_path / "f.csv").write_text("id,fold\n" + "".join(f"v{n},{fold}\n" for n, fold in enumerate(folds)))
    given = read_folds(tmp_path / "f.csv", [f"v{n}" for n in range(len(folds))])
    assert given.numbers.tolist() == [4, 5, 5, 3, 2, 2, 1, 1, 6]


def test_a_sweep_says_which_rows_match_no_video(toy_cache: Cache, quick: TrainConfig, tmp_path: Path) -> None:
    file = folds_of(toy_cache, tmp_path / "f.csv")
    file.write_text(file.read_text() + "nowhere,c\n")
    cells, _ = make_cells(quick, [])
    with Sweep(toy_cache, quick, out=tmp_path / "s", n_seeds=1, folds=file) as sweep:
        board = sweep.leaderboard(cells, sweep.train(cells), n_resamples=0)
    assert "f.csv: 1 row matches no video: nowhere" in board.notes


def test_groups_in_several_given_folds_are_told_and_videos_without_one_refused(
    toy_cache: Cache, tmp_path: Path
) -> None:
    data = load_dataset(
        toy_cache, separate_streams=False, folds=folds_of(toy_cache, tmp_path / "f.csv", parted=True)
    )
    splits = fold_splits(data.labels, data.groups, given=data.given_folds)
    assert any("leak: 30 source groups are in several of the given folds" in note for note in splits[0].notes)
    assert data.given_folds is not None
    some = np.where(np.arange(60) < 5, 0, data.given_folds)
    with pytest.raises(LabelError, match="5 of 60 labelled videos are in none"):
        fold_splits(data.labels, data.groups, given=some)


@pytest.mark.usefixtures("without_figures")
def test_stored_splits_can_be_ignored(toy_cache: Cache, quick: TrainConfig, tmp_path: Path) -> None:
    data = load_dataset(toy_cache, separate_streams=False, config=DataConfig(ignore_splits=True))
    assert set(data.splits) == {""}
    config = build_config("default", {"data.ignore_splits": True, "epochs": 1, "model": "linear"}, ())
    head = train_from_cache(toy_cache, config, out=tmp_path / "h", console=make_console())
    assert "holdout" in head.info.trained_on["split"]
    assert "splits ignored" in (tmp_path / "h" / "report.html").read_text()


@pytest.mark.usefixtures("without_figures")
def test_the_commands_take_both(tmp_path: Path) -> None:
    import typer

    from heads.cli.ablate import ablate_command
    from heads.cli.train import train_head_command

    videos = toy_videos()
    path = write_cache(tmp_path / "c.zarr", videos)
    with open_cache(path) as cache:
        file = folds_of(cache, tmp_path / "f.csv")
    quick = ["--set", "epochs=1", "--set", "model=linear", "--set", "batch_size=16"]
    for command, more in ((train_head_command, ()), (ablate_command, ("--seeds", "1", "--resamples", "0"))):
        app = typer.Typer()
        app.command()(command)
        words = [
            "--features",
            path,
            "--out",
            tmp_path / command.__name__,
            "--folds",
            file,
            "--ignore-splits",
            *quick,
            *more,
        ]
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        assert "3 folds" in result.output
