"""Which frames a stream wants: grid, nearest frame, windows; streaming equals the plain definition."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.decoding.decode import WindowBuilder
from pipeline.decoding.sampling import GridCursor, Sampling, grid_size, token_spans, window_starts
from pipeline.verify import plain_frame_indices

CLIP = Sampling(fps=2.0)
SLOWFAST = Sampling(fps=15.0, window=32, stride=32)


def streamed(times: list[float], duration: float, sampling: Sampling) -> list[list[int]]:
    """Frame numbers of every window, as the decode hands them out."""
    cursor, builder = GridCursor(sampling), WindowBuilder(sampling)
    windows = []
    for index, pts in enumerate(times):
        last = index + 1 == len(times)
        count = cursor.finish(duration) if last else cursor.take(pts, times[index + 1])
        windows += list(builder.push(index, count))  # type: ignore[arg-type]
    windows += list(builder.finish())
    return [[int(frame) for frame in window] for window in windows]  # type: ignore[call-overload]


def constant_rate(fps: Fraction | float, seconds: float) -> list[float]:
    return [float(n / Fraction(fps)) for n in range(round(seconds * float(fps)))]


@pytest.mark.parametrize("fps", [0.0, -1.0, math.nan, math.inf])
def test_a_grid_rate_must_be_positive_and_finite(fps: float) -> None:
    with pytest.raises(ValueError, match="fps"):
        Sampling(fps=fps)


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (4, 0), (4, 5)])
def test_windows_may_not_be_empty_or_leave_gaps(window: int, stride: int) -> None:
    with pytest.raises(ValueError, match="stride"):
        Sampling(fps=1.0, window=window, stride=stride)


def test_a_slowfast_window_stands_for_64_thirtieths_of_a_second() -> None:
    assert SLOWFAST.window_seconds == pytest.approx(64 / 30)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [(0.0, 1), (0.1, 1), (0.5, 1), (0.5000001, 1), (0.51, 2), (1.0, 2), (3600.0, 7200)],
)
def test_grid_points_lie_before_the_end(duration: float, expected: int) -> None:
    assert grid_size(duration, CLIP) == expected


def test_windows_cover_the_video_and_the_last_one_ends_with_it() -> None:
    sampling = Sampling(fps=1.0, window=4, stride=3)
    assert window_starts(3, sampling) == [0]
    assert window_starts(4, sampling) == [0]
    assert window_starts(5, sampling) == [0, 1]
    assert window_starts(7, sampling) == [0, 3]
    assert window_starts(12, sampling) == [0, 3, 6, 8]


@given(
    st.integers(1, 500),
    st.integers(1, 40),
    st.data(),
)
def test_every_sample_is_in_a_window(n_samples: int, window: int, data: st.DataObject) -> None:
    sampling = Sampling(fps=1.0, window=window, stride=data.draw(st.integers(1, window)))
    starts = window_starts(n_samples, sampling)
    covered = {s for start in starts for s in range(start, start + window)}
    assert set(range(n_samples)) <= covered
    assert starts == sorted(set(starts)) and starts[0] == 0
    if n_samples >= window:
        assert starts[-1] + window == n_samples


@given(st.floats(0, 100), st.floats(0.1, 100), st.integers(1, 40))
def test_spans_lie_inside_the_video(duration: float, fps: float, window: int) -> None:
    spans = token_spans(duration, Sampling(fps=fps, window=window, stride=1))
    assert spans.dtype == np.float32 and spans.ndim == 2 and spans.shape[1] == 2 and len(spans) >= 1
    assert (spans[:, 0] <= spans[:, 1]).all()
    assert spans.min() >= 0 and spans.max() <= np.float32(duration)
    assert spans[0, 0] == 0


def test_spans_of_a_five_second_clip() -> None:
    np.testing.assert_allclose(token_spans(5.0, CLIP), [[t / 2, t / 2 + 0.5] for t in range(10)])
    np.testing.assert_allclose(token_spans(5.0, SLOWFAST), [[0, 32 / 15], [32 / 15, 64 / 15], [43 / 15, 5]])


def test_the_nearest_frame_is_taken() -> None:
    # grid 0, 0.5, 1.0; frames around them
    assert streamed([0.0, 0.4, 0.55, 0.8, 1.3], 1.4, CLIP) == [[0], [2], [3]]


def test_the_earlier_frame_wins_a_tie() -> None:
    assert streamed([0.0, 0.25, 0.75, 1.25], 1.5, CLIP) == [[0], [1], [2]]
    thirds = [n / 3 for n in range(6)]  # 0.333 and 0.667 are equally far from 0.5
    assert streamed(thirds, 2.0, CLIP) == [[0], [1], [3], [4]]
    assert streamed([round(t, 6) for t in thirds], 2.0, CLIP) == [[0], [1], [3], [4]]
    assert streamed([round(t, 3) for t in thirds], 2.0, CLIP) == [[0], [1], [3], [4]]


def test_a_slow_video_repeats_frames_and_a_fast_one_skips_them() -> None:
    assert streamed([0.0, 1.0], 2.0, Sampling(fps=4.0)) == [[0], [0], [0], [1], [1], [1], [1], [1]]
    assert streamed(constant_rate(60, 1), 1.0, CLIP) == [[0], [30]]


def test_a_short_video_repeats_its_last_sample() -> None:
    sampling = Sampling(fps=10.0, window=8, stride=8)
    assert streamed([0.0, 0.1, 0.2], 0.3, sampling) == [[0, 1, 2, 2, 2, 2, 2, 2]]
    assert streamed([0.0], 0.0, sampling) == [[0] * 8]


def test_an_uneven_rate_is_sampled_by_time() -> None:
    times = [0.0, 0.02, 0.04, 0.5, 0.52, 1.9, 1.95]  # a burst, a still, a jump
    assert streamed(times, 2.0, CLIP) == [[0], [3], [4], [5]]


@pytest.mark.parametrize("sampling", [CLIP, SLOWFAST], ids=["clip", "slowfast"])
@pytest.mark.parametrize("fps", [8, 10, 12, 24, 25, 30, 48, 50, 60, 120])
def test_times_rounded_to_milliseconds_give_the_same_frames(fps: int, sampling: Sampling) -> None:
    exact = constant_rate(fps, 20)
    rounded = [round(t, 3) for t in exact]
    assert streamed(rounded, 20.0, sampling) == streamed(exact, 20.0, sampling)


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60000, 1001)])
def test_rounding_moves_a_pick_by_one_frame_at_most_where_two_are_all_but_equally_near(fps: Fraction) -> None:
    """29.97 frames a second drift against the grid; where they pass the middle, half a millisecond decides."""
    sampling, seconds = Sampling(fps=15.0), 60
    exact = constant_rate(fps, seconds)
    duration = len(exact) / float(fps)
    one = np.asarray(streamed(exact, duration, sampling))[:, 0]
    other = np.asarray(streamed([round(t, 3) for t in exact], duration, sampling))[:, 0]
    moved = one != other
    assert np.abs(one - other).max() <= 1
    grid = np.arange(len(one)) / 15
    times = np.asarray(exact)
    margin = np.abs(np.abs(times[one] - grid) - np.abs(times[other] - grid))
    assert (margin[moved] < 0.001).all()
    assert moved.mean() < 0.05


times_and_tail = st.tuples(
    st.lists(st.one_of(st.floats(1e-4, 0.7), st.sampled_from([1 / 30, 1 / 25, 0.04, 0.5])), max_size=60),
    st.one_of(st.floats(1e-3, 1.0), st.sampled_from([0.0, 1 / 30, 0.5])),
)


def _timeline(gaps: list[float], tail: float) -> tuple[NDArray[np.float64], float]:
    times = np.concatenate([[0.0], np.cumsum(gaps)]) if gaps else np.zeros(1)
    return times, float(times[-1] + tail)


@settings(max_examples=300, deadline=None)
@given(times_and_tail, st.sampled_from([2.0, 15.0, 7.3]), st.integers(1, 9), st.data())
def test_streaming_equals_the_plain_definition(
    drawn: tuple[list[float], float], fps: float, window: int, data: st.DataObject
) -> None:
    sampling = Sampling(fps=fps, window=window, stride=data.draw(st.integers(1, window)))
    times, duration = _timeline(*drawn)
    found = streamed(times.tolist(), duration, sampling)
    assert len(found) == len(token_spans(duration, sampling))
    assert found == [plain_frame_indices(times, duration, token, sampling) for token in range(len(found))]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([1e-7, 1e-6, 2e-6, 5e-6, 0.5 - 1e-6, 0.5, 0.5 + 1e-6, 1 / 15]), max_size=30),
    st.sampled_from([0.0, 1e-7, 1e-6, 1e-3]),
    st.sampled_from([2.0, 15.0]),
    st.integers(1, 4),
)
def test_absurdly_close_frames_still_give_as_many_windows_as_spans(
    gaps: list[float], tail: float, fps: float, window: int
) -> None:
    """A video whose windows and spans differ in number would never be complete."""
    sampling = Sampling(fps=fps, window=window, stride=window)
    times, duration = _timeline(gaps, tail)
    assert len(streamed(times.tolist(), duration, sampling)) == len(token_spans(duration, sampling))


def test_milliseconds_at_the_end_are_rounding_and_no_sample() -> None:
    """A container that rounds to milliseconds may end 0.3 ms beyond a grid point; 30 frames at 29.97 a second do not."""
    clip = Sampling(fps=2.0)
    assert grid_size(4.0, clip) == grid_size(4.0003, clip) == grid_size(3.9997, clip) == 8
    assert grid_size(30 * 1001 / 30000, clip) == 3
    assert grid_size(0.0, clip) == grid_size(0.0004, clip) == 1
    spans = token_spans(4.0003, clip)
    assert len(spans) == 8 and (spans[:, 1] - spans[:, 0] > 0.4).all()
