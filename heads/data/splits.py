"""Who is trained on, who chooses, who is scored: splits from the cache, group-disjoint holdouts, and folds.

Selection (epoch, threshold, calibration) sees `val` only; `test` is scored once, after everything is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cache.arguments import is_whole, shown
from cache.errors import LabelError
from cache.schema import UNKNOWN_LABEL

Int = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int8]
SPLITS = ("train", "val", "test")
HOLDOUT_ATTEMPTS = 10
MOST_FOLDS = 50
MOST_GROUPS = 4096
"""Of source groups placed one by one: five folds of 4,096 take scikit-learn 1.1 s, and it is asked six times."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers of a dataset: train and val are not empty, no row is in two parts, test may be empty.

    origin: where the split comes from, in words for the report. notes: what the user must know about it.
    out_of_fold: train is all that is not test, and val is empty: folds of train choose instead.
    Raises ValueError when parts overlap or train or val is empty.
    """

    train: Int
    val: Int
    test: Int
    origin: str
    notes: tuple[str, ...] = field(default=())
    out_of_fold: bool = False

    def __post_init__(self) -> None:
        together = np.concatenate([self.train, self.val, self.test])
        if len(np.unique(together)) != len(together):
            raise ValueError("a video is in two parts of a split, or twice in one")
        if len(self.train) == 0 or (len(self.val) == 0) != self.out_of_fold:
            raise ValueError(f"empty split: {len(self.train)} train, {len(self.val)} val")

    def __repr__(self) -> str:
        return f"Split(train={len(self.train)}, val={len(self.val)}, test={len(self.test)}, {self.origin})"

    def parts(self) -> dict[str, Int]:
        """The parts that hold videos, by name."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: rows for name, rows in parts.items() if len(rows)}


def labelled_rows(labels: Labels, n_without: int = 0) -> tuple[Int, tuple[str, ...]]:
    """Rows that have a label, and notes when some do not. Raises LabelError when none has, or all share one class.

    n_without: videos that count as without a label since they have none of the streams.
    """
    rows = np.flatnonzero(labels != UNKNOWN_LABEL)
    unknown = len(labels) - len(rows)
    notes = tuple(
        f"{count} of {len(labels)} videos have {what} and are left out"
        for count, what in ((unknown - n_without, "no label"), (n_without, "none of the streams"))
        if count > 0
    )
    if len(rows) == 0:
        beside = f" and {n_without} have none of the streams" * bool(n_without)
        raise LabelError(f"none of the {len(labels)} videos has a label{beside}; pass --labels FILE")
    if len(rows) == 1:
        raise LabelError(
            "only one labelled video; a head needs at least two of each class, to train and to choose"
        )
    _require_both(labels, rows, "the labelled videos")
    return rows, notes


def _require_both(labels: Labels, rows: Int, where: str) -> None:
    positives = int((labels[rows] == 1).sum())
    if positives == 0:
        raise LabelError(f"{where} hold no positive video ({len(rows)} negative); both classes are needed")
    if positives == len(rows):
        raise LabelError(f"{where} hold no negative video ({len(rows)} positive); both classes are needed")


def choose_split(
    labels: Labels,
    splits: Sequence[str],
    groups: Sequence[str],
    *,
    val_share: float = 0.2,
    seed: int = 0,
    n_without: int = 0,
) -> Split:
    """The cache's own split where it has one, else a stratified holdout that keeps groups together.

    A cache with train and test but no val gets its val from train; test stays untouched for the end.
    labels: int8 [V]. splits, groups: [V]. n_without: as `labelled_rows`. Raises LabelError when a part is missing or has a
    single class.
    """
    known, notes = labelled_rows(labels, n_without)
    names = np.array([splits[i] for i in known], dtype=object)
    odd = sorted({str(n) for n in names} - {*SPLITS, ""})
    if odd:
        raise LabelError(f"unknown split {', '.join(map(repr, odd))}; use train, val and test")
    by_name = {name: known[names == name] for name in (*SPLITS, "")}
    if len(by_name[""]) == len(known):
        train, val = holdout(labels, groups, known, val_share=val_share, seed=seed)
        origin = f"holdout of {val_share:.0%} by source group, seed {seed}"
        return Split(train, val, by_name["test"], origin, notes)
    if len(by_name[""]):
        notes += (f"{len(by_name[''])} labelled videos have no split and are left out",)
    if len(by_name["train"]) == 0:
        raise LabelError(
            f"no labelled video is in split train (found: {_counts(by_name)}); training needs some"
        )
    _require_both(labels, by_name["train"], "the videos of split train")
    if len(by_name["test"]):
        _require_both(labels, by_name["test"], "the videos of split test")
    if len(by_name["val"]):
        _require_both(labels, by_name["val"], "the videos of split val")
        train, val, origin = by_name["train"], by_name["val"], "as stored in the cache"
    else:
        train, val = holdout(labels, groups, by_name["train"], val_share=val_share, seed=seed)
        origin = f"train and test as stored, val = {val_share:.0%} of train by source group, seed {seed}"
    split = Split(train, val, by_name["test"], origin, notes)
    return Split(train, val, by_name["test"], origin, notes + straddling_notes(split, groups))


