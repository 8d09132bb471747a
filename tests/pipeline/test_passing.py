"""Passing trouble (a lost mount, a deadline, a file being copied) is no verdict: it costs no features and is tried again."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cache.errors import OnepassError
from cache.reader import open_cache
from pipeline import run as run_module
from pipeline.cli.extract import conclude
from pipeline.decoding.pool import PoolSettings
from pipeline.run import ExtractConfig, extract
from pipeline.sources.inventory import Inventory
from tests.pipeline import fakes
from tests.pipeline.tiny import TinyBackbone, tiny_backbones
from tests.pipeline.trees import GOOD, contents, lock_folder, make_tree, restamped, run
from tests.videos import write_video


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(config: Any, **_: Any) -> Mapping[str, TinyBackbone]:
        return tiny_backbones(*config.streams)

    monkeypatch.setattr(run_module, "load_backbones", load)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "data")


@pytest.fixture(params=["zarr", "h5"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"cache.{request.param}"


def after_the_inventory(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Something happens to the source when its files were listed and looked at, and none is read yet."""
    take = run_module.take_inventory

    def taken(*args: Any, **options: Any) -> Inventory:
        found = take(*args, **options)
        happens()
        return found

    monkeypatch.setattr(run_module, "take_inventory", taken)


def said(src: Path, out: Path) -> str:
    """What one more run prints, the summary included."""
    screen = io.StringIO()
    config = ExtractConfig(src=src, out=out, pool=PoolSettings(workers=1), decoder="pyav", max_rejects=1.0)
    report = extract(config, console=Console(file=screen, width=300, soft_wrap=True))
    return "\n".join([screen.getvalue(), *report.lines()])


