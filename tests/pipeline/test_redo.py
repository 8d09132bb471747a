"""Caches of older decoding rules: which videos are named, what is refused, and that a redo ends where a fresh run would."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from cache.errors import FingerprintMismatch, InputError, ParityError
from cache.fingerprint import decoding_rules
from cache.reader import open_cache
from cache.schema import Reject, StreamSpec, VideoFeatures
from cache.writer import CacheWriter
from pipeline import run as run_module
from pipeline.cli.verify import verify_command
from pipeline.decoding.decoders.affected import is_fragmented, why_affected
from pipeline.decoding.decoders.base import DECODING_RULES
from pipeline.redo import affected_videos, rules_of
from tests.pipeline.numbered import copy_packets, write_numbered
from tests.pipeline.tiny import tiny_backbones
from tests.pipeline.trees import contents, run

pytestmark = pytest.mark.usefixtures("forked_workers", "tiny")

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
AFFECTED = {
    "fragmented.mp4": {"b_frames": 2, "container_options": FRAGMENTED},
    "b_frames.avi": {"b_frames": 2},
    "raw.mp4": {"container": "h264", "rate": 30},
    "group.ts": {"b_frames": 2},
    "open.mp4": {"b_frames": 2, "codec_options": {"x264-params": "open-gop=1:keyint=25:min-keyint=25"}},
    "no_edit_list.mp4": {"b_frames": 2, "container_options": {"use_editlist": "0"}},
    "refresh.mp4": {"codec_options": {"x264-params": "intra-refresh=1:keyint=25"}},
    "part2.mkv": {"codec": "mpeg4", "b_frames": 2},
    "hevc.mp4": {"codec": "libx265"},
}
CLEAR: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "b_frames.mp4": {"b_frames": 2},
    "plain.mkv": {"b_frames": 2},
    "vp8.webm": {"codec": "libvpx", "codec_options": {"deadline": "realtime", "cpu-used": "8"}},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("redo") / "data"
    for name, make in {**AFFECTED, **CLEAR}.items():
        write_numbered(folder / name, **{"n_frames": 30, **make})  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def fresh(src: Path) -> Path:
    """A cache by the present rules. Read-only by agreement."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load_backbones", lambda config, **_: tiny_backbones(*config.names))
        run(src, src.parent / "fresh.zarr")
    return src.parent / "fresh.zarr"


def as_by_rules_1(cache: Path, out: Path, *, spoil: bool = True) -> Path:
    """The same cache as an older version would have made it: decord on record, no rules, affected features wrong."""
    with open_cache(cache) as opened:
        specs = []
        for name, info in opened.streams.items():
            fields = {key: value for key, value in info.fingerprint.items() if key != "decoding"}
            specs.append(StreamSpec(name, info.dim, info.dtype, fields))
        videos = []
        for index in range(len(opened)):
            row = dataclasses.replace(opened.videos.row(index), decoder="decord")
            tokens = {name: opened.tokens(name, index) for name in opened.streams}
            if spoil and row.id in AFFECTED:
                tokens = {
                    name: dataclasses.replace(found, values=found.values[::-1] + found.values.dtype.type(0.5))
                    for name, found in tokens.items()
                }
            videos.append(VideoFeatures(row, tokens))
    with CacheWriter.open(out, streams=specs, dataset="data", label_names=None, provenance={}) as writer:
        writer.commit(videos, [])
    return out


def features(cache: Path) -> dict[str, Any]:
    return {video_id: tokens for video_id, (_, tokens) in contents(cache)["videos"].items()}


@pytest.mark.parametrize("name", AFFECTED)
def test_what_decord_may_have_got_wrong_is_named(name: str, src: Path) -> None:
    assert why_affected(src / name, "decord")


@pytest.mark.parametrize("name", CLEAR)
def test_what_decord_got_right_is_cleared(name: str, src: Path) -> None:
    assert why_affected(src / name, "decord") == ""


def test_pyav_was_wrong_only_where_times_are_not_in_the_file(src: Path) -> None:
    found = {name for name in {**AFFECTED, **CLEAR} if why_affected(src / name, "pyav")}
    assert found == {"b_frames.avi", "raw.mp4"}
    assert is_fragmented(src / "fragmented.mp4") and not is_fragmented(src / "plain.mp4")


@pytest.mark.parametrize("decoder", ["pyav", "decord", "opencv"])
def test_times_copied_out_of_avi_are_named(decoder: str, src: Path, tmp_path: Path) -> None:
    path = copy_packets(src / "b_frames.avi", tmp_path / "copied.mp4")
    assert "copied out of another container" in why_affected(path, decoder)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_an_uneven_rate_through_opencv_is_named(suffix: str, tmp_path: Path) -> None:
    """Its last frame was shown for the average interval: 2 s less or 0.6 s more than it is."""
    for times in ([0, 3.0], [0, 0.04, 0.08, 2.0, 2.04]):
        path = write_numbered(tmp_path / f"a.{suffix}", times_seconds=times, time_base=Fraction(1, 1000))
        assert "an uneven rate" in why_affected(path, "opencv")
        assert why_affected(path, "pyav") == ""
    path = write_numbered(tmp_path / f"b.{suffix}", n_frames=30, rate=Fraction(30000, 1001), b_frames=2)
    assert why_affected(path, "opencv") == ""


