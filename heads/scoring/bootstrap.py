"""Bootstrap by source group: whole groups are drawn with replacement, as clips of one recording depend on
each other.

A resample is a weight a video: how often its group was drawn. Statistics take many resamples at once.
Shape legend: R resamples, V videos, K statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
FEW_GROUPS = 20
"""Below this many source groups of the rarer class, intervals should be read with care."""

INTERVALS_ON = "intervals on"
"""How a note about them begins."""

CHUNK_ELEMENTS = 2_000_000
"""Weights held at once: resamples are worked on in chunks of about this many numbers."""


@dataclass(frozen=True, slots=True)
class Interval:
    """95 % percentile interval. n_resamples: of the n_drawn, how many had the number defined; the others are left out.

    n_rarer_groups: of the n_groups, how many hold a video of the class that fewer groups hold. n_one_class: resamples that lack
    a class. n_drawn 0 and n_rarer_groups None: not known (written by an earlier version, or no labels behind it).
    """

    low: float
    high: float
    n_resamples: int
    n_groups: int
    n_drawn: int = 0
    n_rarer_groups: int | None = None
    n_one_class: int = 0

    @property
    def rough(self) -> bool:
        """True when so few groups stand behind it that it should be read with care: one video of a class, however many
        there are of the other, says nothing of the next one.
        """
        return (self.n_groups if self.n_rarer_groups is None else self.n_rarer_groups) < FEW_GROUPS

    @property
    def n_left_out(self) -> int:
        """Resamples in which the number was not defined."""
        return max(0, self.n_drawn - self.n_resamples)

    @property
    def mark(self) -> str:
        """What a narrow table sets behind a rough interval."""
        return "~" if self.rough else ""

    def caveat(self) -> str:
        """What to know before reading it; "" if nothing."""
        found = []
        if self.rough:
            few = self.n_groups if self.n_rarer_groups is None else self.n_rarer_groups
            of = "" if self.n_rarer_groups is None else " of the rarer class"
            found.append(f"rough: {few} source group{'s' * (few != 1)}{of}")
        if self.n_one_class:
            found.append(f"{self.n_one_class} of {self.n_drawn} resamples lack a class")
        if self.n_left_out:
            found.append(f"{self.n_left_out} of {self.n_drawn} resamples are left out as undefined")
        return ", ".join(found)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, with what to know before reading it."""
        return {**asdict(self), "rough": self.rough, "caveat": self.caveat()}

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}" + (", rough" if self.rough else "")


def interval_notes(subject: str, intervals: Iterable[Interval | None]) -> tuple[str, ...]:
    """What to know before reading the intervals of one set of videos: at most one note, that of the worst of them."""
    found = list(intervals)
    given = [interval for interval in found if interval is not None]
    if found and not given:
        return (
            f"{INTERVALS_ON} {subject}: none, as they need two source groups, and both classes in half of the resamples",
        )
    worst = max(given, key=lambda interval: interval.n_left_out, default=None)
    return (f"{INTERVALS_ON} {subject}: {worst.caveat()}",) if worst and worst.caveat() else ()


def group_bootstrap(
    groups: Sequence[str],
    statistic: Callable[[Float], Float],
    *,
    labels: npt.NDArray[np.int8] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> list[Interval | None]:
    """One interval for each of K numbers. labels: int8 [V], 0 or 1, to count what stands behind the rarer class.

    statistic: weights float64 [R, V] -> numbers [R, K], NaN where one is not defined. Fewer than two groups,
    or fewer than half of the resamples defined, give None.
    """
    positive = None if labels is None else labels == 1

    def with_count(weights_RV: Float) -> Float:
        lacks = np.zeros((len(weights_RV), 1))
        if positive is not None:
            both = (weights_RV[:, positive].sum(axis=1) > 0) & (weights_RV[:, ~positive].sum(axis=1) > 0)
            lacks[:, 0] = ~both
        return np.concatenate([statistic(weights_RV), lacks], axis=1)

    samples = bootstrap_samples(groups, with_count, n_resamples=n_resamples, seed=seed)
    behind = _Behind(
        len(set(groups)), None if labels is None else rarer_groups(labels, groups), int(samples[:, -1].sum())
    )
    return [_interval(samples[:, k], behind) for k in range(samples.shape[1] - 1)]


def rarer_groups(labels: npt.NDArray[np.int8], groups: Sequence[str]) -> int:
    """Source groups that hold a video of the class that fewer of them hold."""
    names = np.array(groups, dtype=object)
    return min(len(set(names[labels == label])) for label in (0, 1))


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


@dataclass(frozen=True, slots=True)
class _Behind:
    n_groups: int
    n_rarer_groups: int | None
    n_one_class: int


def _interval(values: Float, behind: _Behind) -> Interval | None:
    defined = values[~np.isnan(values)]
    if behind.n_groups < 2 or len(defined) * 2 < len(values):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(
        float(low),
        float(high),
        len(defined),
        behind.n_groups,
        n_drawn=len(values),
        n_rarer_groups=behind.n_rarer_groups,
        n_one_class=behind.n_one_class,
    )
