"""`logmel` through the pipeline: sound where there is some, a reason where there is none, and the counts add up."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cache.check import check_cache
from cache.errors import CacheError, InputError
from cache.merge import merge
from cache.reader import open_cache
from cache.schema import StreamTokens, VideoFeatures
from cache.writer import CacheWriter
from heads.train import train_head
from heads.training.config import TrainConfig
from pipeline.backbones.choice import parse_stream
from pipeline.backbones.kind import settle
from pipeline.backbones.load import BackboneConfig, config_from_fingerprints, load_backbones
from pipeline.backbones.measured import MeasuredBackbone
from pipeline.config import ExtractConfig
from pipeline.decoding.decoders.base import DecodeProblem
from pipeline.decoding.logmel import TOKEN_WIDTH
from pipeline.flow import Flow
from pipeline.sources.shards import Shard
from pipeline.verify import compare_video, verdicts
from tests.pipeline.trees import contents, run
from tests.sounds import write_with_sound
from tests.videos import write_audio_only, write_truncated, write_video

BOTH = BackboneConfig.of(("motion", "audio"), device="cpu")
MUTE = ("NonFight/d_0.mp4", "Fight/g_0.mp4")
SOUNDING = ("Fight/a_0.mp4", "Fight/b_0.mkv", "NonFight/c_0.mp4", "NonFight/e_0.mp4")
BAD = ("Fight/broken.mp4", "NonFight/only_sound.avi")


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound") / "data"
    write_with_sound(root / SOUNDING[0])
    write_with_sound(root / SOUNDING[1], codec="libopus", sample_format="flt", seconds=2.5, at_seconds=(1.0,))
    write_with_sound(root / SOUNDING[2], seconds=0.6, at_seconds=(0.2,))
    write_with_sound(root / SOUNDING[3], sound_from=0.7, sound_seconds=1.0, start_seconds=0.4)
    for name in MUTE:
        write_video(root / name, seconds=2, seed=3)
    write_truncated(root / BAD[0])
    write_audio_only(root / BAD[1])
    return root


def absent(path: Path) -> dict[str, str]:
    with open_cache(path) as cache:
        assert not check_cache(cache)
        return {
            str(i): str(why) for i, why in zip(cache.videos.id, cache.absent("audio"), strict=True) if why
        }


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_what_is_absent_is_stored_as_absent(src: Path, tmp_path: Path, suffix: str) -> None:
    report = run(src, tmp_path / f"c.{suffix}", backbones=BOTH)
    assert report.adds_up and (report.found, report.stored, report.rejected) == (8, 6, 2)
    assert report.absent == {"audio: no audio stream": 2}
    assert "2 stored videos without audio: no audio stream" in report.lines()
    assert absent(tmp_path / f"c.{suffix}") == dict.fromkeys(MUTE, "no audio stream")
    again = run(src, tmp_path / f"c.{suffix}", backbones=BOTH)
    assert (again.stored_before, again.stored_now) == (6, 0)


def test_verify_hears_the_same(src: Path, tmp_path: Path) -> None:
    run(src, tmp_path / "c.zarr", backbones=BOTH, dtype="float32")
    with open_cache(tmp_path / "c.zarr") as cache:
        prints = {name: info.fingerprint for name, info in cache.streams.items()}
        backbones = load_backbones(config_from_fingerprints(prints, device="cpu"))
        assert isinstance(backbones["audio"], MeasuredBackbone) and backbones["audio"].dim == TOKEN_WIDTH
        found = []
        for index in range(len(cache)):
            path = src / cache.videos.row(index).id
            verified = compare_video(cache, index, path, backbones, rng=np.random.default_rng(0))
            assert not verified.misplaced
            found += verified.comparisons
        sound = next(verdict for verdict in verdicts(cache, found) if verdict.stream == "audio")
        assert sound.ok and sound.n_tokens == len(cache.load("audio").values) == 11


def test_a_required_sound_is_a_reject_where_it_is_missing(src: Path, tmp_path: Path) -> None:
    report = run(src, tmp_path / "c.zarr", backbones=BOTH, required=("audio",))
    assert report.adds_up and report.stored == 4 and not report.absent
    assert {i: why for i, (why, _) in report.rejects.items() if i in MUTE} == dict.fromkeys(
        MUTE, "missing-stream"
    )
    assert report.rejects[MUTE[0]][1] == "audio: no audio stream"
    with pytest.raises(CacheError, match="optional in this run but required in .*: give --require audio"):
        run(src, tmp_path / "c.zarr", backbones=BOTH)
    with pytest.raises(
        InputError, match="--require sound: no such stream in this run; choose from motion, audio"
    ):
        run(src, tmp_path / "d.zarr", backbones=BOTH, required=("sound",))
    with pytest.raises(InputError, match="--optional audio: it is required as well"):
        ExtractConfig(src, tmp_path / "d.zarr", BOTH, optional=("audio",), required=("audio",))


def test_sound_is_added_later_as_if_it_had_been_there(src: Path, tmp_path: Path) -> None:
    whole = run(src, tmp_path / "whole.zarr", backbones=BOTH)
    run(src, tmp_path / "later.zarr", backbones=BackboneConfig.of(("motion",), device="cpu"))
    added = run(src, tmp_path / "later.zarr", backbones=BOTH)
    assert added.added_streams == {"audio": 6} and added.absent == whole.absent
    assert contents(tmp_path / "later.zarr") == contents(tmp_path / "whole.zarr")
    assert absent(tmp_path / "later.zarr") == absent(tmp_path / "whole.zarr")


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(src, tmp_path / "whole.zarr", backbones=BOTH)

    def cut(flow: Flow) -> None:
        if flow._stored or flow._rejected:
            flow._commit()
            raise KeyboardInterrupt

    for _ in range(3):
        monkeypatch.setattr(Flow, "_commit_if_due", cut)
        with pytest.raises(KeyboardInterrupt):
            run(src, tmp_path / "cut.zarr", backbones=BOTH)
    monkeypatch.undo()
    assert run(src, tmp_path / "cut.zarr", backbones=BOTH).adds_up
    assert contents(tmp_path / "cut.zarr") == contents(tmp_path / "whole.zarr")
    assert absent(tmp_path / "cut.zarr") == absent(tmp_path / "whole.zarr")


def test_shards_with_absent_streams_merge_to_the_whole(src: Path, tmp_path: Path) -> None:
    run(src, tmp_path / "whole.zarr", backbones=BOTH)
    parts = []
    for index in (1, 2):
        parts.append(tmp_path / f"{index}.zarr")
        run(src, parts[-1], backbones=BOTH, shard=Shard(index, 2))
    merge(parts, tmp_path / "merged.zarr")
    assert contents(tmp_path / "merged.zarr") == contents(tmp_path / "whole.zarr")
    assert absent(tmp_path / "merged.zarr") == absent(tmp_path / "whole.zarr")


def test_a_head_is_trained_where_sound_tells_the_class(tmp_path: Path) -> None:
    """Only the clicks differ between the classes; a third of the videos has no sound."""
    for n in range(24):
        name = tmp_path / "data" / ("Fight" if n % 2 else "NonFight") / f"v{n:02d}_0.mkv"
        times = (0.3, 0.7, 1.1) if n % 2 else ()
        if n % 3:
            write_with_sound(name, codec="pcm_s16le", sample_format="s16", seconds=1.4, at_seconds=times)
        else:
            write_video(name, seconds=1.4, seed=n)
    report = run(
        tmp_path / "data", tmp_path / "c.zarr", backbones=BackboneConfig.of(("audio",), device="cpu")
    )
    assert report.adds_up and report.reasons() == {"missing-stream": 8}  # sound is all that was asked for
    with open_cache(tmp_path / "c.zarr") as cache:
        head = train_head(cache, TrainConfig().updated({"model": "logistic", "n_resamples": 0}), cv=2)
        found = head.predict(cache)
        scored = ~np.isnan(found.probabilities)
        assert int(scored.sum()) == 16 and not found.lacking
        labels = cache.videos.label[scored]
        assert found.probabilities[scored][labels == 1].min() > found.probabilities[scored][labels == 0].max()


def test_a_track_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="--stream audio: track=x: the number of an audio stream"):
        settle(parse_stream("audio=logmel,track=x"))
    assert settle(parse_stream("audio=logmel,track=2")).plan.sound is not None
    with pytest.raises(InputError, match="logmel streams have no such setting"):
        load_backbones(BackboneConfig.of(("audio=logmel,fps=3",), device="cpu"))


@pytest.mark.slow
def test_the_profile_counts_no_flops_for_it(src: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    from pipeline.run import extract

    config = ExtractConfig(src, tmp_path / "c.zarr", BOTH, profile=True, max_rejects=1.0)
    report = extract(config, console=Console(file=said, width=200))
    assert any(line.strip().startswith("audio") and "0.00 TFLOP" in line for line in report.profile)


def rewritten(source: Path, target: Path, change: Callable[[VideoFeatures], VideoFeatures]) -> Path:
    """The cache again, with other contents of a video."""
    with (
        open_cache(source) as cache,
        CacheWriter.open(
            target, streams=cache.specs, dataset="d", label_names=cache.label_names, provenance={}
        ) as writer,
    ):
        for index in range(len(cache)):
            absent = {name: str(cache.absent(name)[index]) for name in cache.streams}
            held = {name: cache.tokens(name, index) for name, why in absent.items() if not why}
            row = cache.videos.row(index)
            lacks = {name: why for name, why in absent.items() if why}
            writer.commit([change(VideoFeatures(row, held, lacks))], [])
    return target


def test_verify_catches_what_is_said_falsely(src: Path, tmp_path: Path) -> None:
    run(src, tmp_path / "c.zarr", backbones=BOTH)

    def silenced(video: VideoFeatures) -> VideoFeatures:
        if video.row.id != SOUNDING[0]:
            return video
        return VideoFeatures(video.row, {"motion": video.tokens["motion"]}, {"audio": "no audio stream"})

    def swapped(video: VideoFeatures) -> VideoFeatures:
        if video.row.id != SOUNDING[0]:
            return video
        sound = video.tokens["audio"]
        turned = StreamTokens(np.roll(sound.values, 1, axis=0), sound.spans)
        return VideoFeatures(video.row, {**video.tokens, "audio": turned})

    for name, change in (("lie", silenced), ("swap", swapped)):
        path = rewritten(tmp_path / "c.zarr", tmp_path / f"{name}.zarr", change)
        with open_cache(path) as cache:
            assert not check_cache(cache)
            prints = {stream: info.fingerprint for stream, info in cache.streams.items()}
            backbones = load_backbones(config_from_fingerprints(prints, device="cpu"))
            index = cache.videos.id.tolist().index(SOUNDING[0])
            given = {"rng": np.random.default_rng(0)}
            if name == "lie":
                with pytest.raises(
                    DecodeProblem, match=r"audio: it is said to be absent \(no audio stream\), 5 were due"
                ):
                    compare_video(cache, index, src / SOUNDING[0], backbones, **given)
            else:
                found = compare_video(cache, index, src / SOUNDING[0], backbones, **given)
                assert found.misplaced and "audio" in found.misplaced[0]
