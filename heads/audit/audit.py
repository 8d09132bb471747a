"""The leak audit: what in a cache would make a head look better than it is.

    kind                  severity   what it is
    exact-duplicate       leak       the same file (by digest) in two splits
                                     (a video whose digest is unknown, "", is a copy of none)
    repeated-features     leak       other files with features equal to the last bit, in two splits
    near-duplicate        leak       videos whose whitened features all but agree, in two splits
    straddling-group      leak       clips of one source recording in two splits
    shortcut              leak       metadata alone tells the label (see `heads.audit.shortcut`)
    missing-stream        leak       which streams a video lacks tells the label (the same models, on what is missing)
    duplicate-label       warning    copies of one file with both labels
    duplicate-in-split    warning    copies inside one split (or without splits): they count several times
    near-across-groups    warning    near duplicates of two source groups inside one split: folds would part them
    unmatched             warning    videos without label, or labels without video
    one-class             warning    a split with a single class
    balance               warning    the share of positives differs between splits by more than chance allows
    constant-features     warning    tokens of one value, a video whose tokens are all equal
    constant-columns      note       feature columns that never vary

`AuditReport.leaks` decides the exit code of `onepass audit`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cache.arguments import is_number, require_open_cache, require_whole
from cache.errors import InputError
from cache.fingerprint import is_random, weights_name
from cache.schema import UNKNOWN_LABEL
from heads.audit.features import NearDuplicates, PooledStream, equal_features, near_duplicates, pool_stream
from heads.audit.shortcut import SHORTCUT_LIMIT, Shortcut, metadata_shortcuts
from heads.data.rows import METADATA_COLUMNS, VideoRows, read_rows, varying_columns

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache

Severity = Literal["leak", "warning", "note"]
MOST_EXAMPLES = 20
BALANCE_P = 0.001
"""Shares of positives are called different below this p-value (chi-square), as many caches get audited."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of finding. count: how often; examples: up to 20, each readable on its own line."""

    kind: str
    severity: Severity
    message: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditReport:
    """findings: leaks first. balance: videos by split and label name. near: None where too few videos. missing: what lacks as

    a model of the label; empty where nothing is.
    """

    paths: tuple[str, ...]
    n_videos: int
    n_groups: int
    weights: str
    random_weights: bool
    random_streams: tuple[str, ...]
    findings: tuple[Finding, ...]
    balance: dict[str, dict[str, int]]
    shortcuts: tuple[Shortcut, ...]
    near: NearDuplicates | None
    missing: tuple[Shortcut, ...] = ()

    @property
    def leaks(self) -> tuple[Finding, ...]:
        """What must not stay as it is."""
        return tuple(finding for finding in self.findings if finding.severity == "leak")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        near = self.near and {k: v for k, v in asdict(self.near).items() if k != "pairs"}
        return {
            **{k: v for k, v in asdict(self).items() if k != "near"},
            "shortcuts": [
                {**asdict(shortcut), "interval": shortcut.interval and shortcut.interval.as_dict()}
                for shortcut in self.shortcuts
            ],
            "missing": [
                {**asdict(shortcut), "interval": shortcut.interval and shortcut.interval.as_dict()}
                for shortcut in self.missing
            ],
            "clean": not self.leaks,
            "n_leaks": sum(finding.count for finding in self.leaks),
            "metadata_columns": list(METADATA_COLUMNS),
            "near_duplicates": near,
        }


def audit_cache(
    cache: Cache,
    *,
    labels: LabelJoin | None = None,
    near_threshold: float | None = None,
    shortcut_limit: float = SHORTCUT_LIMIT,
    n_resamples: int = 1000,
) -> AuditReport:
    """Look for leaks across splits, near duplicates, shortcuts and features that carry nothing (the kinds: this module's table).

    labels: a join that replaces the stored labels, splits and sources.

    near_threshold: in (0, 1]; None is chosen by `heads.audit.features`. shortcut_limit: AUROC in [0.5, 1).
    Raises InputError for values out of range, LabelError for a cache without videos.
    """
    require_open_cache(cache, "audit_cache")
    require_whole("n_resamples", n_resamples, 0, 100_000)
    if near_threshold is not None and not (is_number(near_threshold) and 0.0 < near_threshold <= 1.0):
        raise InputError(f"the near-duplicate threshold must be in (0, 1], got {near_threshold}")
    if not (is_number(shortcut_limit) and 0.5 <= shortcut_limit < 1.0):
        raise InputError(f"the shortcut limit must be in [0.5, 1), got {shortcut_limit}")
    rows = read_rows(cache, labels)
    pooled = [pool_stream(cache, name, rows.order) for name in cache.streams]
    near = near_duplicates(pooled, rows.groups, threshold=near_threshold)
    known = np.flatnonzero(rows.labels != UNKNOWN_LABEL)
    groups = [rows.groups[row] for row in known]
    shortcuts = metadata_shortcuts(rows.labels[known], rows.metadata[known], groups, n_resamples=n_resamples)
    lacks = np.stack([cache.absent(name) != "" for name in cache.streams], axis=1)[rows.order].astype(
        np.float64
    )
    missing = metadata_shortcuts(rows.labels[known], lacks[known], groups, n_resamples=n_resamples)
    findings = [
        *_duplicates(rows),
        *_repeated(rows, pooled),
        *_near(rows, near),
        *_straddling(rows),
        *_shortcut(rows, shortcuts, shortcut_limit),
        *_missing(missing, shortcut_limit),
        *_unmatched(rows, labels),
        *_classes(rows),
        *_constant(rows, pooled),
    ]
    order: dict[Severity, int] = {"leak": 0, "warning": 1, "note": 2}
    fingerprints = {name: info.fingerprint for name, info in cache.streams.items()}
    return AuditReport(
        paths=cache.names,
        n_videos=len(rows),
        n_groups=len(set(rows.groups)),
        weights=", ".join(f"{name}: {weights_name(found)}" for name, found in fingerprints.items()),
        random_weights=cache.random_weights,
        random_streams=tuple(name for name, found in fingerprints.items() if is_random(found)),
        findings=tuple(sorted(findings, key=lambda finding: order[finding.severity])),
        balance=_balance(rows),
        shortcuts=tuple(shortcuts),
        near=near,
        missing=tuple(missing),
    )


