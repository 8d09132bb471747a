from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.tables import TokenArray
from heads.data.grid import INSTANT_SECONDS, join_streams, overlapping_tokens, reference_stream


def ragged(per_video: list[list[tuple[float, float]]], dim: int = 1, start: float = 0.0) -> TokenArray:
    spans = np.array([span for video in per_video for span in video], dtype=np.float32).reshape(-1, 2)
    values = start + np.arange(len(spans) * dim, dtype=np.float32).reshape(len(spans), dim)
    return TokenArray(values, spans, np.cumsum([0, *map(len, per_video)]).astype(np.int64))


def test_other_stream_is_averaged_over_each_reference_token() -> None:
    slow = ragged([[(0, 2), (2, 4)], [(0, 2)]])
    fast = ragged([[(0, 1), (1, 2), (2, 3), (3, 4)], [(0, 1), (1, 2)]], start=10)
    joined = join_streams({"clip": fast, "slowfast": slow})
    assert joined.values.tolist() == [[10.5, 0], [12.5, 1], [14.5, 2]]
    assert joined.values.dtype == np.float32
    np.testing.assert_array_equal(joined.offsets, slow.offsets)


def test_touching_spans_do_not_overlap_but_instants_on_the_border_do() -> None:
    slow = ragged([[(0, 2), (2, 4)]])
    instants = ragged([[(0, 0), (2, 2), (4, 4)]])
    rows, starts = overlapping_tokens(slow, instants)
    assert [list(part) for part in np.split(rows, starts[1:])] == [[0, 1], [1, 2]]


def test_nearest_token_stands_in_where_nothing_overlaps() -> None:
    slow = ragged([[(0, 1), (5, 6), (9, 10)], [(7, 8)]])
    other = ragged([[(2, 3), (3, 4)], [(0, 1), (30, 31)]])
    rows, _ = overlapping_tokens(slow, other)
    assert rows.tolist() == [0, 1, 1, 2]


def test_reference_is_slowfast_else_the_coarsest() -> None:
    assert reference_stream({"clip": 3, "slowfast": 9}) == "slowfast"
    assert reference_stream({"clip": 30, "audio": 9}) == "audio"
    assert reference_stream({"clip": 30, "audio": 9}, grid="clip") == "clip"
    with pytest.raises(ValueError, match="grid 'text'"):
        reference_stream({"clip": 1}, grid="text")


def test_one_stream_is_its_own_grid() -> None:
    stream = ragged([[(0, 1)]])
    assert join_streams({"clip": stream}) is stream


def test_ragged_refuses_what_does_not_fit() -> None:
    good = ragged([[(0, 1), (1, 2)]])
    with pytest.raises(ValueError, match="spans"):
        TokenArray(good.values, good.spans[:1], good.offsets)
    with pytest.raises(ValueError, match="offsets"):
        TokenArray(good.values, good.spans, good.offsets[:1])
    with pytest.raises(ValueError, match="videos"):
        overlapping_tokens(good, ragged([[(0, 1)], [(0, 1)]]))


span = st.tuples(st.integers(0, 40), st.integers(0, 6)).map(lambda s: (s[0] / 2, (s[0] + s[1]) / 2))
videos = st.lists(
    st.tuples(st.lists(span, min_size=1, max_size=6), st.lists(span, min_size=1, max_size=6)),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=150)
@given(videos)
def test_equals_the_plain_double_loop(drawn: list[tuple[list[tuple[float, float]], ...]]) -> None:
    """Spans in any order, overlapping, of any length."""
    reference, other = ragged([v[0] for v in drawn]), ragged([v[1] for v in drawn])
    rows, starts = overlapping_tokens(reference, other)
    found = [sorted(part) for part in np.split(rows, starts[1:])]

    def widened(one: tuple[float, float]) -> tuple[float, float]:
        start, end = one
        return (start, end) if end > start else (start - INSTANT_SECONDS, end + INSTANT_SECONDS)

    for video, (ours, theirs) in enumerate(drawn):
        first = int(other.offsets[video])
        for i, own in enumerate(map(widened, ours)):
            hits = [
                first + j
                for j, (start, end) in enumerate(map(widened, theirs))
                if start < own[1] and end > own[0]
            ]
            bag = found[int(reference.offsets[video]) + i]
            if hits:
                assert bag == hits
            else:
                distance = [abs(sum(one) - sum(own)) for one in map(widened, theirs)]
                assert len(bag) == 1
                assert distance[bag[0] - first] == pytest.approx(min(distance), abs=1e-6)
