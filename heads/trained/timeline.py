"""Score over time: one number for each token of the common grid, with its start and end in seconds.

Two methods, which mean different things:

sliding    The default, for any head: the probability that the head gives to the window alone, as if the video held
           nothing else; calibrated and comparable with the threshold. A window is one token of the grid, or
           everything whose middle lies within `window_seconds` around its middle: by default as long as a training
           video for a head that reads change, to which one token says nothing.
attention  For a head that pools by attention: the share of the head's attention that a window got. Shares of
           a video sum to 1, also in a video that the head calls negative: they say where the head looked, not
           what it saw there, and not where the violence is. Of 10 heads that do detect fights, 3 looked more at the
           half of a joined video that holds none. Where attention layers come before the pool, tokens have already
           read each other.

The common grid is the stream on whose tokens the head joins streams (`HeadInfo.grid`). `fusion` reads every
stream on its own grid: a sliding window takes the tokens of each stream whose middles lie in it (the nearest
where there is none), and attention to another stream's token is spread over the grid windows it overlaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache.arguments import is_number, shown
from cache.errors import HeadError, InputError
from cache.tables import TokenArray
from heads.data.dataset import in_memory, with_absent, without_any
from heads.data.grid import overlapping_tokens
from heads.data.tokens import Channel, MemoryTokens
from heads.models.model import HeadModel
from heads.trained.head import TrainedHead

if TYPE_CHECKING:
    from cache.reader import Cache

Method = Literal["attention", "sliding"]
Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

MEANING: dict[Method, str] = {
    "attention": "share of the head's attention that the window got; shares of a video sum to 1 whatever the "
    "decision, and say where the head looked, not where the violence is",
    "sliding": "probability that the head gives to the window alone; comparable with the threshold",
}
TOKENS_AT_ONCE = 200_000
"""Videos are read in groups of about this many tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Scores of one video's windows.

    spans: float32 [T, 2], start and end in seconds, on the grid stream's tokens. scores: float64 [T] in
    [0, 1]. method: what a score means (see `MEANING`). probability: of the whole video. path: the input that
    the id is unique in, "" where there is only one.
    Raises ValueError when shapes disagree.
    """

    id: str
    method: Method
    spans: npt.NDArray[np.float32]
    scores: Float
    probability: float
    path: str = ""

    def __post_init__(self) -> None:
        if self.spans.shape != (len(self.scores), 2):
            raise ValueError(f"spans {self.spans.shape} do not fit scores {self.scores.shape}")

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Timeline({self.id}, {self.method}, {len(self)} windows to {self.spans[-1, 1]:.1f} s)"


def check_request(head: TrainedHead, method: Method, window_seconds: float | None) -> None:
    """Raise InputError for an unknown method, for attention where the head has no attention pooling, and for a window
    that is not above 0 or that the method does not take.
    """
    if method not in MEANING:
        raise InputError(f"the timeline method must be sliding or attention, got {method!r}")
    if method == "attention" and not pools_by_attention(head):
        single = isinstance(head.model, HeadModel)
        reason = f"pools by {head.info.config.model.pooling}" if single else "is several heads in one"
        raise InputError(f"this head {reason}: it has no attention weights; use sliding")
    if window_seconds is not None:
        if not is_number(window_seconds) or not 0.0 < window_seconds < float("inf"):
            raise InputError(f"the timeline window must be above 0 seconds, got {shown(window_seconds)}")
        if method == "attention":
            raise InputError("attention is one weight a token and takes no window; use the sliding method")


def pools_by_attention(head: TrainedHead) -> bool:
    """Whether the head has attention weights to show."""
    return isinstance(head.model, HeadModel) and head.info.config.model.pooling == "attention"


def own_window_seconds(head: TrainedHead) -> float | None:
    """The window of a head that reads how tokens differ, which one token cannot show: the median length of its
    training videos. None, one token, for other heads.
    """
    if not head.info.config.model.reads_change:
        return None
    return head.info.trained_on.get("median_seconds") or None


def score_over_time(
    head: TrainedHead,
    cache: Cache,
    *,
    videos: Sequence[int] | None = None,
    method: Method = "sliding",
    window_seconds: float | None = None,
    ignore_libraries: bool = False,
) -> Iterator[Timeline]:
    """Timelines of chosen videos (store indices; None is all), in that order, read a few at a time; none of a video that has no
    stream which the head reads.

    window_seconds: width of a sliding window, above 0; None is `own_window_seconds`, or one token of the grid.
    Raises InputError for options that do not fit, FingerprintMismatch or HeadError as `TrainedHead.predict` does.
    """
    check_request(head, method, window_seconds)
    if method == "sliding" and window_seconds is None:
        window_seconds = own_window_seconds(head)
    lacking = head.require_fits(cache, ignore_libraries=ignore_libraries)
    wanted = np.arange(len(cache)) if videos is None else _video_numbers(videos, len(cache))
    if lacking:
        wanted = wanted[~without_any(cache, [stream.name for stream in head.info.streams])[wanted]]
    ids = cache.videos.id
    names = [stream.name for stream in head.info.streams]
    counts = np.sum([np.diff(cache.offsets(name)) for name in names], axis=0)
    for group in _groups(wanted, counts):
        ragged = {name: with_absent(TokenArray.join(cache.read(name, group))) for name in names}
        yield from _timelines(head, ragged, [str(ids[v]) for v in group], method, window_seconds)


def _video_numbers(videos: Sequence[int], n_videos: int) -> Int:
    """int64 [M]. Raises InputError for what is no number of a video."""
    found = np.asarray(videos)
    if found.ndim != 1 or (len(found) and not np.issubdtype(found.dtype, np.integer)):
        raise InputError(f"videos are a list of their numbers in the cache, from 0 on, not {shown(videos)}")
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < n_videos:
        raise InputError(f"videos are numbers from 0 to {n_videos - 1}, got {shown(videos)}")
    numbers: Int = found.astype(np.int64)
    return numbers


def _groups(videos: Int, counts: Int) -> Iterator[Int]:
    """Consecutive videos of about TOKENS_AT_ONCE tokens together."""
    if len(videos):
        number = np.cumsum(counts[videos]) // TOKENS_AT_ONCE
        yield from np.split(videos, np.flatnonzero(np.diff(number)) + 1)


def _timelines(
    head: TrainedHead,
    ragged: dict[str, TokenArray],
    ids: list[str],
    method: Method,
    window_seconds: float | None,
) -> Iterator[Timeline]:
    grid = ragged[head.info.grid]
    tokens = in_memory(ragged, separate_streams=head.info.config.model.separate_streams, grid=head.info.grid)
    whole = head.probabilities(head.logits(tokens, np.arange(len(ids))))
    if method == "attention":
        scores = _attention(head, tokens, ragged)
    else:
        separate = head.info.config.model.separate_streams
        on_grid = list(ragged).index(head.info.grid) if separate else 0
        windows = sliding_windows(tokens, grid, on_grid=on_grid, window_seconds=window_seconds)
        scores = head.probabilities(head.logits(windows, np.arange(windows.n_videos)))
    for v, video_id in enumerate(ids):
        rows = slice(int(grid.offsets[v]), int(grid.offsets[v + 1]))
        yield Timeline(video_id, method, grid.spans[rows], scores[rows], float(whole[v]))


def sliding_windows(
    tokens: MemoryTokens, grid: TokenArray, *, on_grid: int = 0, window_seconds: float | None = None
) -> MemoryTokens:
    """Every window as a video of its own, in the order of the grid's tokens; token values are not copied.

    on_grid: the channel whose tokens are the grid's.
    """
    video = np.repeat(np.arange(len(grid.lengths)), grid.lengths)
    middles = grid.spans.mean(axis=1, dtype=np.float64)
    if window_seconds is None:
        low, high = grid.spans[:, 0].astype(np.float64), grid.spans[:, 1].astype(np.float64)
    else:
        low, high = middles - window_seconds / 2, middles + window_seconds / 2
    channels = [_windows(channel, video, low, high, middles) for channel in tokens.channels]
    if window_seconds is None:
        own, starts = tokens.channels[on_grid], torch.arange(len(video))
        channels[on_grid] = Channel(own.values, own.times, starts, torch.ones_like(starts))
    return MemoryTokens(tuple(channels))


def _windows(channel: Channel, video: Int, low: Float, high: Float, middles: Float) -> Channel:
    """Tokens of `channel` whose middles lie in [low, high], or the nearest one."""
    counts = channel.lengths.numpy()
    times = channel.times.numpy().astype(np.float64)
    stretch = max(float(times.max()), float(high.max())) - min(float(times.min()), float(low.min())) + 1.0
    line = times + np.repeat(np.arange(len(counts)), counts) * stretch  # every video on its own stretch
    if (np.diff(line) < 0).any():
        raise HeadError("tokens are not in the order of time; this cache cannot be scored over time")
    shift = video * stretch
    ends = np.cumsum(counts)
    begins, ends = (ends - counts)[video], ends[video]
    first = np.clip(np.searchsorted(line, low + shift, side="left"), begins, ends)
    last = np.clip(np.searchsorted(line, high + shift, side="right"), begins, ends)
    right = np.clip(np.searchsorted(line, middles + shift), begins, ends - 1)
    left = np.clip(right - 1, begins, ends - 1)
    closer_left = np.abs(line[left] - middles - shift) <= np.abs(line[right] - middles - shift)
    empty = last <= first
    starts = np.where(empty, np.where(closer_left, left, right), first)
    return Channel(
        channel.values,
        channel.times,
        torch.from_numpy(starts),
        torch.from_numpy(np.where(empty, 1, last - first)),
    )


@torch.no_grad()
def _attention(head: TrainedHead, tokens: MemoryTokens, ragged: dict[str, TokenArray]) -> Float:
    """Attention of every grid token of all videos, float64 [N]."""
    assert isinstance(head.model, HeadModel)
    pool = head.model.pool.attention
    assert pool is not None
    grid = ragged[head.info.grid]
    separate = head.info.config.model.separate_streams
    parts = list(ragged.values()) if separate else [grid]
    weights = [np.empty(len(part.values)) for part in parts]
    for v in range(len(grid.lengths)):
        batch = tokens.batch(torch.tensor([v]))
        x_BTD, mask_BT = head.model.encode(
            [c.values for c in batch], [c.mask for c in batch], [c.times for c in batch]
        )
        found: Tensor = pool.weights(x_BTD, mask_BT)[0].double()
        position = 0
        for part, own in zip(parts, weights, strict=True):
            n = int(part.lengths[v])
            own[int(part.offsets[v]) : int(part.offsets[v + 1])] = found[position : position + n].numpy()
            position += n
    if not separate:
        return weights[0]
    total = np.zeros(len(grid.values))
    for part, own in zip(parts, weights, strict=True):
        total += own if part is grid else _on_grid(grid, part, own)
    return total


def _on_grid(grid: TokenArray, other: TokenArray, weights: Float) -> Float:
    """Each weight spread evenly over the grid windows that its token overlaps (or is nearest to)."""
    rows, starts = overlapping_tokens(other, grid)
    sizes = np.diff(np.concatenate([starts, [len(rows)]]))
    shares = np.repeat(weights / sizes, sizes)
    spread: Float = np.bincount(rows, weights=shares, minlength=len(grid.values)).astype(np.float64)
    return spread
