"""A stream that is added later: only it is computed, and the cache ends as if both had been extracted together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cache.errors import FingerprintMismatch, InputError
from cache.reader import open_cache
from cache.schema import VideoFeatures
from cache.writer import CacheWriter
from pipeline import run as run_module
from pipeline.add_stream import missing_streams, sidecar_path
from tests.pipeline.tiny import TinyBackbone, tiny_backbones
from tests.pipeline.trees import BAD, GOOD, contents, run
from tests.videos import write_text, write_video

pytestmark = pytest.mark.usefixtures("forked_workers", "tiny")


def nothing_is_left_beside(out: Path) -> bool:
    return not [path.name for path in out.parent.iterdir() if "adding" in path.name]


def test_the_result_equals_both_at_once(src: Path, out: Path, tiny: dict[str, Any]) -> None:
    run(src, out, streams=("clip",))
    assert missing_streams(out, ("clip", "slowfast")) == ("slowfast",)
    report = run(src, out)
    assert report.adds_up and report.added_streams == {"slowfast": 5}
    assert report.stored_before == 5 and report.stored_now == 0 and report.tokens == {"slowfast": 20}
    assert tiny["last"]["clip"].batches == [] and tiny["last"]["slowfast"].batches
    whole = out.with_name(f"whole{out.suffix}")
    run(src, whole)
    assert contents(out) == contents(whole)
    assert missing_streams(out, ("clip", "slowfast")) == ()
    assert nothing_is_left_beside(out)


def test_new_videos_come_with_both_streams(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    run(src, out, streams=("clip",))
    write_video(src / "val/Fight/new.mp4", seconds=0.8, seed=60)
    report = run(src, out)
    assert report.adds_up and report.stored_now == 1 and report.added_streams == {"slowfast": 5}
    assert len(contents(out)["videos"]) == 6


class Killed(BaseException):
    """Stands for a power cut."""


@pytest.mark.parametrize("moment", ["first commit", "attach"])
def test_an_interruption_leaves_the_cache_as_it_was_and_resumes(
    moment: str, src: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(src, out, streams=("clip",))
    before = contents(out)
    commit = CacheWriter.commit

    def cut(self: CacheWriter, *args: Any) -> None:
        commit(self, *args)
        raise Killed

    def no_attach(self: CacheWriter, sidecar: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if moment == "attach":
            patch.setattr(CacheWriter, "attach_stream", no_attach)
        else:
            patch.setattr(CacheWriter, "commit", cut)
        run(src, out, commit_videos=1)
    assert contents(out) == before
    report = run(src, out)
    assert report.adds_up and report.added_streams["slowfast"] <= 5
    if moment == "attach":
        assert report.added_streams["slowfast"] == 0  # all of it was in the sidecar
    whole = out.with_name(f"whole{out.suffix}")
    run(src, whole)
    assert contents(out) == contents(whole)
    assert nothing_is_left_beside(out)


def test_a_video_that_can_no_longer_be_decoded_becomes_a_reject(src: Path, tmp_path: Path) -> None:
    """Every stored video has every stream."""
    out = tmp_path / "c.zarr"
    run(src, out, streams=("clip",))
    write_text(src / GOOD[0])
    report = run(src, out)
    assert report.adds_up and report.stored == 4 and report.rejected == 4
    found = contents(out)
    assert set(found["videos"]) == set(GOOD[1:])
    assert found["rejects"].keys() == {*BAD, GOOD[0]}


def test_a_changed_file_is_refused_before_anything_is_attached(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    run(src, out, streams=("clip",))
    before = contents(out)
    write_video(src / GOOD[0], seconds=1.7, seed=61)
    with pytest.raises(
        FingerprintMismatch, match=f"1 files changed since they were stored, such as {GOOD[0]}"
    ):
        run(src, out)
    assert contents(out) == before
    assert sidecar_path(out, "slowfast").exists()


def test_unknown_digests_are_refused_before_anything_is_computed(
    src: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    run(src, tmp_path / "known.zarr", streams=("clip",))
    out = tmp_path / "c.zarr"
    with open_cache(tmp_path / "known.zarr") as cache:
        videos = [
            VideoFeatures(replace(cache.videos.row(i), digest=""), {"clip": cache.tokens("clip", i)})
            for i in range(len(cache))
        ]
        with CacheWriter.open(
            out, streams=cache.specs, dataset="x", label_names=cache.label_names, provenance={}
        ) as writer:
            writer.commit(videos, [])
    with pytest.raises(InputError, match="5 stored videos have no digest"):
        run(src, out)
    assert tiny["last"]["slowfast"].batches == [] and nothing_is_left_beside(out)


def test_videos_that_are_gone_are_refused(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    run(src, out, streams=("clip",))
    (src / GOOD[0]).unlink()
    with pytest.raises(InputError, match="1 stored videos are not in"):
        run(src, out)


def test_a_stream_that_is_there_may_not_be_left_out(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    run(src, out)
    with pytest.raises(FingerprintMismatch, match="ask for --streams clip,slowfast"):
        run(src, out, streams=("clip",))
    with open_cache(out) as cache:
        assert set(cache.streams) == {"clip", "slowfast"}


@pytest.mark.parametrize("change", ["seed", "dtype"])
def test_what_is_there_is_checked_before_a_stream_is_computed(
    change: str, src: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip cache of another seed or dtype could never be continued: not one window of the new stream may be spent on it."""
    run(src, out, streams=("clip",))
    before = contents(out)
    loaded: dict[str, TinyBackbone] = {}

    def load(config: Any, **_: Any) -> Mapping[str, TinyBackbone]:
        loaded.update(tiny_backbones(*config.names, **({"seed": 1} if change == "seed" else {})))
        return dict(loaded)

    monkeypatch.setattr(run_module, "load_backbones", load)
    with pytest.raises(FingerprintMismatch, match="weights.seed" if change == "seed" else "float32"):
        run(src, out, dtype="float32" if change == "dtype" else "float16")
    assert not any(backbone.batches for backbone in loaded.values())
    assert not loaded or change == "seed"  # which only the weights tell
    assert contents(out) == before and nothing_is_left_beside(out)
    monkeypatch.setattr(run_module, "load_backbones", lambda config, **_: tiny_backbones(*config.names))
    assert run(src, out).added_streams == {"slowfast": 5}


def test_an_empty_cache_misses_nothing(tmp_path: Path) -> None:
    src = tmp_path / "data"
    write_text(src / "a.mp4")
    out = tmp_path / "c.zarr"
    run(src, out, streams=("clip",))
    assert missing_streams(out, ("clip", "slowfast")) == ()
    assert missing_streams(tmp_path / "nowhere.zarr", ("clip",)) == ()
