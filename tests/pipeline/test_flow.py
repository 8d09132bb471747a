"""The pass from decode events to commits: fallbacks, notes and restarts end up in the report and in the right tokens."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from cache.errors import StorageFull
from cache.writer import CacheWriter
from pipeline.backbones.batching import StreamRunner
from pipeline.decoding.pool import DecodePool, PoolSettings
from tests.pipeline import fakes
from tests.pipeline.trees import contents, run
from tests.videos import truncate, write_over_reporting, write_video

pytestmark = pytest.mark.usefixtures("forked_workers", "tiny")


def test_a_decoder_that_fails_in_the_middle_leaves_no_token_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first tokens were embedded already when PyAV took over; the stored ones are PyAV's, each once."""
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)
    src = tmp_path / "data"
    src.mkdir()
    names = ("decord-problem_a.mp4", "decord-crash_b.mp4", "decord-noise_c.mp4", "quiet_d.mp4")
    fakes.write_names(src, *names)
    report = run(src, tmp_path / "c.zarr", decoder="decord", pool=PoolSettings(workers=2))
    assert report.adds_up and report.stored_now == 4
    assert set(report.fallbacks) == set(names[:3])
    assert "signal 11" in report.fallbacks["decord-crash_b.mp4"]
    assert report.decoders == {"pyav": 3, "decord": 1} and report.worker_restarts == 1
    videos = contents(tmp_path / "c.zarr")["videos"]
    assert {row.decoder for row, _ in videos.values()} == {"pyav", "decord"}
    quiet = videos["quiet_d.mp4"][1]
    assert all(tokens == quiet for _, tokens in videos.values())


def test_what_the_pool_has_to_say_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)
    monkeypatch.setattr(DecodePool, "note", "frames pass through a disk")
    src = tmp_path / "data"
    src.mkdir()
    fakes.write_names(src, "quiet_a.mp4")
    printed = io.StringIO()
    run(src, tmp_path / "c.zarr", printed=printed)
    assert "note: frames pass through a disk\n" in printed.getvalue()


def test_rejects_of_every_misdeed_are_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.decoding.worker.main", fakes.main)
    src = tmp_path / "data"
    src.mkdir()
    deeds = {
        "hang": "deadline",
        "crash": "decoder-crash",
        "memory": "out-of-memory",
        "problem": "decode-errors",
    }
    fakes.write_names(src, *(f"{deed}_x.mp4" for deed in deeds), "quiet_y.mp4")
    report = run(src, tmp_path / "c.zarr", pool=PoolSettings(workers=2, deadline_seconds=2.0))
    assert report.adds_up and report.stored_now == 1
    found = contents(tmp_path / "c.zarr")
    assert {k: r.reason for k, r in found["rejects"].items()} == {f"{d}_x.mp4": r for d, r in deeds.items()}
    assert all(r.detail and r.size_bytes == 2_000_000 for r in found["rejects"].values())
    assert set(found["videos"]) == {"quiet_y.mp4"}


def test_short_and_damaged_videos_are_named(tmp_path: Path) -> None:
    src = tmp_path / "data"
    truncate(write_video(src / "cut.mp4", seconds=4, faststart=True), fraction=0.5)
    write_over_reporting(src / "long_header.mp4")
    write_video(src / "whole.mp4")
    report = run(src, tmp_path / "c.zarr", decoder="decord", max_error_share=0.5)
    assert report.adds_up and report.stored_now == 3
    assert set(report.shortened) == {"cut.mp4", "long_header.mp4"}
    assert report.shortened["long_header.mp4"] == "1.00 s of 100.00 s declared"
    assert set(report.damaged) == {"cut.mp4"}
    assert set(report.fallbacks) == {"cut.mp4"}


def test_commits_come_by_count_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    commit = CacheWriter.commit

    def counted(self: CacheWriter, stored: Any, rejected: Any) -> None:
        sizes.append(len(stored) + len(rejected))
        commit(self, stored, rejected)

    monkeypatch.setattr(CacheWriter, "commit", counted)
    src = tmp_path / "data"
    for number in range(7):
        write_video(src / f"{number}.mp4", seconds=0.4, seed=number)
    run(src, tmp_path / "count.zarr", commit_videos=3)
    assert sum(sizes) == 7 and len(sizes) >= 2 and max(sizes[:-1]) >= 3
    sizes.clear()
    run(src, tmp_path / "time.zarr", commit_seconds=1e-6)
    assert sum(sizes) == 7 and len(sizes) > 2


def test_however_a_run_ends_no_forward_pass_is_left_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[StreamRunner] = []
    close = StreamRunner.close
    monkeypatch.setattr(StreamRunner, "close", lambda runner: (ended.append(runner), close(runner)))

    def refuse(*_: Any) -> None:
        raise StorageFull("no room")

    monkeypatch.setattr(CacheWriter, "commit", refuse)
    src = tmp_path / "data"
    write_video(src / "a.mp4", seconds=0.5)
    with pytest.raises(StorageFull):
        run(src, tmp_path / "c.zarr")
    assert len(ended) == 2
