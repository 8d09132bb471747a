"""Arguments that cannot be, given from Python: one line of ours, never an AttributeError from inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.errors import HeadError, OnepassError
from cache.reader import Cache, open_cache
from cache.schema import StreamTokens
from heads import (
    Sweep,
    TrainConfig,
    TrainedHead,
    audit_cache,
    cached_videos,
    cross_validate,
    make_cells,
    read_axes,
    score_over_time,
    train_head,
)
from heads.data.dataset import load_dataset
from heads.trained.rethreshold import selection_scores
from tests.heads.synthetic import toy_videos, write_cache

RAMP = np.linspace(-1, 1, 60, dtype=np.float32).reshape(5, 12)
SPANS = [[i, i + 1] for i in range(5)]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> TrainedHead:
    """Of the single stream clip."""
    dims = {"clip": 12}
    path = write_cache(tmp_path_factory.mktemp("one") / "one.zarr", toy_videos(dims=dims), dims=dims)
    with open_cache(path) as cache:
        return train_head(cache, TrainConfig().updated({"epochs": 1, "batch_size": 16, "n_resamples": 0}))


def test_no_resamples_are_no_intervals(toy_cache: Cache) -> None:
    report = audit_cache(toy_cache, n_resamples=0)
    assert report.shortcuts and all(shortcut.interval is None for shortcut in report.shortcuts)


def test_plain_tokens_are_scored_however_they_are_wrapped(head: TrainedHead) -> None:
    (expected,) = head.predict({"clip": RAMP}).probabilities
    for given in (
        RAMP,
        [RAMP],
        RAMP[None],
        RAMP.astype(np.float64),
        StreamTokens(RAMP, SPANS),  # type: ignore[arg-type]
        {"clip": RAMP.tolist()},
        {"clip": StreamTokens(RAMP.tolist(), SPANS)},  # type: ignore[arg-type]
    ):
        assert head.predict(given).probabilities.tolist() == pytest.approx([expected], abs=1e-6)  # type: ignore[arg-type]
    assert len(head.predict(np.stack([RAMP, RAMP, RAMP]))) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("c.zarr", r"not a path: predict\(open_cache\('c.zarr'\)\)"),
        (Path("c.zarr"), "not a path"),
        (None, "not None"),
        (5, "not 5"),
        ([None], "a mapping of stream"),
        ({"clip": "x"}, "must be numbers"),
        ({"clip": [[1, 2], [3]]}, "must be numbers"),
        ({"clip": RAMP * np.nan}, "NaN"),
        ({"clip": RAMP[0]}, r"\[T, D\]"),
    ],
)
def test_what_holds_no_tokens_is_said(head: TrainedHead, given: Any, message: str) -> None:
    with pytest.raises(HeadError, match=message):
        head.predict(given)


def test_a_head_of_two_streams_takes_no_bare_array(toy_cache: Cache, quick: TrainConfig) -> None:
    both = train_head(toy_cache, quick.updated({"epochs": 1, "n_resamples": 0}))
    with pytest.raises(HeadError, match=r"a mapping of stream \(clip, slowfast\) to tokens"):
        both.predict(RAMP)  # type: ignore[arg-type]


def test_spans_that_cannot_be_are_value_errors() -> None:
    for spans in (None, "x", [["a", "b"]] * 5):
        with pytest.raises(ValueError, match="token spans must be an array or a list of numbers"):
            StreamTokens(RAMP, spans)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"float32 \[5, 2\]"):
        StreamTokens(RAMP, [[0, 1]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda cache, head: audit_cache("c.zarr"),
        lambda cache, head: audit_cache(cache, n_resamples=-1),
        lambda cache, head: audit_cache(cache, near_threshold="high"),
        lambda cache, head: train_head("c.zarr"),
        lambda cache, head: train_head(cache, {"lr": 1}),
        lambda cache, head: train_head(cache, TrainConfig(), cv="3"),
        lambda cache, head: train_head(cache, TrainConfig(), cv=2.5),
        lambda cache, head: train_head(cache, TrainConfig(), device="tpu"),
        lambda cache, head: train_head(cache, TrainConfig(), labels={"a": 1}),
        lambda cache, head: TrainConfig(seed="a"),
        lambda cache, head: TrainConfig(n_resamples=None),
        lambda cache, head: TrainConfig().updated({1: 2}),
        lambda cache, head: TrainConfig().updated("lr=3"),
        lambda cache, head: TrainConfig().updated({"streams": 3}),
        lambda cache, head: TrainConfig().updated({"epochs": float("inf")}),
        lambda cache, head: TrainConfig.from_dict([1]),
        lambda cache, head: list(score_over_time(head, "c.zarr")),
        lambda cache, head: list(score_over_time(head, cache, window_seconds="3")),
        lambda cache, head: cross_validate(cache, TrainConfig(), k=3),
        lambda cache, head: cross_validate(load_dataset(cache, separate_streams=False), TrainConfig(), k="3"),
        lambda cache, head: load_dataset("c.zarr", separate_streams=False),
        lambda cache, head: cached_videos("c.zarr"),
        lambda cache, head: Sweep("c.zarr", TrainConfig(), out="out"),
        lambda cache, head: Sweep(cache, TrainConfig(), out="out", n_seeds="2"),
        lambda cache, head: read_axes([3]),
        lambda cache, head: selection_scores(head, "c.zarr"),
    ],
)
def test_nothing_raw_comes_out(
    toy_cache: Cache,
    head: TrainedHead,
    wrong: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OnepassError):
        wrong(toy_cache, head)


@pytest.mark.parametrize("videos", [[999], [-1], 3, ["train/NonFight/v0000.mp4"], [0.5]])
def test_videos_are_their_numbers(head: TrainedHead, tmp_path: Path, videos: Any) -> None:
    dims = {"clip": 12}
    with open_cache(write_cache(tmp_path / "one.zarr", toy_videos(dims=dims), dims=dims)) as cache:
        with pytest.raises(OnepassError, match="numbers"):
            list(score_over_time(head, cache, videos=videos))
        assert list(score_over_time(head, cache, videos=[])) == []


def test_a_sweep_without_cells_says_so(toy_cache: Cache, tmp_path: Path) -> None:
    with (
        Sweep(toy_cache, TrainConfig(), out=tmp_path) as sweep,
        pytest.raises(OnepassError, match="needs cells"),
    ):
        sweep.train([])


def test_one_text_is_one_axis_and_one_name_is_one_stream(toy_cache: Cache) -> None:
    cells, _ = make_cells(TrainConfig(), read_axes("lr=1e-3,1e-2"))
    assert len(cells) == 2
    assert len(cached_videos(toy_cache, splits="val").y) == 24
