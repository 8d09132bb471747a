from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import load_file

from cache.errors import HeadError
from cache.reader import open_cache
from heads.train import train_head
from heads.trained.head import TrainedHead
from heads.trained.seen import SeenVideos
from heads.trained.typed import fits
from heads.training.config import TrainConfig

REMOVED = object()


@pytest.fixture(scope="module")
def saved(toy_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "h"
    with open_cache(toy_path) as cache:
        config = TrainConfig().updated({"model": "logistic", "n_resamples": 20})
        train_head(cache, config, cv=3).save(folder)
    return folder


def edited(saved: Path, folder: Path, place: tuple[str | int, ...], value: Any) -> Path:
    """The head with one entry of head.json replaced; numbers as JSON has them, 1e400 too."""
    values = copy.deepcopy(json.loads((saved / "head.json").read_text()))
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    if value is REMOVED:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    folder.mkdir()
    (folder / "head.json").write_text(json.dumps(values).replace("Infinity", "1e400"))
    (folder / "head.safetensors").write_bytes((saved / "head.safetensors").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("grid",), ["clip"], "grid cannot be"),
        (("members",), 0, "members cannot be 0"),
        (("members",), 10**12, "members cannot be"),
        (("members",), float("inf"), "members cannot be inf"),
        (("n_parameters",), None, "n_parameters cannot be None"),
        (("temperature",), float("inf"), "temperature cannot be inf"),
        (("temperature",), True, "temperature cannot be True"),
        (("temperature",), 1e9, "temperature cannot be"),
        (("threshold", "threshold"), True, "threshold.threshold cannot be True"),
        (("threshold", "threshold"), 1.5, "threshold cannot be 1.5"),
        (("threshold", "interval"), [1], "threshold.interval cannot be"),
        (("threshold", "interval", "low"), "x", "threshold.interval.low cannot be"),
        (("threshold", "objective"), "luck", "threshold.objective cannot be"),
        (("label_names",), [1, 2], "label_names cannot be"),
        (("notes",), "all well", "notes cannot be"),
        (("metrics",), REMOVED, "metrics is missing"),
        (("trained_on",), [], "trained_on cannot be"),
        (("trained_on", "cache_digest"), REMOVED, "trained_on.cache_digest is missing"),
        (("streams",), [], "at least one stream"),
        (("streams", 0), 3, "streams cannot be"),
        (("streams", 0, "dim"), "12", "streams.dim cannot be"),
        (("streams", 0, "dim"), 10**9, "larger head than head.safetensors"),
        (("streams", 0, "fingerprint"), None, "streams.fingerprint cannot be"),
        (("config", "model", "architecture"), "mlp", "larger head|does not fit"),
    ],
)
def test_what_a_head_cannot_be_is_one_sentence(
    place: tuple[str | int, ...], value: Any, said: str, saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(HeadError, match=said) as caught:
        TrainedHead.load(edited(saved, tmp_path / "h", place, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [{}, {"trainn": {}}, {"train": {"files": "", "sources": ""}}])
def test_a_head_that_knows_no_video_of_its_own_is_refused(value: Any, saved: Path, tmp_path: Path) -> None:
    head = TrainedHead.load(edited(saved, tmp_path / "h", ("trained_on", "videos"), value))
    with pytest.raises(HeadError, match="trained_on.videos is not readable"):
        SeenVideos.of_head(head.info)


def test_what_flags_no_video_is_a_threshold(saved: Path, tmp_path: Path) -> None:
    """The cut above a score of 1, which false-alarms-per-hour may choose."""
    above = float(np.nextafter(1.0, 2.0))
    head = TrainedHead.load(edited(saved, tmp_path / "h", ("threshold", "threshold"), above))
    assert head.info.threshold.threshold == above


def test_the_head_as_it_was_is_read(saved: Path) -> None:
    assert TrainedHead.load(saved).info.members == 3
    assert load_file(saved / "head.safetensors")


def test_types_as_json_has_them() -> None:
    assert fits(1, float)
    assert fits(1.5, float)
    assert not any(fits(value, float) for value in (True, None, "1", float("nan"), float("inf"), [1]))
    assert fits(1, int)
    assert not any(fits(value, int) for value in (True, 1.0, "1"))
    assert fits(None, float | None)
    assert fits(["a", "b"], tuple[str, str])
    assert not fits(["a"], tuple[str, str])
    assert fits([], tuple[str, ...])
    assert not fits([1], tuple[str, ...])
    assert fits({"a": 1}, Mapping[str, Any])
    assert not fits({"a": 1}, Mapping[str, str])
    assert fits("f1", Literal["f1", "fbeta"])
    assert not fits(["f1"], Literal["f1", "fbeta"])
