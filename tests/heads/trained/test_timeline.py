from __future__ import annotations

import csv
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.errors import HeadError, InputError
from cache.reader import Cache, open_cache
from cache.schema import StreamTokens, VideoFeatures
from cache.tables import TokenArray
from heads.data.tokens import Channel, MemoryTokens
from heads.report.timeline_file import TimelineRequest, write_timelines
from heads.train import train_head
from heads.trained.head import TrainedHead
from heads.trained.timeline import Timeline, score_over_time, sliding_windows
from heads.training.config import TrainConfig
from tests.heads.synthetic import DIMS, features, spans, toy_videos, write_cache

BURST = range(40, 60)


def long_video(index: int, n_tokens: int = 100) -> VideoFeatures:
    """A long positive whose signal lies in tokens 40 to 59 only, at 2 s a token."""
    video = features(index, label=1, rng=np.random.default_rng(index), tokens=n_tokens, signal=0.0)
    made = {}
    for stream, tokens in video.tokens.items():
        values = tokens.values.copy()
        factor = len(values) // n_tokens
        values[BURST.start * factor : BURST.stop * factor, 0] += 4.0
        made[stream] = StreamTokens(values, tokens.spans)
    return VideoFeatures(video.row, made)


@pytest.fixture(scope="module")
def long_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("long") / "long.zarr", [long_video(0), long_video(1, 7)])


@pytest.fixture
def long_cache(long_path: Path) -> Iterator[Cache]:
    with open_cache(long_path) as cache:
        yield cache


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainedHead]:
    path = write_cache(tmp_path_factory.mktemp("t") / "t.zarr", toy_videos(signal=4.0))
    recipes = {
        "attention-pool": {"model": "attention-pool"},
        "linear": {"model": "linear", "epochs": 40, "lr": 0.05},
        "fusion": {"model": "fusion", "width": 16, "depth": 1},
        "fusion-attention": {"model": "fusion", "width": 16, "depth": 1, "pool": "attention"},
        "clip grid": {"model": "linear", "data.grid": "clip", "epochs": 40, "lr": 0.05},
    }
    base = TrainConfig().updated({"epochs": 6, "batch_size": 8, "n_resamples": 0, "lr": 0.01})
    with open_cache(path) as cache:
        return {name: train_head(cache, base.updated(recipe)) for name, recipe in recipes.items()}


@pytest.mark.parametrize("name", ["attention-pool", "linear", "fusion", "fusion-attention", "clip grid"])
def test_the_burst_stands_out_and_lies_where_it_is(
    heads: dict[str, TrainedHead], long_cache: Cache, name: str
) -> None:
    head = heads[name]
    first, short = score_over_time(head, long_cache, method="sliding")
    assert first.id == long_cache.videos.id[0]
    inside = (first.spans[:, 0] >= 80.0) & (first.spans[:, 1] <= 120.0)
    assert first.scores[inside].mean() > first.scores[~inside].mean() + 0.25
    assert len(first) == (200 if name == "clip grid" else 100)
    assert len(short) == (14 if name == "clip grid" else 7)
    np.testing.assert_allclose(
        [first.probability, short.probability], head.predict(long_cache).probabilities, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["attention-pool", "fusion-attention"])
def test_attention_is_shared_out_among_the_windows(
    heads: dict[str, TrainedHead], long_cache: Cache, name: str
) -> None:
    found = list(score_over_time(heads[name], long_cache, method="attention"))
    assert [timeline.method for timeline in found] == ["attention", "attention"]
    assert [len(timeline) for timeline in found] == [100, 7]
    for timeline in found:
        assert timeline.scores.sum() == pytest.approx(1.0, abs=1e-5)
        assert (timeline.scores >= 0).all()


def test_a_window_scores_as_a_video_of_its_own(heads: dict[str, TrainedHead], long_cache: Cache) -> None:
    for name in ("attention-pool", "fusion"):
        head = heads[name]
        (timeline,) = score_over_time(head, long_cache, videos=[0], method="sliding")
        slow, clip = long_cache.tokens("slowfast", 0), long_cache.tokens("clip", 0)
        alone = {
            "slowfast": StreamTokens(slow.values[42:43], slow.spans[42:43]),
            "clip": StreamTokens(clip.values[84:86], clip.spans[84:86]),
        }
        assert timeline.scores[42] == pytest.approx(head.predict(alone).probabilities[0], rel=1e-4)
        wide = next(score_over_time(head, long_cache, videos=[0], method="sliding", window_seconds=6.0))
        alone = {
            "slowfast": StreamTokens(slow.values[41:44], slow.spans[41:44]),
            "clip": StreamTokens(clip.values[82:88], clip.spans[82:88]),
        }
        assert wide.scores[42] == pytest.approx(head.predict(alone).probabilities[0], rel=1e-4)
        everything = next(score_over_time(head, long_cache, videos=[1], method="sliding", window_seconds=1e6))
        np.testing.assert_allclose(everything.scores, everything.probability, rtol=1e-4)