def _finding(kind: str, severity: Severity, message: str, examples: Sequence[str]) -> list[Finding]:
    if not examples:
        return []
    return [Finding(kind, severity, message, len(examples), tuple(examples[:MOST_EXAMPLES]))]


def _split(rows: VideoRows, row: int) -> str:
    return rows.splits[row] or "no split"


def _told(rows: VideoRows, members: Iterable[int]) -> str:
    return " = ".join(f"{rows.ids[row]} ({_split(rows, row)})" for row in members)


def _parted(rows: VideoRows, members: Iterable[int]) -> bool:
    """Whether videos stand in two different splits; a video without one is in none."""
    return len({rows.splits[row] for row in members} - {""}) > 1


def _one_file(rows: VideoRows, members: Sequence[int]) -> bool:
    """Whether these are known to be copies of one file; a digest that is unknown is equal to none."""
    digests = {rows.digests[row] for row in members}
    return len(digests) == 1 and "" not in digests


def _duplicates(rows: VideoRows) -> list[Finding]:
    by_digest: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(rows.digests):
        if digest:
            by_digest[digest].append(row)
    sets = [members for members in by_digest.values() if len(members) > 1]
    contradicting = [m for m in sets if len({int(rows.labels[r]) for r in m} - {UNKNOWN_LABEL}) > 1]
    return [
        *_finding(
            "exact-duplicate",
            "leak",
            "files that stand in two splits (same digest): remove all but one",
            [_told(rows, m) for m in sets if _parted(rows, m)],
        ),
        *_finding(
            "duplicate-label",
            "warning",
            "copies of one file with both labels",
            [
                " = ".join(
                    f"{rows.ids[r]} ({rows.label_names[rows.labels[r]]})" for r in m if rows.labels[r] >= 0
                )
                for m in contradicting
            ],
        ),
        *_finding(
            "duplicate-in-split",
            "warning",
            "files that are there several times inside one split, and count as often; folds and holdouts keep them together",
            [_told(rows, m) for m in sets if not _parted(rows, m)],
        ),
    ]


def _repeated(rows: VideoRows, pooled: list[PooledStream]) -> list[Finding]:
    sets = [m for m in equal_features(pooled) if not _one_file(rows, m)]
    return [
        *_finding(
            "repeated-features",
            "leak",
            "different files with exactly the same features, in two splits",
            [_told(rows, m) for m in sets if _parted(rows, m)],
        ),
        *_finding(
            "repeated-features",
            "warning",
            "different files with exactly the same features",
            [_told(rows, m) for m in sets if not _parted(rows, m)],
        ),
    ]


def _near(rows: VideoRows, near: NearDuplicates | None) -> list[Finding]:
    if near is None:
        return _finding(
            "near-duplicate",
            "note",
            "near duplicates were not looked for",
            [f"{len(rows)} videos are too few to tell near from alike"],
        )
    leaks, across = [], []
    for first, second, cosine in near.pairs:
        if _one_file(rows, (first, second)):
            continue
        line = f"{cosine:.3f}  {_told(rows, (first, second))}"
        if _parted(rows, (first, second)):
            leaks.append(line)
        elif rows.groups[first] != rows.groups[second]:
            across.append(f"{line}: sources {rows.groups[first]}, {rows.groups[second]}")
    measure = f"whitened cosine of {near.threshold:.3f} or more"
    more = [f"{near.n_more:,} pairs, less alike than all that were looked at"] if near.n_more else []
    unseen = (
        f"more near duplicates than are looked at, which may part splits ({measure}): raise the threshold"
    )
    return [
        *_finding("near-duplicate", "leak", unseen, more),
        *_finding("near-duplicate", "leak", f"near duplicates in two splits ({measure})", leaks),
        *_finding(
            "near-across-groups",
            "warning",
            f"near duplicates of two source groups ({measure}); folds and holdouts would part them: give them one source",
            across,
        ),
    ]


