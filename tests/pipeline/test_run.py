"""Whole extractions in this process: everything found is stored or rejected, resumed runs equal uninterrupted ones."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from cache.errors import (
    CacheError,
    CacheLocked,
    FingerprintMismatch,
    InputError,
    LabelError,
    OnepassError,
    RejectLimitExceeded,
    SourceError,
    StorageFull,
    WeightsError,
)
from cache.reader import open_cache
from cache.writer import CacheWriter
from pipeline.backbones.base import device_libraries, device_name
from pipeline.backbones.load import BackboneConfig
from pipeline.cli.extract import conclude
from pipeline.decoding.pool import PoolSettings
from pipeline.run import ExtractConfig, stop_on_signal
from pipeline.sources.shards import Shard
from pipeline.verify import compare_video
from tests.pipeline.tiny import TinyBackbone, tiny_backbones
from tests.pipeline.trees import BAD, GOOD, contents, restamped, run
from tests.videos import write_text, write_video

pytestmark = pytest.mark.usefixtures("forked_workers", "tiny")
CPU = torch.device("cpu")


def n_forward(tiny: dict[str, Any]) -> int:
    return sum(len(backbone.batches) for backbone in tiny["last"].values())


# --- what a run does ----------------------------------------------------------------------------------------


def test_everything_found_is_stored_or_rejected(src: Path, out: Path) -> None:
    report = run(src, out, pool=PoolSettings(workers=2))
    assert report.found == 8 and report.stored_now == 5 and report.rejected_now == 3
    assert report.adds_up and report.not_reached == 0 and not report.interrupted
    found = contents(out)
    assert set(found["videos"]) == set(GOOD)
    assert {video_id: row.reason for video_id, row in found["rejects"].items()} == BAD
    assert {k: reason for k, (reason, _) in report.rejects.items()} == BAD
    assert found["label_names"] == ("NonFight", "Fight")
    for video_id, (row, _) in found["videos"].items():
        assert row.label == int("/Fight/" in video_id)
        assert row.split == video_id.split("/")[0]
        assert row.size_bytes == (src / video_id).stat().st_size
    assert report.tokens == {"clip": 17, "slowfast": 20}
    with open_cache(
        out
    ) as cache:  # features of another device or batch are the same within the bound, not bit for bit
        made_on = cache.provenance
    assert made_on["device"] == device_name(CPU) and made_on["libraries"] == device_libraries(CPU)
    assert made_on["batches"] == {"clip": 4, "slowfast": 4}
    assert 0 < report.start_seconds < report.setup_seconds < report.seconds
    assert report.setup_seconds + report.idle_seconds + report.model_seconds <= report.seconds


def test_what_is_stored_is_the_plain_definition(src: Path, tmp_path: Path) -> None:
    """Every token of every video against frames that are looked up and prepared one by one."""
    run(src, tmp_path / "c.zarr", dtype="float32", decoder="decord")
    rng = np.random.default_rng(0)
    with open_cache(tmp_path / "c.zarr") as cache:
        n_tokens = 0
        for index in range(cache.n_videos):
            path = src / str(cache.videos.id[index])
            for comparison in compare_video(cache, index, path, tiny_backbones(), rng=rng).comparisons:
                n_tokens += 1
                assert comparison.relative_error < 1e-5, comparison
        assert n_tokens > 30


def test_neither_workers_nor_batches_nor_decoders_change_a_token(
    src: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    run(src, tmp_path / "a.zarr")
    first = contents(tmp_path / "a.zarr")
    run(src, tmp_path / "b.zarr", pool=PoolSettings(workers=3, slots=2), commit_videos=1)
    assert contents(tmp_path / "b.zarr") == first
    run(src, tmp_path / "c.zarr", decoder="opencv")
    other = contents(tmp_path / "c.zarr")
    assert {k: tokens for k, (_, tokens) in other["videos"].items()} == {
        k: tokens for k, (_, tokens) in first["videos"].items()
    }


# --- the second run -----------------------------------------------------------------------------------------


def test_a_second_run_does_nothing(src: Path, out: Path, tiny: dict[str, Any]) -> None:
    run(src, out)
    before, stamp = contents(out), out.stat().st_mtime_ns
    report = run(src, out)
    assert n_forward(tiny) == 0
    assert (report.stored_before, report.rejected_before, report.stored_now, report.rejected_now) == (
        5,
        3,
        0,
        0,
    )
    assert report.adds_up and report.rejects.keys() == BAD.keys()
    assert contents(out) == before and out.stat().st_mtime_ns == stamp


def test_new_videos_are_added_and_gone_ones_kept(src: Path, out: Path) -> None:
    run(src, out)
    write_video(src / "train/Fight/new.mp4", seconds=0.5, seed=77)
    (src / GOOD[0]).unlink()
    report = run(src, out)
    assert (report.found, report.stored_before, report.stored_now, report.gone) == (8, 4, 1, 1)
    assert set(contents(out)["videos"]) == {*GOOD, "train/Fight/new.mp4"}


def test_a_touched_file_is_recognised_by_its_digest(src: Path, out: Path, tiny: dict[str, Any]) -> None:
    run(src, out)
    before = contents(out)
    os.utime(src / GOOD[0], (1, 1))
    report = run(src, out)
    assert report.unchanged == 1 and report.stored_now == 0 and report.adds_up
    assert n_forward(tiny) == 0
    assert contents(out) == restamped(before, 10**9, GOOD[0])
    again = run(src, out)  # what was learnt is kept: the file is not read again
    assert again.unchanged == 0 and again.stored_before == 5 and again.adds_up


def test_a_changed_file_replaces_its_old_features(src: Path, out: Path) -> None:
    run(src, out)
    before = contents(out)
    write_video(src / GOOD[1], seconds=2.3, seed=99)
    report = run(src, out)
    assert (report.stored_now, report.replaced) == (1, 1) and report.adds_up
    after = contents(out)
    assert after["videos"].keys() == before["videos"].keys()
    assert after["videos"][GOOD[1]][0].duration_seconds == pytest.approx(2.3)
    assert {k for k in GOOD if after["videos"][k] != before["videos"][k]} == {GOOD[1]}
    run(src, out.with_name(f"fresh{out.suffix}"))
    assert contents(out.with_name(f"fresh{out.suffix}"))["videos"] == after["videos"]


def test_a_stored_file_that_breaks_becomes_a_reject_and_back(src: Path, out: Path) -> None:
    run(src, out)
    original = (src / GOOD[2]).read_bytes()
    write_text(src / GOOD[2])
    report = run(src, out)
    assert (report.stored, report.rejected, report.rejected_now) == (4, 4, 1) and report.adds_up
    assert contents(out)["rejects"][GOOD[2]].reason == "unreadable-container"
    (src / GOOD[2]).write_bytes(original)
    report = run(src, out)
    assert (report.stored, report.rejected) == (5, 3) and report.adds_up
    assert contents(out)["rejects"].keys() == BAD.keys()


def test_rejects_are_retried_on_demand_only(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    run(src, out)
    assert run(src, out).rejected_now == 0
    report = run(src, out, retry_rejects=True)
    assert report.rejected_now == 3 and report.rejected_before == 0 and report.adds_up
    assert contents(out)["rejects"].keys() == BAD.keys()


def test_new_labels_reach_stored_videos_and_touched_ones(src: Path, out: Path, tiny: dict[str, Any]) -> None:
    run(src, out)
    labels = src.parent / "labels.csv"
    rows = [f"{name},{'NonFight' if name == GOOD[0] else name.split('/')[1]},val" for name in (*GOOD, *BAD)]
    labels.write_text("path,label,split\n" + "\n".join(rows) + "\n", encoding="utf-8")
    os.utime(src / GOOD[0], (1, 1))  # its size and digest are the same
    report = run(src, out, labels=labels)
    assert n_forward(tiny) == 0 and report.unchanged == 1
    assert report.relabelled == 3  # one label, and the splits of two others
    videos = contents(out)["videos"]
    assert (videos[GOOD[0]][0].label, videos[GOOD[0]][0].label_name) == (0, "NonFight")
    assert {row.split for row, _ in videos.values()} == {"val"}


def test_a_manifest_on_an_unmounted_disk_loses_nothing(src: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    lines = [f"data/{name},{name.split('/')[1]}" for name in GOOD]
    manifest.write_text("path,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "c.zarr"
    assert run(manifest, out).stored_now == 5
    before = contents(out)
    src.rename(tmp_path / "elsewhere")
    report = run(manifest, out)
    assert (report.stored, report.rejected, report.gone) == (5, 0, 5) and report.adds_up
    assert contents(out) == before
    assert run(manifest, tmp_path / "fresh.zarr").reasons() == {"missing-file": 5}


def test_equal_bytes_are_named_and_refused_on_demand(src: Path, tmp_path: Path) -> None:
    twin = src / "train/Fight/twin.mp4"
    twin.write_bytes((src / GOOD[0]).read_bytes())
    report = run(src, tmp_path / "keep.zarr")
    assert report.stored_now == 6 and len(report.duplicates) == 1
    assert set(report.duplicates) <= {"train/Fight/twin.mp4", GOOD[0]}
    report = run(src, tmp_path / "reject.zarr", duplicates="reject")
    assert report.stored_now == 5 and report.adds_up
    assert report.rejects["train/Fight/twin.mp4"] == ("duplicate-content", f"same bytes as {GOOD[0]}")


def test_of_equal_files_the_first_listed_is_kept(src: Path, tmp_path: Path) -> None:
    data = (src / GOOD[0]).read_bytes()
    for name in ("0-twin.mp4", "zz-twin.mp4"):
        (src / "train/Fight" / name).write_bytes(data)
    report = run(src, tmp_path / "reject.zarr", duplicates="reject")
    assert report.adds_up and report.stored_now == 5
    same = ("duplicate-content", "same bytes as train/Fight/0-twin.mp4")
    assert {name: why for name, why in report.rejects.items() if why[0] == same[0]} == {
        GOOD[0]: same,
        "train/Fight/zz-twin.mp4": same,
    }
    again = run(src, tmp_path / "reject.zarr", duplicates="reject")
    assert again.adds_up and (again.stored_now, again.rejected_now) == (0, 0)


# --- what must not be mixed ---------------------------------------------------------------------------------


def test_other_weights_and_other_types_are_refused(src: Path, out: Path, tiny: dict[str, Any]) -> None:
    run(src, out)
    before = contents(out)
    with pytest.raises(FingerprintMismatch, match="float16"):
        run(src, out, dtype="float32")
    tiny["changes"] = {"seed": 5}
    with pytest.raises(FingerprintMismatch, match="seed"):
        run(src, out)
    with pytest.raises(FingerprintMismatch, match="slowfast"):
        run(src, out, streams=("clip",))
    assert contents(out) == before


def test_what_is_known_at_once_is_refused_before_models_are_loaded(
    src: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(src, out)

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("models were loaded")

    monkeypatch.setattr("pipeline.run.load_backbones", load)
    with (
        CacheWriter.reopen(out),
        pytest.raises(CacheLocked, match=f"being written by process {os.getpid()} "),
    ):
        run(src, out)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"dtype": "float32"}, "float32 in this run but float16 in .*: give --dtype float16"),
        ({"optional": ("clip",)}, "optional in this run but required in .*: give --require clip"),
        ({"shard": Shard(1, 2)}, "holds a source that was not divided"),
        ({"positive": "NonFight"}, "calls its classes"),
        ({"backbones": BackboneConfig.of(precision="bf16")}, "precision: bf16 here, fp32 there"),
        ({"transcripts": src}, "--transcripts: no stream of this run reads words"),
        ({"keep_text": True}, "--keep-text: no stream of this run reads words"),
    ]
    for changes, words in refused:
        with pytest.raises(OnepassError, match=words):
            run(src, out, **changes)


def test_the_lock_of_a_cache_inside_its_source_is_no_skipped_file(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", seconds=0.5)
    (tmp_path / "b.zarr.lock").write_text("")
    for _ in range(2):
        skipped = run(tmp_path, tmp_path / "cache/c.zarr").skipped
        assert ("b.zarr.lock", "not a video or image") in skipped
        assert {name for name, _ in skipped} <= {"b.zarr.lock", "cache/c.zarr"}


def test_less_than_float32_without_a_trial_is_said_where_it_is_continued(
    src: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What auto came to in a new cache was tried (`backbones/load.py`); what somebody named, or an earlier version, was not."""
    plain = TinyBackbone.fingerprint
    monkeypatch.setattr(TinyBackbone, "fingerprint", lambda self: plain(self) | {"precision": "bf16"})
    named = BackboneConfig.of(streams=("clip",), weights="random", precision="bf16")
    assert not run(src, out, streams=("clip",)).note
    assert not run(src, out).note and not run(src, out).note  # slowfast was added, and tried
    with open_cache(out) as cache:
        assert cache.provenance["tried"] == ["clip", "slowfast"]
    other = out.with_name(f"other{out.suffix}")
    assert not run(src, other, backbones=named).note
    assert not run(src, other, backbones=named).note
    note = run(src, other, streams=("clip",)).note
    assert note.startswith("clip: begun in bf16 without a trial") and "--precision bf16 says that" in note
    monkeypatch.setattr("pipeline.run.MEASURED_IN_BF16", ("tiny-8",))
    assert not run(src, other, streams=("clip",)).note