def test_a_mount_that_is_lost_during_a_run_costs_nothing_in_the_end(
    src: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = src.with_name("away")
    with monkeypatch.context() as patch:
        after_the_inventory(patch, lambda: src.rename(away))
        report = run(src, out)
    assert report.reasons() == {"missing-file": 8} and report.adds_up
    away.rename(src)
    text = said(src, out)
    assert "retrying 8 rejects of passing trouble: missing-file 8\n" in text
    assert "8 = 5 stored + 3 rejected: adds up" in text and "of the rejects are passing" not in text
    fresh = out.with_name(f"fresh{out.suffix}")
    run(src, fresh)
    assert contents(out) == contents(fresh)


def test_a_link_that_is_broken_for_a_while_is_tried_again(src: Path, out: Path) -> None:
    away = src.with_name("away.mp4")
    (src / GOOD[0]).rename(away)
    (src / GOOD[0]).symlink_to(away.with_name("nowhere.mp4"))
    assert run(src, out).rejects[GOOD[0]][0] == "missing-file"
    before, stamp = contents(out), out.stat().st_mtime_ns
    text = said(src, out)
    assert "retrying 1 reject of passing trouble: missing-file 1" in text
    assert "1 of the rejects are passing trouble: the same command tries them again" in text
    assert contents(out) == before and out.stat().st_mtime_ns == stamp  # the same reject is not written twice
    (src / GOOD[0]).unlink()
    away.rename(src / GOOD[0])
    report = run(src, out)
    assert (report.stored, report.rejected) == (5, 3) and report.adds_up


def test_a_touched_file_that_cannot_be_read_keeps_its_features(
    src: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(src, out)
    before = contents(out)
    away = src.with_name("away")
    for name in GOOD[:2]:
        os.utime(src / name, (1, 1))
    with monkeypatch.context() as patch:
        after_the_inventory(patch, lambda: src.rename(away))
        report = run(src, out)
    assert (report.stored, report.rejected, report.found) == (5, 3, 8) and report.adds_up
    assert report.kept.keys() == set(GOOD[:2]) and report.reject_share == 3 / 8
    text = "\n".join(report.lines())
    assert "kept: 2 stored videos could not be read again this time:" in text
    assert f"{GOOD[0]}: missing-file: no such file" in text
    conclude(report, ExtractConfig(src=src, out=out, max_rejects=3 / 8))
    assert contents(out) == before
    away.rename(src)
    report = run(src, out)
    assert report.unchanged == 2 and not report.kept and report.adds_up
    assert contents(out) == restamped(before, 10**9, *GOOD[:2])


def test_a_changed_file_that_hangs_crashes_or_eats_memory_keeps_its_features(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = tmp_path / "data"
    deeds = {
        "hang_x.mp4": "deadline",
        "crash_x.mp4": "decoder-crash",
        "memory_x.mp4": "out-of-memory",
        "stale_x.mp4": "unreadable-file",
        "lost_x.mp4": "unreadable-file",
        "growing_x.mp4": "changed-while-read",
    }
    for number, name in enumerate(deeds):
        write_video(src / name, seconds=0.5, seed=number)
    assert run(src, out).stored_now == len(deeds)
    before = contents(out)
    for name in deeds:
        with (src / name).open("ab") as file:
            file.write(b"\0" * 8)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.decoding.worker.main", fakes.main)
        report = run(src, out, pool=PoolSettings(workers=2, deadline_seconds=2.0))
    assert {name: text.split(":")[0] for name, text in report.kept.items()} == deeds
    assert report.adds_up and (report.stored, report.rejected) == (len(deeds), 0)
    assert contents(out) == before
    report = run(src, out)
    assert report.replaced == len(deeds) and report.adds_up and not report.kept


def test_rejects_of_the_machine_are_tried_again_and_those_of_contents_are_not(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = tmp_path / "data"
    names = ("hang_x.mp4", "crash_x.mp4", "problem_x.mp4")
    for number, name in enumerate(names):
        write_video(src / name, seconds=0.5, seed=number)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.decoding.worker.main", fakes.main)
        report = run(src, out, pool=PoolSettings(workers=2, deadline_seconds=2.0))
    assert report.reasons() == {"deadline": 1, "decoder-crash": 1, "decode-errors": 1}
    text = said(src, out)
    assert "retrying 2 rejects of passing trouble: " in text and "deadline 1" in text
    assert set(contents(out)["videos"]) == {"hang_x.mp4", "crash_x.mp4"}
    assert set(contents(out)["rejects"]) == {"problem_x.mp4"}


def manifest_of(src: Path) -> Path:
    manifest = src.parent / "list.csv"
    lines = [f"data/{name},{name.split('/')[1]}" for name in GOOD]
    manifest.write_text("path,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def test_a_stream_waits_for_videos_that_cannot_be_read(src: Path, out: Path) -> None:
    manifest = manifest_of(src)
    run(manifest, out, streams=("clip",))
    before = contents(out)
    (src / GOOD[0]).rename(src.with_name("away.mp4"))
    for _ in range(2):
        report = run(manifest, out)
        assert report.adds_up and (report.stored, report.rejected, report.not_reached) == (5, 0, 0)
        assert report.waiting == {
            "slowfast": {f"data/{GOOD[0]}": "missing-file: no such file (or a link that leads nowhere)"}
        }
        assert "stream slowfast not attached: 1 stored video could not be read" in "\n".join(report.lines())
        with pytest.raises(OnepassError, match="stream slowfast was not attached"):
            conclude(report, ExtractConfig(src=manifest, out=out))
        assert contents(out) == before
    src.with_name("away.mp4").rename(src / GOOD[0])
    report = run(manifest, out)
    assert report.added_streams == {"slowfast": 1} and report.adds_up and not report.waiting
    whole = out.with_name(f"whole{out.suffix}")
    run(manifest, whole)
    assert contents(out) == contents(whole)
    assert not [path.name for path in out.parent.iterdir() if "adding" in path.name]


def test_new_videos_are_counted_while_a_stream_waits(src: Path, tmp_path: Path) -> None:
    out, manifest = tmp_path / "c.zarr", manifest_of(src)
    run(manifest, out, streams=("clip",))
    (src / GOOD[0]).unlink()
    write_video(src / "new.mp4", seconds=0.4)
    with manifest.open("a", encoding="utf-8") as file:
        file.write("data/new.mp4,Fight\n")
    report = run(manifest, out)
    assert report.adds_up and (report.stored, report.not_reached, report.found) == (5, 1, 6)
    assert "not reached 1 (until all streams are whole)" in report.lines()


# --- times of change that no calendar holds -----------------------------------------------------------------


@pytest.fixture
def any_date(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that holds every date."""
    for parent in (tmp_path, Path("/dev/shm")):
        if parent.is_dir():
            with tempfile.TemporaryDirectory(dir=parent) as folder:
                held = []
                for seconds in (10_000_000_000, -10_000_000_000):
                    os.utime(folder, (seconds, seconds))
                    held.append(Path(folder).stat().st_mtime == seconds)
                if all(held):
                    yield Path(folder)
                    return
    pytest.skip("no file system here holds dates before 1677 and after 2262")


@pytest.mark.parametrize("seconds", [10_000_000_000, -86_400, -10_000_000_000])
def test_a_file_dated_beyond_int64_is_stored_and_recognised(seconds: int, any_date: Path, out: Path) -> None:
    src = any_date / "data"
    for name in ("a.mp4", "b.mp4"):
        write_video(src / name, seconds=0.4)
    (src / "broken.mp4").write_text("no video")
    for path in src.iterdir():
        os.utime(path, (seconds, seconds))
    report = run(src, out)
    assert (report.stored_now, report.rejected_now) == (2, 1) and report.adds_up
    text = said(src, out)
    assert "nothing new to extract" in text and "1 (1 of them before this run)" in text
    odd = "note: 3 files are dated outside 1677 to 2262, such as a.mp4: "
    assert (odd in text) == (abs(seconds) > 2**33)
    os.utime(src / "a.mp4", (seconds + 1, seconds + 1))
    assert run(src, out).unchanged == 1
    with open_cache(out) as cache:
        assert cache.videos.mtime_ns.dtype == "int64"


# --- folders that cannot be listed for a while ----------------------------------------------------------------


def test_a_folder_that_can_be_listed_again_is_off_the_record(
    src: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as locked:
        lock_folder(locked, "val")
        report = run(src, out)
        assert report.rejects["val"][0] == "unreadable-file" and report.adds_up
    report = run(src, out)
    whole = out.with_name(f"whole{out.suffix}")
    run(src, whole)
    assert contents(out) == contents(whole)
    assert report.gone == 0 and report.adds_up and (report.stored, report.rejected) == (5, 3)


def test_a_stream_waits_for_a_folder_that_cannot_be_listed(
    src: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(src, out, streams=("clip",))
    before = contents(out)
    with monkeypatch.context() as locked:
        lock_folder(locked, "val")
        report = run(src, out)
    assert report.adds_up and (report.stored, report.rejected, report.not_reached) == (3, 2, 1)
    told = "unreadable-file: the folder val cannot be listed: Permission denied"
    assert report.waiting == {"slowfast": dict.fromkeys(sorted(GOOD[3:]), told)}
    assert contents(out) == before
    report = run(src, out)
    assert report.added_streams == {"slowfast": 2} and report.adds_up and not report.waiting
    whole = out.with_name(f"whole{out.suffix}")
    run(src, whole)
    assert contents(out) == contents(whole)


def test_a_redo_that_cannot_read_a_video_gives_it_its_new_label(src: Path, out: Path) -> None:
    manifest = manifest_of(src)
    run(manifest, out, streams=("clip",))
    (src / GOOD[0]).unlink()
    (src / GOOD[0]).mkdir()
    manifest.write_text(manifest.read_text("utf-8").replace("a_0.mp4,Fight", "a_0.mp4,NonFight"), "utf-8")
    report = run(manifest, out, streams=("clip",), redo="all")
    assert (report.redone, report.not_redone, report.relabelled) == (4, 1, 1)
    assert contents(out)["videos"][f"data/{GOOD[0]}"][0].label_name == "NonFight"
