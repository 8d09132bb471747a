from __future__ import annotations

import numpy as np
import pytest

from cache.schema import StreamTokens
from cache.tables import TokenArray


def arrays(n_tokens: int, offsets: list[int]) -> TokenArray:
    values = np.arange(n_tokens * 2, dtype=np.float16).reshape(n_tokens, 2)
    return TokenArray(values, np.zeros((n_tokens, 2), np.float32), np.array(offsets))


def test_a_token_array_is_a_sequence_of_videos() -> None:
    tokens = arrays(5, [0, 2, 5])
    assert [len(video.values) for video in tokens] == [2, 3]
    assert tokens[-1].values[0].tolist() == [4, 5]
    assert np.shares_memory(tokens[0].values, tokens.values)
    assert repr(tokens) == "TokenArray(2 videos, values float16 [5, 2])"


@pytest.mark.parametrize("offsets", [[], [1, 5], [0, 4]])
def test_offsets_must_fit(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets must run from 0 to 5"):
        arrays(5, offsets)


def test_values_and_spans_must_match() -> None:
    with pytest.raises(ValueError, match="do not match"):
        TokenArray(np.zeros((3, 2), np.float16), np.zeros((2, 2), np.float32), np.array([0, 3]))


def test_videos_joined_are_those_taken_out_again() -> None:
    rng = np.random.default_rng(0)
    spans = np.array([[0, 1], [1, 2], [2, 4]], np.float32)
    videos = [StreamTokens(rng.standard_normal((n, 2)).astype(np.float16), spans[:n] + n) for n in (2, 3, 1)]
    joined = TokenArray.join(videos)
    assert joined.lengths.tolist() == [2, 3, 1]
    assert joined.values.dtype == np.float16
    for number, video in enumerate(videos):
        np.testing.assert_array_equal(joined[number].values, video.values)
        np.testing.assert_array_equal(joined[number].spans, video.spans)
