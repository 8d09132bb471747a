"""Runs that need no pictures: sound files are videos of sound, videos are what they were, and nothing is lost."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import onepass
from cache.check import check_cache
from cache.errors import SourceError
from cache.reader import open_cache
from heads.report.thumbnails import middle_frame_jpeg
from heads.train import train_head
from heads.training.config import TrainConfig
from pipeline.backbones.load import BackboneConfig
from pipeline.decoding import worker
from pipeline.sources.tree import SOUND_FILE, discover
from tests.pipeline.trees import contents, run
from tests.sounds import write_tone, write_with_sound
from tests.videos import write_audio_with_cover, write_video

pytestmark = pytest.mark.usefixtures("forked_workers")
AUDIO = BackboneConfig.of(("audio",), device="cpu")
BOTH = BackboneConfig.of(("motion", "audio"), device="cpu")
HEARD = {
    "Fight/a_0.wav": "pcm_s16le",
    "Fight/b_0.mp3": "libmp3lame",
    "Fight/c_0.flac": "flac",
    "NonFight/d_0.m4a": "aac",
    "NonFight/e_0.ogg": "libopus",
}
SEEN = "NonFight/seen_0.mp4"
MUTE, BROKEN, COVER = "NonFight/mute_0.mp4", "Fight/broken_0.wav", "Fight/cover_0.mp4"
SECONDS = 2.5


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("alone") / "data"
    for number, (name, codec) in enumerate(HEARD.items()):
        write_tone(root / name, seconds=SECONDS, rate_hz=48_000, codec=codec, hz=300 + 90 * number)
    write_with_sound(root / SEEN, seconds=1.4, at_seconds=(0.5,))
    write_video(root / MUTE, seconds=1.0)
    (root / BROKEN).write_bytes(b"RIFF" + bytes(200))
    write_audio_with_cover(root / COVER)
    (root / "Fight/notes.txt").write_text("not media")
    return root


@pytest.fixture(scope="module")
def stored(src: Path) -> Path:
    """A cache of all of it, by sound alone."""
    out = src.parent / "c.zarr"
    report = run(src, out, backbones=AUDIO, dtype="float32")
    assert report.adds_up and (report.found, report.stored, report.rejected) == (9, 7, 2)
    assert report.rejects[MUTE] == ("missing-stream", "audio: no audio stream; no other stream was asked for")
    assert report.rejects[BROKEN][0] == "unreadable-container"
    return out


def test_sound_files_are_stored_where_no_picture_is_needed(stored: Path) -> None:
    with open_cache(stored) as cache:
        assert not check_cache(cache)
        rows = {row.id: row for row in map(cache.videos.row, range(len(cache)))}
        assert sorted(rows) == sorted([*HEARD, SEEN, COVER])
        for name in HEARD:
            row, tokens = rows[name], cache.tokens("audio", cache.videos.id.tolist().index(name))
            assert row.duration_seconds == pytest.approx(
                SECONDS, abs=0.06
            )  # MP3 and AAC fill their last frame
            assert (row.n_frames, row.width, row.height, row.fps) == (0, 0, 0, 0.0)
            assert len(tokens.values) == 3 and tokens.spans[0, 0] == 0
            assert tokens.spans[-1, 1] == pytest.approx(row.duration_seconds, abs=1e-3)
            assert row.label == (1 if name.startswith("Fight") else 0)
        assert rows[SEEN].n_frames > 0 and rows[SEEN].width == 64 and rows[COVER].width == 0


def test_a_run_that_needs_pictures_leaves_them_out(src: Path, tmp_path: Path) -> None:
    """Of a folder they are told as skipped; what a manifest names is a reject."""
    report = run(src, tmp_path / "c.zarr", backbones=BOTH)
    assert report.adds_up and (report.found, report.stored) == (3, 2)
    assert sorted(name for name, why in report.skipped if why == SOUND_FILE) == sorted([*HEARD, BROKEN])
    manifest = tmp_path / "list.csv"
    manifest.write_text("path\n" + "".join(f"{src / name}\n" for name in (*HEARD, SEEN)))
    report = run(manifest, tmp_path / "d.zarr", backbones=BOTH)
    assert report.adds_up and report.stored == 1
    assert {why for why, _ in report.rejects.values()} == {"no-video-stream"} and report.rejected == 5
    with pytest.raises(
        SourceError, match="sound alone, where no stream hears or one of pictures is required"
    ):
        discover(src / "Fight/a_0.wav")
    report = run(manifest, tmp_path / "e.zarr", backbones=BOTH, optional=("motion",))
    assert report.adds_up and report.stored == 6 and report.absent == {"motion: no video stream": 5}


def test_what_is_missing_is_found_before_pictures_are_decoded(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: Any, **__: Any) -> None:
        raise AssertionError("pictures were decoded")

    monkeypatch.setattr(worker, "decode_video", decoded)  # the workers are forks of this process
    report = run(src / MUTE, tmp_path / "a.zarr", backbones=BOTH, required=("audio",))
    assert list(report.rejects.values()) == [("missing-stream", "audio: no audio stream")]
    report = run(src / MUTE, tmp_path / "b.zarr", backbones=AUDIO)
    assert [why for why, _ in report.rejects.values()] == ["missing-stream"]


def test_pictures_are_added_later_where_there_are_some(src: Path, stored: Path, tmp_path: Path) -> None:
    run(src, tmp_path / "c.zarr", backbones=AUDIO, dtype="float32")
    given = {"dtype": "float32", "optional": ("motion",)}
    added = run(src, tmp_path / "c.zarr", backbones=BOTH, **given)
    assert added.adds_up and added.absent == {"motion: no video stream": 6}
    run(src, tmp_path / "whole.zarr", backbones=BOTH, **given)
    whole, later = contents(tmp_path / "whole.zarr"), contents(tmp_path / "c.zarr")
    # with pictures wanted too, a video without sound is one
    assert {i: v for i, v in whole["videos"].items() if i != MUTE} == later["videos"]


def test_verify_predict_and_the_rest_take_them(src: Path, stored: Path, tmp_path: Path) -> None:
    """As a user has them: verify, dry run, merge, a head, predict with a timeline, a report's pictures."""

    def said(*words: object, code: int = 0) -> str:
        found = CliRunner().invoke(onepass.app, [str(word) for word in words])
        assert found.exit_code == code, (found.output, found.exception)
        return " ".join(found.output.split())

    told = said("verify", stored, "--src", src, "--sample", "9")
    assert "a_0.wav: audio cosine 1.000000" in told and told.count("sound alone") == 6
    assert "frames confirmed by no other decoder" not in told
    told = said("extract", "--src", src, "--stream", "audio=logmel", "--dry-run", "--max-rejects", "1")
    assert "found 9 = 8 readable" in told
    told = said("merge", stored, "--out", tmp_path / "m.zarr", "--src", src)
    assert "7 videos + 2 rejects = 9" in told
    with open_cache(stored) as cache:
        head = train_head(cache, TrainConfig().updated({"model": "logistic", "n_resamples": 0}), cv=2)
    head.save(tmp_path / "head")
    scores, timeline = tmp_path / "scores.csv", tmp_path / "timeline.csv"
    told = said(
        *("predict", src, "--head", tmp_path / "head", "--out", scores, "--timeline", timeline),
        *("--workers", "1", "--max-rejects", "1", "--device", "cpu"),
    )
    with scores.open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 9 and all(rows[name]["probability"] for name in (*HEARD, SEEN))
    with timeline.open(encoding="utf-8", newline="") as file:
        windows = [row for row in csv.DictReader(file) if row["id"] == "Fight/a_0.wav"]
    assert len(windows) == 3 and float(windows[-1]["end_seconds"]) == pytest.approx(SECONDS, abs=1e-3)
    assert middle_frame_jpeg(src / "Fight/a_0.wav") is None


def test_a_cache_that_says_more_than_the_file_has_is_caught(src: Path, stored: Path, tmp_path: Path) -> None:
    """A sound file in the place of another: verify reads it again."""
    from pipeline.backbones.load import config_from_fingerprints, load_backbones
    from pipeline.decoding.decoders.base import DecodeProblem
    from pipeline.verify import compare_video

    with open_cache(stored) as cache:
        prints = {name: info.fingerprint for name, info in cache.streams.items()}
        backbones = load_backbones(config_from_fingerprints(prints, device="cpu"))
        index = cache.videos.id.tolist().index("Fight/a_0.wav")
        with pytest.raises(DecodeProblem, match="the file changed since it was extracted"):
            compare_video(cache, index, src / "Fight/b_0.mp3", backbones, rng=np.random.default_rng(0))
