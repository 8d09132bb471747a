"""`--dry-run`: a forecast in numbers that add up, without weights, features or a cache."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from pipeline import dry_run as module
from pipeline.config import ExtractConfig, labelled_sources
from pipeline.decoding.pool import PoolSettings
from tests.pipeline import fakes
from tests.pipeline.trees import BAD, lock_folder, make_tree

pytestmark = pytest.mark.usefixtures("forked_workers")


def forecast(src: Path, out: Path, **pool: float) -> tuple[module.ExtractReport, str]:
    printed = io.StringIO()
    config = ExtractConfig(src=src, out=out, pool=PoolSettings(workers=2, **pool))  # type: ignore[arg-type]
    return module.dry_run(config, console=Console(file=printed, width=160)), printed.getvalue()


def test_what_would_be_rejected_is_listed_and_nothing_is_made(tmp_path: Path) -> None:
    src = make_tree(tmp_path / "data")
    report, printed = forecast(src, tmp_path / "c.zarr")
    assert {video_id: reason for video_id, (reason, _) in report.rejects.items()} == BAD
    assert (report.found, report.not_reached, report.rejected) == (8, 5, 3)
    assert report.adds_up and report.stored == 0
    for video_id, reason in BAD.items():
        assert video_id in printed and reason in printed
    assert "found 8 = 5 readable (8 s declared) + 3 would be rejected; nothing was extracted" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    report.write(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["rejects_by_reason"] == report.reasons()


def test_a_clean_source_shows_no_table(tmp_path: Path) -> None:
    src = make_tree(tmp_path / "data")
    for name in BAD:
        (src / name).unlink()
    report, printed = forecast(src, tmp_path / "c.zarr")
    assert report.rejected == 0 and "would be rejected (quick probe" not in printed


def test_a_probe_that_hangs_is_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.hanging_probe)
    src = make_tree(tmp_path / "data")
    report, printed = forecast(src, tmp_path / "c.zarr", deadline_seconds=1.0)
    assert report.rejects["train/Fight/a_0.mp4"][0] == "deadline"
    assert report.adds_up and report.rejected == 4
    assert "no frame for 1 s" in printed


def test_a_folder_that_cannot_be_listed_is_a_reject_and_skipped_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = make_tree(tmp_path / "data")
    (src / "train/locked").mkdir()
    for n in range(5):
        (src / f"note{n}.txt").write_text("x")
    lock_folder(monkeypatch, "locked")
    report, printed = forecast(src, tmp_path / "c.zarr")
    assert (report.found, report.not_reached, report.rejected) == (9, 5, 4)
    assert report.rejects["train/locked"][0] == "unreadable-file"
    assert report.rejects["train/locked"][1].startswith("cannot be read: ")
    assert "train/locked (Permission denied)" in printed
    assert (
        "skipped 5, not a video or image: note0.txt, note1.txt, note2.txt and 2 more (--report FILE names all)"
        in " ".join(printed.split())
    )
    assert [name for name, _ in report.skipped] == [f"note{n}.txt" for n in range(5)]


def test_how_labels_joined_is_printed_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name may look like markup that closes what nothing opened."""
    told = SimpleNamespace(lines=("e.g. '[/x].mp4' -> train/[/x].mp4",))
    monkeypatch.setattr("pipeline.config.resolve_labels", lambda *_, **__: told)
    labelled_sources(ExtractConfig(Path("src"), Path("c.zarr")), cast(Any, None), Console(width=200))
    assert "'[/x].mp4' -> train/[/x].mp4" in capsys.readouterr().out
