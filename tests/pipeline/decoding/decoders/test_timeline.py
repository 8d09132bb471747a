"""Timestamps of damaged files are mended, counted, and never stretch a video."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decoding.decoders.timeline import (
    MAX_GAP_SECONDS,
    MAX_NOMINAL_SECONDS,
    MAX_SINGLE_SECONDS,
    MAX_STILL_SECONDS,
    Timed,
    Timeline,
)


def placed(
    raw: list[float | None], *, fps: float = 10.0, seconds: float = 1.0
) -> tuple[list[float], Timeline]:
    timeline = Timeline(declared_fps=fps, declared_seconds=seconds)
    return timeline.place_all(Timed(None, time) for time in raw), timeline


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


def test_repeated_and_backward_times_are_put_between_their_neighbours_and_counted() -> None:
    times, timeline = placed([0.0, 0.1, 0.1, 0.05, 0.4])
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert timeline.repairs == 2


def test_repairs_never_add_up() -> None:
    """A repeated time in every second: what follows stands where the container says."""
    raw: list[float | None] = []
    for second in range(20):
        raw += [second + 0.0, second + 0.2, second + 0.2, second + 0.4, second + 0.6, second + 0.8]
    times, timeline = placed(raw, fps=5.0, seconds=20.0)
    assert timeline.repairs == 20
    assert times[::6] == pytest.approx([float(second) for second in range(20)])


def test_one_time_that_is_far_too_late_stays_one() -> None:
    times, timeline = placed([0.0, 0.1, 30.0, 0.3, 0.4])
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert timeline.repairs == 1


def test_a_clock_that_was_set_back_goes_on_from_there() -> None:
    times, timeline = placed([50.0, 50.1, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5])
    assert times == pytest.approx([n / 10 for n in range(8)])
    assert timeline.repairs == 1


MADE_UP = [1, 2, 3, 5, 6, 4, 8, 9, 7, 10, 12, 13, 11, 14, 15]
"""Presentation times that FFmpeg makes up for H.264 with B-frames in AVI, in the decoder's order."""


def test_made_up_presentation_times_give_way_to_decoding_times() -> None:
    frames = [Timed(None, pts / 10, (n + 2) / 10) for n, pts in enumerate(MADE_UP)]
    timeline = Timeline(declared_fps=10.0, declared_seconds=2.0)
    times = timeline.place_all(frames)
    assert times == pytest.approx([n / 10 for n in range(len(MADE_UP))], abs=0.101)
    assert times[13:] == pytest.approx([n / 10 for n in range(13, len(MADE_UP))])
    assert timeline.switched and timeline.repairs == 0


def test_a_container_that_holds_decoding_times_only_is_placed_by_them() -> None:
    frames = [Timed(None, pts / 10, (n + 2) / 10) for n, pts in enumerate(MADE_UP)]
    # handed out at the end, without a packet, and half as long as they should be
    frames[-2:] = [Timed(None, pts / 10, None, 0.05) for pts in MADE_UP[-2:]]
    timeline = Timeline(declared_fps=10.0, declared_seconds=2.0, decode_times=True)
    assert timeline.place_all(frames) == pytest.approx([n / 10 for n in range(len(MADE_UP))])
    assert not timeline.switched and timeline.repairs == 0


def test_the_duration_of_a_frame_is_believed_before_the_declared_rate() -> None:
    """A raw stream: the demuxer declares 25 frames a second, the stream itself says 30."""
    frames: list[Timed[None]] = [Timed(None, None, None, 1 / 30) for _ in range(31)]
    timeline = Timeline(declared_fps=25.0, declared_seconds=0.0)
    assert timeline.place_all(frames)[-1] == pytest.approx(1.0)
    assert timeline.n_untimed == 31


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
