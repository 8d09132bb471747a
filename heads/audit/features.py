"""What stored features say about a data set: copies and near copies of a video, and features that carry nothing.

**The measure of near duplicates.** Each video's tokens are averaged; per stream, columns are standardised over all
videos and rotated onto their leading principal components (at most 32, at most a quarter of the videos), each scaled
to variance 1; two videos are compared by the cosine of those, averaged over the streams. Whitening is what makes it
work: plain cosines of 0.96 to 0.99 are common between unrelated clips, above all with random backbone weights, as a
few components (brightness, colour) carry most of the variance. On 187 real clips with random weights, unrelated clips
reach 0.72 at most, and 18 copies (stronger compression, 70 % of the size, or half a second cut off the start) lie
between 0.884 and 0.997.

Shape legend: V videos, U videos of one block, N tokens of one block, D columns of a stream, K components.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from cache.process.cores import usable_cores

if TYPE_CHECKING:
    from cache.reader import Cache

MOST_COMPONENTS = 32
VIDEOS_A_COMPONENT = 4
FEWEST_VIDEOS = 24
"""Below it there are too few videos to whiten by."""

NEAR_COSINE = 0.85
CHANCE_PAIRS = 0.01
"""The threshold rises above 0.85 where, by chance, more than this many unrelated pairs would pass it."""

LEAST_VARIANCE = 1e-6
"""Components below this share of the variance are rounding."""

BLOCK, COLUMNS = 512, 1024
"""Videos compared at a time, by one thread: the cosines lie in its cache, and BLAS with threads of its own is slower here."""
MOST_PAIRS = 1_000_000
"""Of near duplicates that are kept, the most alike; the others are counted."""
Float = npt.NDArray[np.float64]
Pairs = list[tuple[int, int, float]]


@dataclass(frozen=True, slots=True, eq=False)
class PooledStream:
    """One stream, averaged by video. means_VD: float32 [V, D], in the order of the rows asked for.

    one_value: bool [V], a token holds one value in all columns. frozen: bool [V], several tokens, all equal. absent: bool [V],
    the video lacks the stream; its means are 0 and say nothing.
    n_constant_columns: columns that never vary over all tokens.
    """

    name: str
    means_VD: npt.NDArray[np.float32]
    one_value: npt.NDArray[np.bool_]
    frozen: npt.NDArray[np.bool_]
    absent: npt.NDArray[np.bool_]
    n_constant_columns: int


def pool_stream(cache: Cache, name: str, order: npt.NDArray[np.int64]) -> PooledStream:
    """Read a stream once, block by block, whatever its size. order: store index of each row, int64 [V]."""
    offsets = cache.offsets(name)
    dim = cache.streams[name].dim
    sums_VD = np.zeros((len(offsets) - 1, dim), dtype=np.float32)
    first_D = np.zeros(dim, dtype=np.float32)  # of the video that the block before ended in
    one_value = np.zeros(len(offsets) - 1, dtype=bool)
    frozen = np.ones(len(offsets) - 1, dtype=bool)
    low, high = np.full(dim, np.inf, np.float32), np.full(dim, -np.inf, np.float32)
    for start, values, _ in cache.iter_rows(name):
        values_ND = values.astype(np.float32)
        video_N = np.searchsorted(offsets, np.arange(start, start + len(values_ND)), side="right") - 1
        changes_N = np.diff(video_N, prepend=-1) != 0
        firsts = np.flatnonzero(changes_N)
        videos = video_N[firsts]
        sums_VD[videos] += np.add.reduceat(values_ND, firsts, axis=0)
        first_UD = values_ND[firsts]
        if offsets[videos[0]] < start:
            first_UD[0] = first_D
        first_D = first_UD[-1]
        single_N = (values_ND == values_ND[:, :1]).all(axis=1)
        same_N = (values_ND == first_UD[np.cumsum(changes_N) - 1]).all(axis=1)
        one_value[videos] |= np.logical_or.reduceat(single_N, firsts)
        frozen[videos] &= np.logical_and.reduceat(same_N, firsts)
        low, high = np.minimum(low, values_ND.min(axis=0)), np.maximum(high, values_ND.max(axis=0))
    counts = np.diff(offsets)
    here = counts > 0
    sums_VD[here] /= counts[here, None]
    return PooledStream(
        name=name,
        means_VD=sums_VD[order],
        one_value=one_value[order],
        frozen=(frozen & (counts > 1))[order],
        absent=~here[order],
        n_constant_columns=int((low == high).sum()),
    )


def equal_features(streams: list[PooledStream]) -> list[list[int]]:
    """Sets of videos (row numbers) that have the same streams, and means that are equal to the last bit in all of them."""
    together = np.ascontiguousarray(np.concatenate([stream.means_VD for stream in streams], axis=1))
    lacks_VS = np.stack([stream.absent for stream in streams], axis=1)
    by_bytes: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(~lacks_VS.all(axis=1)).tolist():
        by_bytes.setdefault(together[row].tobytes() + lacks_VS[row].tobytes(), []).append(row)
    return [rows for rows in by_bytes.values() if len(rows) > 1]


def whitened(means_VD: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Unit vectors float32 [V, K]: leading principal components of standardised columns, each of variance 1."""
    from sklearn.decomposition import PCA

    scale = means_VD.std(axis=0, dtype=np.float64)
    varies = scale > 1e-6 * np.maximum(np.abs(means_VD).max(axis=0), 1e-12)
    x_VD = (means_VD[:, varies] - means_VD[:, varies].mean(axis=0, dtype=np.float64)) / scale[varies]
    n, width = x_VD.shape
    wanted = min(MOST_COMPONENTS, n // VIDEOS_A_COMPONENT, width)
    if wanted == 0:
        return np.zeros((n, 1), dtype=np.float32)
    solver = "arpack" if n <= width else "covariance_eigh"  # the cheaper one, measured
    pca = PCA(wanted, whiten=True, svd_solver=solver, random_state=0)
    z_VK = pca.fit_transform(x_VD)[:, pca.explained_variance_ratio_ > LEAST_VARIANCE]
    lengths = np.linalg.norm(z_VK, axis=1, keepdims=True)
    unit_VK: npt.NDArray[np.float32] = (z_VK / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit_VK


def _whitened_where(
    here: npt.NDArray[np.bool_], means_VD: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """`whitened` of the videos that are there, 0 for the others, which are like nothing."""
    if here.all():
        return whitened(means_VD)
    if not here.any():
        return np.zeros((len(here), 1), np.float32)
    own = whitened(means_VD[here])
    found = np.zeros((len(here), own.shape[1]), np.float32)
    found[here] = own
    return found


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """pairs: (row, row, cosine), row < row, most alike first, a million at most. n_more: how many others. threshold: what they
    reach.

    n_components: by stream. unrelated: the highest cosine of two videos of different source groups that are
    no near duplicates, to judge the threshold by; None when there are none.
    """

    pairs: Pairs
    threshold: float
    n_components: dict[str, int]
    unrelated: float | None
    n_more: int = 0


def near_duplicates(
    streams: list[PooledStream], groups: Sequence[str], *, threshold: float | None = None
) -> NearDuplicates | None:
    """All pairs of videos at or above the threshold; None for fewer than 24 videos.

    groups: source group of each video. threshold: in (0, 1], or None for 0.85, or more where chance would
    pass it.
    """
    n = len(streams[0].means_VD)
    if n < FEWEST_VIDEOS:
        return None
    vectors = {stream.name: _whitened_where(~stream.absent, stream.means_VD) for stream in streams}
    here_VS = np.stack([~stream.absent for stream in streams], axis=1).astype(np.float32)
    together_VK = np.concatenate(list(vectors.values()), axis=1) / np.sqrt(len(vectors), dtype=np.float32)
    components = {name: found.shape[1] for name, found in vectors.items()}
    if threshold is None:
        threshold = max(NEAR_COSINE, chance_threshold(n, sum(components.values())))
    _, group_V = np.unique(np.array(groups, dtype=str), return_inverse=True)
    found = _Found(threshold)

    def compare(start: int) -> None:
        rows = slice(start, start + BLOCK)
        for other in range(start - start % COLUMNS, n, COLUMNS):
            columns = slice(other, other + COLUMNS)
            cosines = together_VK[rows] @ together_VK[columns].T
            if not here_VS.all():  # the mean is over the streams that both videos have
                cosines *= len(streams) / np.maximum(here_VS[rows] @ here_VS[columns].T, 1.0)
            if other < start + BLOCK:
                cosines[np.tri(len(cosines), cosines.shape[1], start - other, dtype=bool)] = -np.inf
            highest = float(cosines.max())
            if highest >= threshold:
                found.add(cosines, start, other)
            # true of few blocks, once some have been seen: what follows takes longer than the product
            if highest > found.unrelated:
                apart = (cosines < threshold) & (group_V[rows, None] != group_V[None, columns])
                found.reach(float(cosines.max(initial=-np.inf, where=apart)))

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(usable_cores()) as threads:
        list(threads.map(compare, range(0, n, BLOCK)))
    pairs = found.most_alike()
    unrelated = found.unrelated if np.isfinite(found.unrelated) else None
    return NearDuplicates(pairs, threshold, components, unrelated, found.count - len(pairs))


class _Found:
    """What threads found: the most alike pairs of all, how many there are, and the highest cosine of unrelated videos."""

    def __init__(self, threshold: float) -> None:
        self.count, self.unrelated = 0, -np.inf
        self._threshold = self._kept_from = threshold
        self._pairs: Pairs = []
        self._lock = threading.Lock()

    def add(self, cosines: npt.NDArray[np.float32], first_row: int, first_column: int) -> None:
        with self._lock:
            self.count += int(np.count_nonzero(cosines >= self._threshold))
            for row, column in np.argwhere(cosines >= self._kept_from).tolist():
                self._pairs.append((first_row + row, first_column + column, float(cosines[row, column])))
            if len(self._pairs) > 2 * MOST_PAIRS:
                self._pairs = self.most_alike()
                self._kept_from = self._pairs[-1][2]

    def reach(self, cosine: float) -> None:
        with self._lock:
            self.unrelated = max(self.unrelated, cosine)

    def most_alike(self) -> Pairs:
        return sorted(self._pairs, key=lambda pair: (-pair[2], *pair))[:MOST_PAIRS]


def chance_threshold(n_videos: int, n_components: int) -> float:
    """The cosine that 0.01 of all pairs would pass if the videos' vectors had random directions."""
    from scipy.stats import beta

    if n_components < 2:
        return 1.0
    share = min(0.5, CHANCE_PAIRS / (n_videos * (n_videos - 1) / 2))
    # (1 + cosine) / 2 of random directions in K dimensions is Beta((K - 1) / 2, (K - 1) / 2)
    half = (n_components - 1) / 2
    return float(2 * beta.isf(share, half, half) - 1)