def test_times_that_repeat_are_named(tmp_path: Path) -> None:
    first = write_numbered(tmp_path / "a.ts", n_frames=30).read_bytes()
    (tmp_path / "twice.ts").write_bytes(first * 2)
    assert "times that repeat" in why_affected(tmp_path / "twice.ts", "pyav")


def test_the_present_rules_are_on_record_and_affect_nothing(fresh: Path, src: Path) -> None:
    with open_cache(fresh) as cache:
        assert {decoding_rules(info.fingerprint) for info in cache.streams.values()} == {DECODING_RULES}
        assert not affected_videos(cache, {name: src / name for name in AFFECTED})


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_a_redo_ends_where_a_fresh_run_would(suffix: str, fresh: Path, src: Path, tmp_path: Path) -> None:
    old = as_by_rules_1(fresh, tmp_path / f"old.{suffix}")
    with pytest.raises(FingerprintMismatch, match="--redo affected"):
        run(src, old)
    assert features(old) != features(fresh)
    report = run(src, old, redo="affected")
    assert report.redone == len(AFFECTED) and report.not_redone == 0 and report.adds_up
    assert features(old) == features(fresh)
    assert rules_of(old) == DECODING_RULES
    assert run(src, old).stored_now == 0  # the ordinary command goes on from here


def test_what_older_rules_rejected_is_tried_again(fresh: Path, src: Path, tmp_path: Path) -> None:
    """H.264 with B-frames in AVI was too many broken times to be stored."""
    old = as_by_rules_1(fresh, tmp_path / "old.zarr")
    with CacheWriter.reopen(old) as writer:
        known = writer.known()["b_frames.avi"]
        refused = Reject(
            known.id,
            "decode-errors",
            "28 errors in 60 frames",
            known.digest,
            known.size_bytes,
            known.mtime_ns,
        )
        writer.commit([], [refused])
    report = run(src, old, redo="affected")
    assert report.adds_up and report.rejected == 0
    assert features(old) == features(fresh)


def test_a_redo_that_was_cut_short_goes_on(
    fresh: Path, src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = as_by_rules_1(fresh, tmp_path / "old.zarr")
    adopt = CacheWriter.adopt_fingerprints

    def cut(self: CacheWriter, fingerprints: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CacheWriter, "adopt_fingerprints", cut)
    with pytest.raises(KeyboardInterrupt):
        run(src, old, redo="affected")
    assert rules_of(old) == 1
    monkeypatch.setattr(CacheWriter, "adopt_fingerprints", adopt)
    with pytest.raises(FingerprintMismatch):
        run(src, old)
    run(src, old, redo="affected")
    assert features(old) == features(fresh) and rules_of(old) == DECODING_RULES


def test_a_redo_of_what_cannot_be_read_leaves_the_cache_old(fresh: Path, src: Path, tmp_path: Path) -> None:
    import shutil

    here = tmp_path / "data"
    shutil.copytree(src, here)
    old = as_by_rules_1(fresh, tmp_path / "old.zarr")
    (here / "hevc.mp4").unlink()
    with pytest.raises(InputError, match=r"1 stored videos are not in .*hevc\.mp4"):
        run(here, old, redo="affected")
    (here / "hevc.mp4").symlink_to(tmp_path / "nowhere.mp4")
    report = run(here, old, redo="affected")
    assert report.not_redone == 1 and report.adds_up
    assert rules_of(old) == 1


def test_everything_can_be_redone(fresh: Path, src: Path, tmp_path: Path) -> None:
    old = as_by_rules_1(fresh, tmp_path / "old.zarr")
    report = run(src, old, redo="all")
    assert report.redone == len(AFFECTED) + len(CLEAR)
    assert features(old) == features(fresh)
    with pytest.raises(InputError, match="no cache"):
        run(src, tmp_path / "none.zarr", redo="all")


def test_the_command_names_them(
    fresh: Path, src: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = as_by_rules_1(fresh, tmp_path / "old.zarr", spoil=False)
    with pytest.raises(ParityError, match=f"{len(AFFECTED)} videos"):
        verify_command(old, src=src, decoders=True)
    printed = capsys.readouterr().out
    assert all(f"affected: {name}: " in printed for name in AFFECTED)
    assert not any(f"affected: {name}: " in printed for name in CLEAR)
    verify_command(fresh, src=src, decoders=True)
    assert "no stored video is affected" in capsys.readouterr().out
