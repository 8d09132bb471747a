from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from cache.reader import Cache
from heads.ablation.grid import make_cells, read_axes
from heads.ablation.leaderboard import Leaderboard
from heads.ablation.leaderboard_figures import _effect_panel
from heads.ablation.leaderboard_files import leaderboard_csv, leaderboard_html, write_leaderboard
from heads.ablation.show import progress_line, show_leaderboard
from heads.ablation.sweep import Progress, Sweep
from heads.report.show import make_console
from heads.training.config import TrainConfig


@pytest.fixture(scope="module")
def swept(toy_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Leaderboard, list[Progress]]:
    from cache.reader import open_cache

    base = TrainConfig().updated({"epochs": 2, "batch_size": 16})
    cells, _ = make_cells(base, read_axes(["lr=1e-3,1e-2", "model=linear,mlp"]))
    seen: list[Progress] = []
    with (
        open_cache(toy_path) as cache,
        Sweep(cache, base, out=tmp_path_factory.mktemp("sweep"), n_seeds=2) as sweep,
    ):
        return sweep.leaderboard(cells, sweep.train(cells, on_run=seen.append), n_resamples=50), seen


class Page(HTMLParser):
    """Every reference, and the cells of the table's rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open_tags: list[str] = []
        self.n_rows = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        self.n_rows += tag == "tr"


def test_the_page_stands_alone(swept: tuple[Leaderboard, list[Progress]]) -> None:
    board, _ = swept
    text = leaderboard_html(board, command="onepass ablate <b>").decode()
    page = Page(text)
    assert page.n_rows == 1 + 4 + 4
    assert len(page.references) == 3
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not re.search(
        r"https?://(?!www\.w3\.org)", re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    )
    assert "RANDOM backbone weights" in text
    assert "random (seed 0)" in text
    assert "onepass ablate &lt;b&gt;" in text
    for row in (*board.rows, *board.floors):
        assert f"{row.scores['auroc']:.3f}" in text


def test_a_table_wider_than_the_page_scrolls(swept: tuple[Leaderboard, list[Progress]]) -> None:
    text = leaderboard_html(swept[0]).decode()
    assert re.search(r"\.wide \{ overflow: auto;", text)
    assert text.count("<table") == text.count('<div class="wide"><table') == 1


def test_effects_are_drawn_with_the_interval_of_every_cell(swept: tuple[Leaderboard, list[Progress]]) -> None:
    board, _ = swept
    axes = Figure().subplots()
    _effect_panel(axes, board, board.rows, "optim.lr")
    drawn = {
        (float(low), float(high))
        for bars in axes.collections
        if isinstance(bars, LineCollection)
        for (_, low), (_, high) in bars.get_segments()
    }
    assert drawn == {(row.interval.low, row.interval.high) for row in board.rows if row.interval}
    assert len(drawn) == 4


def test_the_csv_has_a_line_a_cell_and_a_floor(swept: tuple[Leaderboard, list[Progress]]) -> None:
    board, _ = swept
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(board).decode())))
    assert [row["kind"] for row in rows] == ["cell"] * 4 + ["floor"] * 4
    assert [row["rank"] for row in rows[:4]] == ["1", "2", "3", "4"]
    for row, shown in zip(rows, board.rows, strict=False):
        assert row["setting:optim.lr"] == dict(shown.settings)["optim.lr"]
        assert float(row["auroc"]) == shown.scores["auroc"]
        assert float(row["seconds"]) == pytest.approx(shown.seconds, abs=1e-3)
        assert row["random_weights"] == "1"
        assert row["runs"] == "2"
        assert "clip:" in row["fingerprint"]
    assert sum(row["baseline"] == "1" for row in rows) == 1


def test_one_cell_alone_is_a_leaderboard(toy_cache: Cache, quick: TrainConfig, tmp_path: Path) -> None:
    cells, _ = make_cells(quick.updated({"epochs": 1}), [])
    with Sweep(toy_cache, quick, out=tmp_path, n_seeds=1) as sweep:
        board = sweep.leaderboard(cells, sweep.train(cells), n_resamples=0)
    written = write_leaderboard(board, tmp_path)
    assert sorted(path.name for path in written.values()) == ["leaderboard.csv", "leaderboard.html"]
    assert "the base settings" in written["page"].read_text()


def test_the_terminal_says_the_same(
    swept: tuple[Leaderboard, list[Progress]], capsys: pytest.CaptureFixture[str]
) -> None:
    board, seen = swept
    show_leaderboard(make_console(), board)
    shown = capsys.readouterr().out
    for row in (*board.rows, *board.floors):
        assert f"{row.scores['auroc']:.3f}" in shown
    assert "baseline" in shown
    assert "floor mean-pooled of clip+slowfast" in shown
    assert "RANDOM" in shown
    line = progress_line(seen[0])
    assert line.startswith("[1/8] lr=")
    assert "val AUROC" in line
