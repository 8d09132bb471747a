"""Bootstrap by source group: whole groups are drawn with replacement, as clips of one recording depend on
each other.

A resample is a weight a video: how often its group was drawn. Statistics take many resamples at once.
Shape legend: R resamples, V videos, K statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
FEW_GROUPS = 20
"""Below this many source groups, intervals should be read with care."""

CHUNK_ELEMENTS = 2_000_000
"""Weights held at once: resamples are worked on in chunks of about this many numbers."""


@dataclass(frozen=True, slots=True)
class Interval:
    """95 % percentile interval. n_resamples: of those drawn, how many had the number defined."""

    low: float
    high: float
    n_resamples: int
    n_groups: int

    @property
    def rough(self) -> bool:
        """True when so few groups stand behind it that it should be read with care."""
        return self.n_groups < FEW_GROUPS

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}"


def group_bootstrap(
    groups: Sequence[str],
    statistic: Callable[[Float], Float],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> list[Interval | None]:
    """One interval for each of K numbers.

    statistic: weights float64 [R, V] -> numbers [R, K], NaN where one is not defined. Fewer than two groups,
    or fewer than half of the resamples defined, give None.
    """
    samples = bootstrap_samples(groups, statistic, n_resamples=n_resamples, seed=seed)
    n_groups = len(set(groups))
    return [_interval(samples[:, k], n_groups) for k in range(samples.shape[1])]


def bootstrap_samples(
    groups: Sequence[str], statistic: Callable[[Float], Float], *, n_resamples: int = 1000, seed: int = 0
) -> Float:
    """The K numbers of every resample, float64 [n_resamples, K]; the same seed draws the same groups."""
    names, membership = np.unique(np.array(groups, dtype=str), return_inverse=True)
    generator = np.random.default_rng(seed)
    share = np.full(len(names), 1 / len(names))
    chunk = max(1, CHUNK_ELEMENTS // len(groups))
    found = []
    for start in range(0, n_resamples, chunk):
        drawn = generator.multinomial(len(names), share, size=min(chunk, n_resamples - start))
        found.append(statistic(drawn[:, membership].astype(np.float64)))
    return np.concatenate(found)


def _interval(values: Float, n_groups: int) -> Interval | None:
    defined = values[~np.isnan(values)]
    if n_groups < 2 or len(defined) * 2 < len(values):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(float(low), float(high), len(defined), n_groups)
