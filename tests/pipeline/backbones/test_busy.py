"""The union of overlapping spans, whatever the order in which they end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backbones.busy import BusyTime

SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=12)


@given(SPANS, st.randoms(use_true_random=False))
def test_overlaps_count_once(spans: list[tuple[int, int]], random: object) -> None:
    """Events in the order of time, spans ending in any order: the seconds that some span covers."""
    clock = BusyTime()
    ends = sorted({(begin, begin + length, number) for number, (begin, length) in enumerate(spans)})
    tickets = {number: clock.begin(begin) for begin, _, number in ends}
    random.shuffle(ends)  # type: ignore[attr-defined]
    for _, end, number in ends:
        clock.end(tickets[number], end)
    covered = {second for begin, end, _ in ends for second in range(begin, end)}
    assert clock.seconds == len(covered)


def test_nothing_counts_twice_while_an_earlier_span_is_open() -> None:
    clock = BusyTime()
    first, second = clock.begin(0.0), clock.begin(2.0)
    clock.end(second, 5.0)
    assert clock.seconds == 0.0  # the span from 0 may reach over it
    clock.end(first, 4.0)
    assert clock.seconds == 5.0


def test_a_ticket_ends_once() -> None:
    clock = BusyTime()
    ticket = clock.begin(0.0)
    clock.end(ticket, 1.0)
    with pytest.raises(KeyError):
        clock.end(ticket, 2.0)
