"""Extracting from Python is the command: the same cache, the same lines, the same errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import pipeline
from cache.errors import InputError, RejectLimitExceeded, SourceError
from pipeline import run as run_module
from tests.pipeline.tiny import TinyBackbone, tiny_backbones
from tests.pipeline.trees import BAD, GOOD, contents, make_tree, run
from tests.videos import write_video

pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(config: Any, **_: Any) -> Mapping[str, TinyBackbone]:
        return tiny_backbones(*config.names)

    monkeypatch.setattr(run_module, "load_backbones", load)


def test_it_makes_the_command_s_cache_and_tells_its_lines(tmp_path: Path) -> None:
    src = make_tree(tmp_path / "data")
    lines: list[str] = []
    report = pipeline.extract(
        src, str(tmp_path / "a.zarr"), weights="random", workers=2, on_line=lines.append
    )
    assert report.found == report.stored + report.rejected == 8 and report.adds_up
    assert report.rejects.keys() == BAD.keys()
    assert "found      8 = 5 stored + 3 rejected: adds up" in lines
    assert not [line for line in lines if "\n" in line]
    run(src, tmp_path / "b.zarr")
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")
    again = pipeline.extract(src, tmp_path / "a.zarr", weights="random")
    assert (again.stored_now, again.stored_before) == (0, len(GOOD))


def test_it_prints_nothing_by_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pipeline.extract(make_tree(tmp_path / "data"), tmp_path / "a.zarr", streams=["clip"], weights="random")
    assert capfd.readouterr() == ("", "")


def test_a_dry_run_stores_nothing(tmp_path: Path) -> None:
    report = pipeline.extract(make_tree(tmp_path / "data"), tmp_path / "a.zarr", dry_run=True)
    assert not (tmp_path / "a.zarr").exists() and report.rejected == 3


def test_errors_are_the_command_s(tmp_path: Path) -> None:
    src = make_tree(tmp_path / "data")
    with pytest.raises(RejectLimitExceeded, match="3 of 8 inputs were rejected"):
        pipeline.extract(src, tmp_path / "a.zarr", weights="random", max_rejects=0.1)
    assert len(contents(tmp_path / "a.zarr")["videos"]) == 5, "everything is stored before that is said"
    with pytest.raises(InputError, match="--streams sound"):
        pipeline.extract(src, tmp_path / "b.zarr", streams=["sound"])
    with pytest.raises(SourceError):
        pipeline.extract(tmp_path / "nowhere", tmp_path / "b.zarr")
    with pytest.raises(TypeError, match="wokers"):
        pipeline.extract(src, tmp_path / "b.zarr", wokers=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoder": "ffmpeg"}, "choose from"),
        ({"duplicates": "drop"}, "choose from"),
        ({"redo": "some"}, "choose from"),
        ({"dtype": "float64"}, "choose from"),
        ({"workers": -1}, "--workers -1"),
        ({"workers": 100_000}, "--workers 100000"),
        ({"workers": "2"}, "--workers must be a whole number"),
        ({"max_rejects": "0.1"}, "max_rejects must be a number, got '0.1'"),
        ({"commit_videos": 1.5}, "commit_videos must be a whole number"),
        ({"shard": "1/2"}, "shard must be a Shard, got '1/2'"),
        ({"pool": None}, "pool must be a PoolSettings"),
        ({"streams": "motion"}, "such as"),
        ({"streams": [1]}, "streams is a list, such as"),
        ({"device": 0}, "device is a text, such as"),
        ({"seed": "x"}, "seed is a whole number, got 'x'"),
        ({"weights": 3}, "weights is a text, got 3"),
        ({"batch_sizes": 4}, "batch_sizes is a mapping"),
        ({"batch_sizes": {"motion": "many"}}, "--batch motion=many: between 1 and"),
        ({"src": ["a.mp4"]}, "src is a path, got"),
        ({"src": ""}, "src is a path, got ''"),
        ({"out": None}, "out is a path, got None"),
        ({"labels": {"a.mp4": "Fight"}}, "labels is a path, got dict"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_not_another_setting(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """A decoder, a `redo` or a `duplicates` that does not exist was taken for another one without a word."""
    write_video(tmp_path / "src" / "a.mp4", seconds=0.5)
    asked = {"src": tmp_path / "src", "out": tmp_path / "c.zarr", "streams": ["motion"]} | settings
    with pytest.raises(InputError) as refused:
        pipeline.extract(asked.pop("src"), asked.pop("out"), **asked)
    assert message in str(refused.value)
    assert not (tmp_path / "c.zarr").exists()


def test_settings_reach_the_models_and_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def load(config: Any, **_: Any) -> Mapping[str, TinyBackbone]:
        seen.append(config)
        return tiny_backbones(*config.names)

    monkeypatch.setattr(run_module, "load_backbones", load)
    src = make_tree(tmp_path / "data")
    given = {"seed": 3, "batch_sizes": {"clip": 2}, "min_seconds": 1.0}
    report = pipeline.extract(src, tmp_path / "a.zarr", streams=["clip"], weights="random", **given)
    (choice,) = seen[0].streams
    assert (choice.seed, seen[0].batch_sizes, choice.weights) == (3, (("clip", 2),), "random")
    assert {reason for reason, _ in report.rejects.values()} > {"too-short"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"decoder": "ffmpeg"}, "--decoder ffmpeg: choose from pyav, decord, opencv"),
        ({"dtype": "float64"}, "--dtype float64: choose from float16, float32"),
        ({"duplicates": "drop"}, "--duplicates drop: choose from keep, reject"),
        ({"redo": "some"}, "--redo some: choose from affected, all"),
        ({"streams": "motion"}, "streams are a list of names, such as ['clip'], not 'motion'"),
    ],
)
def test_a_word_that_is_none_is_no_default(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    """An unknown decoder was taken for PyAV, silently, also by `onepass predict --decoder`."""
    with pytest.raises(InputError, match=re.escape(says)):
        pipeline.extract(tmp_path, tmp_path / "a.zarr", **settings)


def test_the_public_names_are_these() -> None:
    assert pipeline.__all__ == ["BackboneConfig", "ExtractConfig", "ExtractReport", "extract", "run_config"]
    assert all(getattr(pipeline, name) is not None for name in pipeline.__all__)
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'nothing'"):
        _ = pipeline.nothing