def test_a_new_cache_that_is_refused_leaves_nothing(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        with pytest.raises(CacheLocked):  # a second run is refused at once
            run(src, tmp_path / "new/c.zarr")
        raise WeightsError("none to be had")

    monkeypatch.setattr("pipeline.run.load_backbones", load)
    with pytest.raises(WeightsError):
        run(src, tmp_path / "new/c.zarr")
    assert not (tmp_path / "new").exists()


def test_features_that_cannot_be_stored_are_rejects(
    src: Path, out: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backbone that overflows in one place must not take the run down, nor store what it gave."""
    embed = TinyBackbone.embed

    def overflow(self: TinyBackbone, frames: Any) -> Any:
        features = embed(self, frames)
        if self.name == "slowfast":
            features[0] = float("nan")
        return features

    monkeypatch.setattr(TinyBackbone, "embed", overflow)
    report = run(src, out)
    assert report.adds_up and report.reasons()["non-finite-features"] > 0
    for video_id, (reason, detail) in report.rejects.items():
        assert reason == "non-finite-features" or video_id in BAD
        assert "slowfast" in detail or video_id in BAD


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"max_rejects": 1.5}, InputError),
        ({"max_rejects": float("nan")}, InputError),
        ({"max_error_share": -0.1}, InputError),
        ({"min_seconds": float("nan")}, InputError),
        ({"commit_seconds": 0.0}, InputError),
        ({"labels": Path("nowhere.csv")}, LabelError),
    ],
)
def test_settings_out_of_range_are_refused(
    changes: dict[str, Any], error: type[Exception], src: Path, tmp_path: Path
) -> None:
    with pytest.raises(error):
        run(src, tmp_path / "c.zarr", **changes)
    assert not (tmp_path / "c.zarr").exists()


def test_a_source_without_videos_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no videos"):
        run(tmp_path / "empty", tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


# --- interruptions ------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a power cut between two commits."""


@pytest.mark.parametrize("after", [1, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(
    after: int, src: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(src, out.with_name(f"whole{out.suffix}"))
    commit = CacheWriter.commit
    count = 0

    def cut(self: CacheWriter, *args: Any) -> None:
        nonlocal count
        if count == after:
            raise Killed
        count += 1
        commit(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(CacheWriter, "commit", cut)
        run(src, out, commit_videos=1)
    report = run(src, out)
    assert report.adds_up and report.stored_before + report.rejected_before >= after
    assert contents(out) == contents(out.with_name(f"whole{out.suffix}"))


def test_a_full_disk_ends_the_run_and_loses_nothing(
    src: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = CacheWriter.commit
    count = 0

    def full(self: CacheWriter, *args: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise StorageFull("the disk is full")
        commit(self, *args)

    with monkeypatch.context() as patch, pytest.raises(StorageFull):
        patch.setattr(CacheWriter, "commit", full)
        run(src, out, commit_videos=1)
    report = run(src, out)
    assert report.adds_up and report.stored_before + report.rejected_before == 2
    assert set(contents(out)["videos"]) == set(GOOD)


def test_ctrl_c_commits_what_is_whole_and_counts_the_rest(
    src: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = CacheWriter.commit
    pressed = False

    def interrupt(self: CacheWriter, *args: Any) -> None:
        nonlocal pressed
        commit(self, *args)
        if not pressed:
            pressed = True
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(CacheWriter, "commit", interrupt)
        report = run(src, out, commit_videos=2)
    assert report.interrupted and report.adds_up and report.not_reached > 0
    held = contents(out)
    assert len(held["videos"]) == report.stored_now and len(held["rejects"]) == report.rejected_now
    with pytest.raises(typer.Exit) as ended:
        conclude(report, ExtractConfig(src=src, out=out))
    assert ended.value.exit_code == 130
    assert run(src, out).adds_up
    assert set(contents(out)["videos"]) == set(GOOD)


def test_a_second_ctrl_c_stops_at_once_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    seen: list[bool] = []

    def use() -> None:
        with stop_on_signal() as stop:
            seen.append(stop.is_set())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [False]


# --- how a run ends -----------------------------------------------------------------------------------------


def test_too_many_rejects_end_with_an_error(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    report = run(src, out)
    conclude(report, ExtractConfig(src=src, out=out, max_rejects=3 / 8))
    with pytest.raises(RejectLimitExceeded, match=r"3 of 8 inputs were rejected \(37\.5%\)"):
        conclude(report, ExtractConfig(src=src, out=out, max_rejects=0.37))


def test_counts_that_do_not_add_up_are_our_fault(src: Path, tmp_path: Path) -> None:
    report = run(src, tmp_path / "c.zarr")
    report.found += 1
    with pytest.raises(AssertionError, match="is not 9 found"):
        conclude(report, ExtractConfig(src=src, out=tmp_path / "c.zarr", max_rejects=1.0))


def test_a_video_that_moved_is_stored_where_its_old_name_holds_another_one(tmp_path: Path) -> None:
    src, out = tmp_path / "data", tmp_path / "c.zarr"
    write_video(src / "a.mp4", seconds=0.5)
    run(src, out, duplicates="reject")
    (src / "a.mp4").rename(src / "b.mp4")
    write_video(src / "a.mp4", seconds=0.8, seed=5)
    report = run(src, out, duplicates="reject")
    assert (report.stored, report.rejected, report.replaced) == (2, 0, 1)


def test_labels_in_another_case_are_the_classes_of_the_cache(tmp_path: Path) -> None:
    src, out, labels = tmp_path / "data", tmp_path / "c.zarr", tmp_path / "labels.csv"
    for number, name in enumerate(("Fight/a.mp4", "NonFight/b.mp4", "NonFight/c.mp4")):
        write_video(src / name, seconds=0.5, seed=number)
    run(src, out)
    labels.write_text("id,label\na,FIGHT\nb,fight\nc,nonfight\n", encoding="utf-8")
    assert run(src, out, labels=labels).relabelled == 1
    with open_cache(out) as cache:
        assert cache.label_names == ("NonFight", "Fight")
        assert dict(zip(cache.videos.id, cache.videos.label_name, strict=True)) == {
            "Fight/a.mp4": "Fight",
            "NonFight/b.mp4": "Fight",
            "NonFight/c.mp4": "NonFight",
        }


def test_labels_that_came_later_hold_against_other_ones(tmp_path: Path) -> None:
    """A cache that began without labels: a class is never positive in some of its videos and negative in others."""
    flat, tree, out, labels = (tmp_path / name for name in ("flat", "tree", "c.zarr", "labels.csv"))
    for number, name in enumerate(("a", "b")):
        write_video(flat / f"{name}.mp4", seconds=0.5, seed=number)
        write_video(tree / ("Fight", "NonFight")[number] / f"{name}2.mp4", seconds=0.5, seed=2 + number)
    run(flat, out)
    labels.write_text("id,label\na,Fight\nb,NonFight\n", encoding="utf-8")
    assert run(flat, out, labels=labels).relabelled == 2
    run(flat, out)
    with pytest.raises(CacheError, match="calls its classes"):
        run(tree, out, positive="NonFight")
    run(tree, out)
    with open_cache(out) as cache:
        assert cache.label_names == ("NonFight", "Fight")
        assert set(zip(cache.videos.label_name, cache.videos.label, strict=True)) == {
            ("Fight", 1),
            ("NonFight", 0),
        }