def _straddling(rows: VideoRows) -> list[Finding]:
    by_group: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (group, split) in enumerate(zip(rows.sources, rows.splits, strict=True)):
        if split:
            by_group[group][split].append(row)
    examples = []
    for group, parts in sorted(by_group.items()):
        if len(parts) > 1:
            counts = ", ".join(f"{len(members)} in {split}" for split, members in sorted(parts.items()))
            examples.append(f"{group}: {counts} (such as {rows.ids[next(iter(parts.values()))[0]]})")
    message = "source groups with clips in two splits: their clips share scene, people and camera"
    return _finding("straddling-group", "leak", message, examples)


def _shortcut(rows: VideoRows, shortcuts: Sequence[Shortcut], limit: float) -> list[Finding]:
    if not shortcuts:
        known = rows.metadata[rows.labels != UNKNOWN_LABEL]
        text = "fewer than two source groups of each class"
        if len(known) and not varying_columns(known).any():
            text = f"no metadata: {', '.join(METADATA_COLUMNS)} are unknown or the same for all videos"
        return _finding("shortcut", "note", "the metadata-only model could not be fitted", [text])
    told = _reported(shortcuts, limit)
    message = (
        f"{', '.join(METADATA_COLUMNS)} alone tell the label (interval above {limit:g}): a head must beat this, "
        "and may have learnt it"
    )
    return _finding("shortcut", "leak", message, told)


def _missing(missing: Sequence[Shortcut], limit: float) -> list[Finding]:
    message = (
        f"which streams a video lacks tells its label (interval above {limit:g}): a head may learn that something is missing "
        "instead of what happens"
    )
    return _finding("missing-stream", "leak", message, _reported(missing, limit))


def _reported(shortcuts: Sequence[Shortcut], limit: float) -> list[str]:
    return [
        f"{s.model}: AUROC {s.auroc:.3f} ({s.interval}), out of {s.n_folds} folds of {s.n_videos} videos"
        for s in shortcuts
        if s.reported(limit)
    ]


def _unmatched(rows: VideoRows, labels: LabelJoin | None) -> list[Finding]:
    unknown = [rows.ids[row] for row in np.flatnonzero(rows.labels == UNKNOWN_LABEL)]
    unused = list(labels.unmatched_keys) if labels is not None else []
    return [
        *_finding("unmatched", "warning", "videos without a label", unknown),
        *_finding("unmatched", "warning", "labels without a video", unused),
    ]


def _balance(rows: VideoRows) -> dict[str, dict[str, int]]:
    names = {0: rows.label_names[0], 1: rows.label_names[1], UNKNOWN_LABEL: "unknown"}
    counts: dict[str, dict[str, int]] = {}
    for row, label in enumerate(rows.labels.tolist()):
        by_label = counts.setdefault(_split(rows, row), {})
        by_label[names[label]] = by_label.get(names[label], 0) + 1
    return {split: counts[split] for split in sorted(counts)}


def _classes(rows: VideoRows) -> list[Finding]:
    from scipy.stats import chi2_contingency

    splits = np.array(rows.splits, dtype=object)
    tables = {}
    for split in sorted(set(rows.splits) - {""}):
        own = rows.labels[splits == split]
        tables[split] = np.array([(own == 0).sum(), (own == 1).sum()])
    single = [f"{split}: all {counts.sum()} are {rows.label_names[int(counts[1] > 0)]}"
              for split, counts in tables.items() if counts.sum() and counts.min() == 0]  # fmt: skip
    findings = _finding("one-class", "warning", "splits with a single class cannot choose or score", single)
    uneven = []
    for (one, a), (other, b) in combinations(tables.items(), 2):
        if min(a.sum(), b.sum(), *(a + b)) == 0:
            continue
        p = float(chi2_contingency(np.stack([a, b])).pvalue)
        if p < BALANCE_P:
            uneven.append(
                f"{one} {a[1] / a.sum():.1%} of {a.sum()}, {other} {b[1] / b.sum():.1%} of {b.sum()} (p {p:.1g})"
            )
    name = rows.label_names[1]
    message = f"the share of {name} differs between splits; thresholds and F1 do not carry over"
    return findings + _finding("balance", "warning", message, uneven)


def _constant(rows: VideoRows, pooled: list[PooledStream]) -> list[Finding]:
    one_value = [f"{s.name}: {rows.ids[row]}" for s in pooled for row in np.flatnonzero(s.one_value)]
    frozen = [f"{s.name}: {rows.ids[row]}" for s in pooled for row in np.flatnonzero(s.frozen & ~s.one_value)]
    columns = [
        f"{s.name}: {s.n_constant_columns} of {s.means_VD.shape[1]}" for s in pooled if s.n_constant_columns
    ]
    return [
        *_finding(
            "constant-features", "warning", "videos with a token that is one value throughout", one_value
        ),
        *_finding(
            "constant-features",
            "warning",
            "videos whose tokens are all equal (a still picture, silence?)",
            frozen,
        ),
        *_finding("constant-columns", "note", "streams with feature columns that never vary", columns),
    ]