def test_windows_take_the_nearest_token_where_they_hold_none() -> None:
    grid = TokenArray(np.zeros((3, 1), np.float32), spans(3, 6.0), np.array([0, 3]))
    values = torch.arange(2.0)[:, None]
    other = Channel(values, torch.tensor([0.5, 5.9]), torch.tensor([0]), torch.tensor([2]))
    own = Channel(torch.zeros(3, 1), torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0]), torch.tensor([3]))
    found = sliding_windows(MemoryTokens((own, other)), grid)
    assert found.channels[0].lengths.tolist() == [1, 1, 1]
    assert found.channels[1].starts.tolist() == [0, 0, 1]
    assert found.channels[1].lengths.tolist() == [1, 1, 1]
    tied = Channel(values, torch.tensor([2.0, 4.0]), torch.tensor([0]), torch.tensor([2]))
    assert sliding_windows(MemoryTokens((own, tied)), grid).channels[1].starts.tolist()[1] == 0


def test_tokens_out_of_order_are_refused() -> None:
    grid = TokenArray(np.zeros((2, 1), np.float32), spans(2, 4.0), np.array([0, 2]))
    channel = Channel(torch.zeros(2, 1), torch.tensor([3.0, 1.0]), torch.tensor([0]), torch.tensor([2]))
    with pytest.raises(HeadError, match="order of time"):
        sliding_windows(MemoryTokens((channel,)), grid, window_seconds=2.0)


def test_groups_of_videos_give_what_all_at_once_gives(
    heads: dict[str, TrainedHead], toy_cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = list(score_over_time(heads["fusion"], toy_cache, videos=range(20)))
    monkeypatch.setattr("heads.trained.timeline.TOKENS_AT_ONCE", 20)
    apart = list(score_over_time(heads["fusion"], toy_cache, videos=range(20)))
    assert [t.id for t in together] == [t.id for t in apart]
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4)
    assert list(score_over_time(heads["fusion"], toy_cache, videos=[])) == []


def test_requests_that_do_not_fit_are_refused(heads: dict[str, TrainedHead], long_cache: Cache) -> None:
    with pytest.raises(InputError, match="pools by mean"):
        next(score_over_time(heads["linear"], long_cache, method="attention"))
    for wrong in ("magic", "auto", None):
        with pytest.raises(InputError, match="must be sliding or attention"):
            next(score_over_time(heads["linear"], long_cache, method=wrong))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes no window"):
        next(score_over_time(heads["attention-pool"], long_cache, method="attention", window_seconds=2.0))
    with pytest.raises(InputError, match="above 0"):
        next(score_over_time(heads["linear"], long_cache, window_seconds=0.0))
    with pytest.raises(InputError, match=r"\.csv or \.json"):
        TimelineRequest(Path("scores.txt"))
    with pytest.raises(ValueError, match="do not fit"):
        Timeline("a", "sliding", np.zeros((2, 2), np.float32), np.zeros(3), 0.5)


def test_another_cache_is_refused(heads: dict[str, TrainedHead], tmp_path: Path) -> None:
    path = write_cache(tmp_path / "x.zarr", toy_videos(4, dims={"clip": DIMS["clip"]}), dims={"clip": 12})
    with open_cache(path) as cache, pytest.raises(HeadError, match="slowfast"):
        next(score_over_time(heads["linear"], cache))


def test_sliding_is_the_default_for_every_head(heads: dict[str, TrainedHead], long_cache: Cache) -> None:
    assert {t.method for head in heads.values() for t in score_over_time(head, long_cache)} == {"sliding"}


def test_files_say_what_their_numbers_mean(
    heads: dict[str, TrainedHead], long_cache: Cache, tmp_path: Path
) -> None:
    head = heads["attention-pool"]
    request = TimelineRequest(tmp_path / "deep" / "t.csv", method="attention")
    assert write_timelines(request, request.timelines(head, long_cache), head) == 107
    with request.path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 107
    assert rows[3]["start_seconds"] == "6.0"
    assert rows[3]["end_seconds"] == "8.0"
    assert {row["method"] for row in rows} == {"attention"}
    beside = (tmp_path / "deep" / "t.csv.txt").read_text()
    assert "share of the head's attention" not in request.path.read_text()
    assert beside.startswith("score, by attention: share of the head's attention") and beside.count("\n") == 1
    assert "random (seed 0)" in rows[0]["weights"]
    assert sum(float(row["score"]) for row in rows) == pytest.approx(2.0, abs=1e-4)

    request = TimelineRequest(tmp_path / "t.json", method="sliding", window_seconds=4.0)
    assert write_timelines(request, request.timelines(head, long_cache), head) == 107
    found = json.loads(request.path.read_text())
    assert found["method"] == "sliding"
    assert found["window"] == "4 s around a token"
    assert found["grid"] == "slowfast"
    assert found["random_weights"] is True
    assert [len(video["windows"]) for video in found["videos"]] == [100, 7]
    assert not list(tmp_path.rglob("*.part"))


def test_a_pipe_is_written_into_and_stays_one(
    heads: dict[str, TrainedHead], long_cache: Cache, tmp_path: Path
) -> None:
    pipe, head = tmp_path / "t.csv", heads["attention-pool"]
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text("utf-8")), daemon=True)
    reader.start()
    request = TimelineRequest(pipe)
    assert write_timelines(request, request.timelines(head, long_cache), head) == 107
    reader.join(timeout=10)
    assert read and read[0].count("\n") == 108
    assert pipe.is_fifo()


def test_a_timeline_that_cannot_be_written_is_told_as_scores_are(
    heads: dict[str, TrainedHead], long_cache: Cache, tmp_path: Path
) -> None:
    head, request = heads["attention-pool"], TimelineRequest(tmp_path / "t.csv")
    request.path.mkdir()
    with pytest.raises(InputError, match="--timeline"):
        write_timelines(request, request.timelines(head, long_cache), head)