def _counts(by_name: dict[str, Int]) -> str:
    return ", ".join(f"{len(rows)} {name or 'without split'}" for name, rows in by_name.items() if len(rows))


def straddling_groups(split: Split, groups: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Source groups with videos in two parts, by pair of parts; empty when the split is clean."""
    held = {name: {groups[i] for i in rows} for name, rows in split.parts().items()}
    names = list(held)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return {(a, b): sorted(held[a] & held[b]) for a, b in pairs if held[a] & held[b]}


def straddling_notes(split: Split, groups: Sequence[str]) -> tuple[str, ...]:
    """One warning a pair of parts that share source groups, with counts and up to three names."""
    notes = []
    for (a, b), shared in straddling_groups(split, groups).items():
        names = set(shared)
        n_b = sum(groups[i] in names for i in split.parts()[b])
        examples = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
        notes.append(
            f"leak: {_groups_are(len(shared))} in both {a} and {b}, {n_b} of "
            f"{len(split.parts()[b])} {b} videos ({examples}); scores on {b} are too good"
        )
    return tuple(notes)


def _groups_are(count: int) -> str:
    return "1 source group is" if count == 1 else f"{count} source groups are"


def holdout(
    labels: Labels, groups: Sequence[str], rows: Int, *, val_share: float, seed: int
) -> tuple[Int, Int]:
    """Split `rows` in two so that no group is in both and both have both classes: (train, val), sorted.

    Raises LabelError when no such split is found.
    """
    k = max(2, round(1 / val_share))
    _require_groups(labels, groups, rows, k=2)
    for attempt in range(HOLDOUT_ATTEMPTS):
        for train, val in group_folds(
            labels, groups, rows, k=feasible_folds(labels, groups, rows, k), seed=seed + attempt
        ):
            if _both(labels, train) and _both(labels, val):
                return train, val
    raise LabelError(
        "no holdout with both classes on both sides keeps the source groups together; give splits"
    )


@dataclass(frozen=True, slots=True)
class FoldConfig:
    """K folds: k in [2, 50]. inner_val_share of each fold's training videos chooses the epoch, (0, 0.5]."""

    k: int = 5
    inner_val_share: float = 0.2

    def __post_init__(self) -> None:
        if not is_whole(self.k) or not 2 <= self.k <= MOST_FOLDS:
            raise LabelError(f"the number of folds must be between 2 and {MOST_FOLDS}, got {shown(self.k)}")
        if not 0.0 < self.inner_val_share <= 0.5:
            raise LabelError(f"inner_val_share must be above 0 and at most 0.5, got {self.inner_val_share}")


def fold_splits(
    labels: Labels,
    groups: Sequence[str],
    *,
    config: FoldConfig | None = None,
    seed: int = 0,
    rows: Int | None = None,
    given: Int | None = None,
    n_without: int = 0,
) -> list[Split]:
    """K stratified, group-disjoint folds over all labelled videos, or those of them among `rows` (int64 [M]),
    whatever their stored split.

    given: the fold of each video, int64 [V] from 1, 0 for none, in place of folds drawn here; K is then their number.
    n_without: as `labelled_rows`.

    Fold i is `test` of split i and is in `train` or `val` of all others; `val` is a group-disjoint share of
    the rest, so that nothing chosen has seen the fold. Raises LabelError when groups are too few.
    """
    config = config or FoldConfig()
    known, notes = labelled_rows(labels, n_without)
    rows = known if rows is None else np.intersect1d(known, rows)
    if given is None:
        origin = f"of {config.k}, seed {seed}"
    else:
        origin = f"of the {len(np.unique(given[rows]))} given, seed {seed}"
        notes += given_fold_notes(groups, rows, given)
    found = fold_rows(labels, groups, rows, config=config, seed=seed, given=given)
    splits = []
    for i, (rest, fold) in enumerate(found, start=1):
        train, val = holdout(labels, groups, rest, val_share=config.inner_val_share, seed=seed)
        one_class = () if _both(labels, fold) else (f"fold {i} holds a single class",)
        splits.append(Split(train, val, fold, f"fold {i} {origin}", notes + one_class))
    return splits


def fold_rows(
    labels: Labels,
    groups: Sequence[str],
    rows: Int,
    *,
    config: FoldConfig,
    seed: int,
    given: Int | None = None,
) -> list[tuple[Int, Int]]:
    """K stratified, group-disjoint folds of `rows`, which have labels, or the folds that a user gave (as in
    `fold_splits`): (rest, fold) each, with both classes in the rest.

    Raises LabelError when groups are too few, and for given folds that leave a video out.
    """
    if given is None:
        _require_groups(labels, groups, rows, k=config.k)
        folds = group_folds(labels, groups, rows, k=config.k, seed=seed)
    else:
        folds = _given_folds(rows, given)
    for i, (rest, _) in enumerate(folds, start=1):
        _require_both(labels, rest, f"the training videos of fold {i}")
    return folds


def _given_folds(rows: Int, given: Int) -> list[tuple[Int, Int]]:
    own = given[rows]
    if (missing := int((own == 0).sum())) > 0:
        raise LabelError(
            f"{missing} of {len(rows)} labelled videos are in none of the given folds; name a fold for each"
        )
    numbers = np.unique(own)
    if len(numbers) < 2:
        raise LabelError("all labelled videos are in one of the given folds; at least 2 are needed")
    return [(rows[own != number], rows[own == number]) for number in numbers]


def given_fold_notes(groups: Sequence[str], rows: Int, given: Int) -> tuple[str, ...]:
    """A note where a source group lies in several of the folds that a user gave."""
    held: dict[str, set[int]] = {}
    for row in rows.tolist():
        held.setdefault(groups[row], set()).add(int(given[row]))
    parted = sorted(group for group, folds in held.items() if len(folds) > 1)
    if not parted:
        return ()
    examples = ", ".join(parted[:3]) + (", ..." if len(parted) > 3 else "")
    return (
        f"leak: {_groups_are(len(parted))} in several of the given folds ({examples}); out-of-fold scores are too "
        "good",
    )


def disjoint_folds(
    labels: Labels, groups: Sequence[str], rows: Int, *, k: int, seed: int
) -> list[tuple[Int, Int]]:
    """Up to k group-disjoint folds of `rows`, (rest, fold) each, with both classes in every rest; fewer folds
    where groups are few, none where they are too few for two.
    """
    if min(_groups_by_class(labels, groups, rows)) < 2:
        return []
    folds = group_folds(labels, groups, rows, k=feasible_folds(labels, groups, rows, k), seed=seed)
    return folds if all(_both(labels, rest) and len(fold) for rest, fold in folds) else []


def group_folds(
    labels: Labels, groups: Sequence[str], rows: Int, *, k: int, seed: int
) -> list[tuple[Int, Int]]:
    """K stratified, group-disjoint folds of `rows`, (rest, fold) each; scikit-learn's, which places group after group.

    More than 4,096 groups are dealt into as many bundles first, which are then what is placed: the time does not grow with them.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    folder = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    own_groups = np.array([groups[i] for i in rows], dtype=object)
    numbers: dict[str, int] = {}
    own_numbers = np.array([numbers.setdefault(group, len(numbers)) for group in own_groups])
    if len(numbers) > MOST_GROUPS:
        own_groups = (np.random.default_rng(seed).permutation(len(numbers)) % MOST_GROUPS)[own_numbers]
    return [(rows[a], rows[b]) for a, b in folder.split(rows[:, None], labels[rows], own_groups)]


def _both(labels: Labels, rows: Int) -> bool:
    return len(rows) > 0 and len(np.unique(labels[rows])) == 2


def _groups_by_class(labels: Labels, groups: Sequence[str], rows: Int) -> tuple[int, int]:
    """Source groups that hold a negative, and that hold a positive."""
    negative, positive = ({groups[i] for i in rows if labels[i] == label} for label in (0, 1))
    return len(negative), len(positive)


def feasible_folds(labels: Labels, groups: Sequence[str], rows: Int, k: int) -> int:
    """k, or as many folds as the class of fewer source groups allows; 2 at least."""
    return max(2, min(k, *_groups_by_class(labels, groups, rows)))


def _require_groups(labels: Labels, groups: Sequence[str], rows: Int, *, k: int) -> None:
    negative, positive = _groups_by_class(labels, groups, rows)
    if min(negative, positive) < k:
        raise LabelError(
            f"{len(rows)} labelled videos come from {negative} source groups with negatives and {positive} "
            f"with positives; {k} of each are needed to keep groups apart. Give more videos or splits"
        )
