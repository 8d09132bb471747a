"""Streams joined on one time grid: for each token of a reference stream, the mean of the other stream's
tokens there.

Half-open spans [start, end) overlap when they share time. A span of zero length is an instant and is widened
by 0.1 ms on both sides. A reference token that nothing overlaps takes the other stream's nearest token (by
middle). Several nearest tokens: the earliest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cache.tables import TokenArray

INSTANT_SECONDS = 1e-4
DEFAULT_REFERENCE = "slowfast"

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]


def reference_stream(n_tokens: Mapping[str, int], *, grid: str = "auto") -> str:
    """The stream whose time grid is used: `grid` when it names one, else slowfast, else the one of fewest
    tokens.

    Raises ValueError when `grid` names a stream that is not there.
    """
    if grid != "auto":
        if grid not in n_tokens:
            raise ValueError(f"grid '{grid}' is not one of the streams {', '.join(sorted(n_tokens))}")
        return grid
    if DEFAULT_REFERENCE in n_tokens:
        return DEFAULT_REFERENCE
    return min(sorted(n_tokens), key=lambda name: n_tokens[name])


def overlapping_tokens(reference: TokenArray, other: TokenArray) -> tuple[Int, Int]:
    """Which tokens of `other` each token of `reference` takes: (rows of other [K], bag starts [N_reference]).

    Bag i is rows[starts[i] : starts[i + 1]]; no bag is empty. Raises ValueError when the numbers of videos
    differ.
    """
    if len(reference.offsets) != len(other.offsets):
        raise ValueError(
            f"one stream holds {len(reference.offsets) - 1} videos and another {len(other.offsets) - 1}"
        )
    if len(reference.values) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # Every video gets its own stretch of one long time line, so that one sorted search serves them all.
    ends = max(float(reference.spans.max()), float(other.spans.max()))
    starts = min(float(reference.spans.min()), float(other.spans.min()))
    stretch = ends - starts + 1.0
    ref_start, ref_end, ref_video = _on_time_line(reference, stretch)
    other_start, other_end, _ = _on_time_line(other, stretch)

    order = np.argsort(other_start, kind="stable")
    sorted_start, sorted_end = other_start[order], other_end[order]
    first = np.searchsorted(np.maximum.accumulate(sorted_end), ref_start, side="right")
    last = np.searchsorted(sorted_start, ref_end, side="left")
    counts = np.maximum(last - first, 0)
    bag = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(bag)) - np.repeat(np.cumsum(counts) - counts, counts) + first[bag]
    real = sorted_end[rows] > ref_start[bag]
    bag, rows = bag[real], order[rows[real]]

    empty = np.bincount(bag, minlength=len(counts)) == 0
    if empty.any():
        middles = (ref_start + ref_end)[empty] / 2
        bag = np.concatenate([bag, np.flatnonzero(empty)])
        rows = np.concatenate([rows, _nearest(middles, ref_video[empty], other, other_start, other_end)])
        by_bag = np.argsort(bag, kind="stable")
        bag, rows = bag[by_bag], rows[by_bag]
    sizes = np.bincount(bag, minlength=len(counts))
    return rows.astype(np.int64), (np.cumsum(sizes) - sizes).astype(np.int64)


def _on_time_line(tokens: TokenArray, stretch: float) -> tuple[Float, Float, Int]:
    video = np.repeat(np.arange(len(tokens.lengths)), tokens.lengths)
    shift = video * stretch
    start, end = tokens.spans[:, 0].astype(np.float64), tokens.spans[:, 1].astype(np.float64)
    instant = end <= start
    return (
        np.where(instant, start - INSTANT_SECONDS, start) + shift,
        np.where(instant, end + INSTANT_SECONDS, end) + shift,
        video,
    )


def _nearest(middles: Float, videos: Int, other: TokenArray, start: Float, end: Float) -> Int:
    """Row of `other` nearest to each middle, inside its video."""
    other_middles = (start + end) / 2
    order = np.argsort(other_middles, kind="stable")
    sorted_middles = other_middles[order]
    first, last = other.offsets[videos], other.offsets[videos + 1] - 1
    right = np.clip(np.searchsorted(sorted_middles, middles), first, last)
    left = np.clip(right - 1, first, last)
    closer_left = np.abs(sorted_middles[left] - middles) <= np.abs(sorted_middles[right] - middles)
    nearest: Int = order[np.where(closer_left, left, right)]
    return nearest


def join_streams(streams: Mapping[str, TokenArray], *, grid: str = "auto") -> TokenArray:
    """Concatenate streams (in the mapping's order) on the reference stream's grid: float32 [N_reference, sum
    of D].

    One stream alone is returned as it is. Raises ValueError for an unknown grid or differing numbers of
    videos.
    """
    reference_name = reference_stream({name: len(s.values) for name, s in streams.items()}, grid=grid)
    reference = streams[reference_name]
    if len(streams) == 1:
        return reference
    import torch
    from torch.nn.functional import embedding_bag

    from heads.data.tokens import as_tensor

    width = sum(s.values.shape[1] for s in streams.values())
    joined = torch.empty(len(reference.values), width)
    column = 0
    for name, stream in streams.items():
        part = joined[:, column : column + stream.values.shape[1]]
        column += stream.values.shape[1]
        values = as_tensor(stream.values)
        if name == reference_name:
            part.copy_(values)
        elif len(joined):
            rows, starts = overlapping_tokens(reference, stream)
            part.copy_(
                embedding_bag(torch.from_numpy(rows), values.float(), torch.from_numpy(starts), mode="mean")
            )
    return TokenArray(joined.numpy(), reference.spans, reference.offsets)
