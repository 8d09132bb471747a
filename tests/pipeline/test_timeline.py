"""Timestamps of damaged files are mended, counted, and never stretch a video."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decoders.timeline import (
    MAX_GAP_SECONDS,
    MAX_NOMINAL_SECONDS,
    MAX_SINGLE_SECONDS,
    MAX_STILL_SECONDS,
    Timeline,
)


def placed(
    raw: list[float | None], *, fps: float = 10.0, seconds: float = 1.0
) -> tuple[list[float], Timeline]:
    timeline = Timeline(declared_fps=fps, declared_seconds=seconds)
    return [timeline.place(time) for time in raw], timeline


def test_times_count_from_the_first_frame() -> None:
    times, timeline = placed([5.0, 5.1, 5.3])
    assert times == pytest.approx([0.0, 0.1, 0.3])
    assert timeline.repairs == 0
    assert placed([-0.5, -0.4])[0] == pytest.approx([0.0, 0.1])


def test_missing_times_follow_at_the_declared_rate() -> None:
    assert placed([0.0, None, None, 0.3])[0] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert placed([None, None], fps=0.0)[0] == pytest.approx([0.0, 0.04])


def test_a_nonsensical_rate_does_not_place_frames_hours_apart() -> None:
    assert placed([0.0, None, None], fps=1 / 3600)[0] == [0.0, MAX_NOMINAL_SECONDS, 2 * MAX_NOMINAL_SECONDS]


def test_the_first_known_time_does_not_open_a_gap() -> None:
    assert placed([None, 0.54, 0.64])[0] == pytest.approx([0.0, 0.1, 0.2])


def test_repeated_and_backward_times_are_repaired_and_counted() -> None:
    times, timeline = placed([0.0, 0.1, 0.1, 0.05, 0.15])
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert timeline.repairs == 2


def test_a_jump_beyond_the_declared_end_is_closed() -> None:
    times, timeline = placed([0.0, 0.1, 95_443.7, 95_443.8])
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert timeline.repairs == 1


def test_a_still_picture_that_the_header_knows_of_is_kept() -> None:
    assert placed([0.0, 300.0, 300.1], seconds=301.0)[0] == pytest.approx([0.0, 300.0, 300.1])
    assert placed([0.0, MAX_GAP_SECONDS - 1], seconds=0.0)[0] == [0.0, MAX_GAP_SECONDS - 1]


def test_no_header_explains_a_gap_of_hours() -> None:
    """Such a file would cost thousands of windows of one repeated frame."""
    times, timeline = placed([0.0, 40_000.0, 40_000.1], seconds=1e6)
    assert times == pytest.approx([0.0, 0.1, 0.2])
    assert timeline.repairs == 1
    assert placed([0.0, MAX_STILL_SECONDS], seconds=1e6)[0][1] == MAX_STILL_SECONDS


@pytest.mark.parametrize(
    ("raw", "shown", "expected"),
    [
        ([0.0, 0.1, 0.2], 0.1, 0.1),
        ([0.0, 0.033, 0.066], 0.034, 0.034),  # millisecond rounding
        ([0.0, 0.1, 0.2], 0.0, 0.1),  # nothing said: the declared rate
        ([0.0, 0.1, 0.2], 99.0, 0.1),  # a header that over-reports
        ([0.0, 0.1, 2.1], 1.5, 1.5),  # an uneven rate
        ([0.0], 0.1, 0.1),
        ([0.0], 1e9, MAX_SINGLE_SECONDS),
    ],
)
def test_the_last_frame_is_shown_no_longer_than_frames_were(
    raw: list[float | None], shown: float, expected: float
) -> None:
    assert placed(raw, seconds=1e6)[1].tail(shown) == pytest.approx(expected)


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=50),
    st.floats(0, 1e7),
    st.floats(0, 1e3),
)
def test_time_always_moves_forward_and_never_by_much(
    raw: list[float | None], declared: float, fps: float
) -> None:
    times, timeline = placed(raw, seconds=declared, fps=fps)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert times[0] == 0.0
    assert all(0 < gap <= MAX_STILL_SECONDS + 1e-6 for gap in gaps)
    assert 0 <= timeline.repairs < len(raw)
    assert 0 < timeline.tail(0.0) <= MAX_STILL_SECONDS
