from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from cache.errors import InputError
from heads.cli.ablate import ablate_command

app = typer.Typer()
app.command()(ablate_command)
QUICK = ["--set", "epochs=1", "--set", "batch_size=16", "--resamples", "20", "--jobs", "1", "--seeds", "1"]


def ablate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_grid_is_trained_ranked_and_written(toy_path: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("model: [linear, mlp]\n")
    arguments = (
        "--features",
        toy_path,
        "--grid",
        grid,
        "--set",
        "lr=1e-3,1e-2",
        *QUICK,
        "--out",
        tmp_path / "out",
    )
    result = ablate(*arguments, "--baseline", "model=mlp lr=1e-3")
    assert result.exit_code == 0, result.output
    assert "in every cell: epochs=1 batch_size=16" in result.output
    assert "4 cells, 4 runs, 0 of them finished before" in result.output
    assert "RANDOM" in result.output
    assert (tmp_path / "out" / "leaderboard.csv").exists()
    page = (tmp_path / "out" / "leaderboard.html").read_text()
    assert re.search(r"<dt>command</dt><dd>onepass\b", page)
    again = ablate(*arguments)
    assert "4 runs, 4 of them finished before" in again.output
    assert "val AUROC" not in again.output


def test_labels_and_folds(toy_path: Path, tmp_path: Path) -> None:
    from cache.reader import open_cache

    labels = tmp_path / "labels.csv"
    with open_cache(toy_path) as cache:
        lines = [
            f"{i},{'harmful' if y else 'safe'}"
            for i, y in zip(cache.videos.id, cache.videos.label, strict=True)
        ]
    labels.write_text("\n".join(["id,label", *lines]))
    options = ("--features", toy_path, "--labels", labels, "--cv", "2", *QUICK, "--out", tmp_path / "out")
    result = ablate(*options)
    assert result.exit_code == 0, result.output
    assert "1 cells, 2 runs" in result.output
    assert "2 folds" in result.output


def test_a_search_without_a_grid(toy_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    options = ("--features", toy_path, "--set", "lr=1e-4..1e-2", "--search", "3", *QUICK, "--out", tmp_path)
    result = ablate(*options, "--metric", "f1")
    assert result.exit_code == 0, result.output
    assert "3 cells by F1" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "dropuot=1,2"], "did you mean model.dropout"),
        (["--set", "lr=1e-4..1e-2"], "--search"),
        (["--metric", "accuracy"], "--metric must be"),
        (["--set", "seed=0,1", "--seeds", "2"], "use one of the two"),
        (["--resamples", "-1"], "--resamples must be"),
        (["--device", "tpu"], "--device must be"),
        (["--cv", "1"], "number of folds"),
        (["--preset", "best"], "unknown preset"),
    ],
)
def test_mistakes_are_input_errors(
    toy_path: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = ablate("--features", toy_path, "--out", tmp_path, *arguments)
    assert isinstance(result.exception, Exception)
    assert message in str(result.exception)
    assert isinstance(result.exception, InputError)


def test_the_leaderboard_of_another_sweep_is_not_replaced(toy_path: Path, tmp_path: Path) -> None:
    def swept(*settings: str) -> Result:
        return ablate("--features", toy_path, "--out", tmp_path, *settings, *QUICK)

    assert swept("--set", "lr=1e-3,1e-2", "--set", "model=linear").exit_code == 0
    before = (tmp_path / "leaderboard.csv").read_bytes()
    for settings in (["--set", "dropout=0,0.1"], ["--set", "lr=1e-3,1e-2", "--cv", "2"]):
        error = swept(*settings).exception
        assert isinstance(error, InputError)
        assert "another sweep: lr=1e-3,1e-2, 2 cells, on the cache's own split" in str(error)
        assert settings[1] in str(error).split("this one is")[1]
    assert (tmp_path / "leaderboard.csv").read_bytes() == before
    more = swept("--set", "lr=1e-3,1e-2,3e-3", "--set", "model=linear")
    assert "3 runs, 2 of them finished before" in more.output, more.output
    other = str(
        swept("--set", "lr=1e-3,1e-2,3e-3", "--set", "model=linear", "--set", "dropout=0.3").exception
    )
    assert "another sweep of lr=1e-3,1e-2,3e-3, 3 cells" in other and "by an earlier version" in other
    assert "this one is" not in other, "which would be the same words"
    (tmp_path / "sweep.json").unlink()
    assert "earlier version" in str(swept("--set", "lr=1e-3,1e-2").exception)


def test_three_seeds_unless_the_seed_is_swept(toy_path: Path, tmp_path: Path) -> None:
    quick = ["--set", "epochs=1", "--set", "model=linear", "--resamples", "0", "--jobs", "1"]
    assert "1 cells, 3 runs" in ablate("--features", toy_path, "--out", tmp_path / "a", *quick).output
    swept = ablate("--features", toy_path, "--out", tmp_path / "b", "--set", "seed=0,1", *quick)
    assert "2 cells, 2 runs" in swept.output
