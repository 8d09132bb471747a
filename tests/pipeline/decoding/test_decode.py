"""One decode feeds every stream; only wanted frames are converted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.decoding.decode import DecodedVideo, StreamPlan, WindowBuilder, decode_video
from pipeline.decoding.decoders.base import DecodeProblem
from pipeline.decoding.frames import FramePlan, PreparedFrame
from pipeline.decoding.sampling import Sampling, token_spans
from tests.pipeline.fakes import PLANS, ListedFrames


def decoded(
    source: ListedFrames, plans: Sequence[StreamPlan] = PLANS
) -> tuple[DecodedVideo, list[list[list[int]]], list[int]]:
    """The result, the grey levels of every window by stream, and the beats."""
    windows: list[list[list[int]]] = [[] for _ in plans]
    beats: list[int] = []

    def emit(stream: int, window: Sequence[PreparedFrame]) -> None:
        scale = 1 if plans[stream].frames.recipe == "pil-bicubic" else 128
        windows[stream].append([int(frame[0, 0, 0]) // scale for frame in window])

    return decode_video(source, plans, emit=emit, beat=beats.append), windows, beats


def test_every_stream_gets_its_windows_from_one_pass() -> None:
    video, windows, beats = decoded(ListedFrames([n / 10 for n in range(10)]))
    assert windows[0] == [[0], [5]]
    assert windows[1] == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert video.duration_seconds == pytest.approx(1.0)
    assert (video.fps, video.width, video.height, video.n_frames) == (pytest.approx(10.0), 16, 12, 10)
    assert beats == list(range(1, 11))


def test_only_wanted_frames_are_converted_and_each_once() -> None:
    source = ListedFrames([n / 60 for n in range(120)], tail_seconds=1 / 60)
    slow = StreamPlan("a", Sampling(fps=2.0), FramePlan("pil-bicubic", 8))
    slower = StreamPlan("b", Sampling(fps=1.0), FramePlan("pil-bicubic", 8))
    _, windows, _ = decoded(source, [slow, slower])
    assert windows == [[[0], [30], [60], [90]], [[0], [60]]]
    assert source.converted == [0, 30, 60, 90]


def test_streams_with_the_same_frame_plan_share_the_work() -> None:
    seen: list[int] = []
    plan = FramePlan("pil-bicubic", 8)
    plans = [StreamPlan(name, Sampling(fps=2.0), plan) for name in "ab"]
    decode_video(
        ListedFrames([0.0, 0.5]), plans, emit=lambda _, w: seen.append(id(w[0])), beat=lambda _: None
    )
    assert seen[0] == seen[1]


@pytest.mark.parametrize("n_frames", [1, 2, 3, 7, 31, 50])
def test_windows_and_spans_are_equally_many(n_frames: int) -> None:
    video, windows, _ = decoded(ListedFrames([n / 10 for n in range(n_frames)]))
    for plan, found in zip(PLANS, windows, strict=True):
        assert len(found) == len(token_spans(video.duration_seconds, plan.sampling))


def test_a_single_frame_fills_a_window() -> None:
    video, windows, _ = decoded(ListedFrames([0.0], tail_seconds=0.0))
    assert windows == [[[0]], [[0, 0, 0, 0]]]
    assert video.duration_seconds == 0.0
    assert video.fps == 10.0  # what the header says, for want of a second frame


def test_no_frame_is_a_problem() -> None:
    with pytest.raises(DecodeProblem) as caught:
        decoded(ListedFrames([]))
    assert caught.value.reason == "no-frames"


def test_errors_of_the_source_are_handed_on() -> None:
    video, _, _ = decoded(ListedFrames([0.0, 0.1], n_errors=3))
    assert video.n_errors == 3


def test_a_builder_without_samples_gives_nothing() -> None:
    assert list(WindowBuilder(Sampling(fps=1.0, window=4, stride=4)).finish()) == []


def test_overlapping_windows() -> None:
    builder = WindowBuilder(Sampling(fps=1.0, window=4, stride=2))
    frames = [np.full((1, 1, 3), n, np.uint8) for n in range(9)]
    windows = [w for frame in frames for w in builder.push(frame, 1)] + list(builder.finish())
    levels = [[int(frame[0, 0, 0]) for frame in window] for window in windows]
    assert levels == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [5, 6, 7, 8]]
