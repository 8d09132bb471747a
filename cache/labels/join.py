"""Binary labels: which label belongs to which video.

A label file names its videos in its own way: by path, by file name or by clip id. `join_labels` finds the
video of every row by the rules of `cache.labels.keys`, best rule first, never guesses between two, and says
which column and which rule it went by.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cache.errors import LabelError
from cache.labels.files import LabelEntry, read_entries, read_label_file
from cache.labels.keys import EXACT, NORMALISED, Finder, JoinedBy, normalised_path, place_entries
from cache.labels.media import IMAGE_SUFFIXES, MEDIA_SUFFIXES, VIDEO_SUFFIXES, without_suffix
from cache.labels.names import LabelNames, choose_positive, nfc, same_name
from cache.schema import VideoLabel

__all__ = [
    "IMAGE_SUFFIXES",
    "MEDIA_SUFFIXES",
    "VIDEO_SUFFIXES",
    "EntryMatch",
    "JoinedBy",
    "LabelEntry",
    "LabelJoin",
    "LabelNames",
    "VideoLabel",
    "choose_positive",
    "join_labels",
    "label_videos",
    "match_entries",
    "near_misses",
    "normalised_stem",
    "read_entries",
    "read_label_file",
    "require_joined",
    "shortened",
]


def normalised_stem(id_or_key: str) -> str:
    """The bare name of a video: no folders, no suffix of a media file, lower case, NFC.

    `RWF-2000/V_123_0.0_4.0` and `V_123_0.0_4.0.mp4` both give `v_123_0.0_4.0`.
    """
    return without_suffix(normalised_path(id_or_key).rsplit("/", 1)[-1])


class EntryMatch(NamedTuple):
    """The entry of each id that has one, the keys that have no id, and how they were joined."""

    entries: dict[str, LabelEntry]
    unmatched: tuple[str, ...]
    how: JoinedBy


@dataclass(frozen=True, slots=True)
class LabelJoin:
    """Which labels found their video. Ids and keys are in the order given."""

    names: LabelNames
    matched: dict[str, VideoLabel]
    unmatched_ids: tuple[str, ...]
    unmatched_keys: tuple[str, ...]
    how: JoinedBy = field(default_factory=lambda: JoinedBy(""))

    def report(self) -> tuple[str, ...]:
        """Lines for the user: counts on both sides, how they were joined, what did not match, and near misses."""
        positives = sum(label.label for label in self.matched.values())
        lines = [
            f"labels: {len(self.matched)} videos matched ({positives} {self.names.positive}, "
            f"{len(self.matched) - positives} {self.names.negative}), "
            f"{len(self.unmatched_ids)} videos without a label, "
            f"{len(self.unmatched_keys)} labels without a video"
        ]
        if self.matched:
            lines.append(f"  {self.how.line()}")
        if self.unmatched_ids:
            lines.append(f"  videos without a label: {shortened(self.unmatched_ids)}")
        if self.unmatched_keys:
            lines.append(f"  labels without a video: {shortened(self.unmatched_keys)}")
        return (*lines, *(f"  {line}" for line in near_misses(self.unmatched_keys, self.unmatched_ids)))


def match_entries(ids: Iterable[str], entries: Sequence[LabelEntry]) -> EntryMatch:
    """Find the video of every entry.

    Raises LabelError when a key fits several videos equally well, when entries for one video contradict, or when
    two columns name different videos.
    """
    ids = list(dict.fromkeys(ids))
    places, how = place_entries(Finder(ids), entries)
    claims: dict[str, list[tuple[int, LabelEntry]]] = defaultdict(list)
    unmatched: list[str] = []
    for entry, place in zip(entries, places, strict=True):
        key = entry.cells.get(how.column) or entry.key
        if place is None:
            unmatched.append(key)
            continue
        if len(place.ids) > 1:
            raise LabelError(
                f"{_place(entry)}: {place.key!r} fits {len(place.ids)} videos: {shortened(place.ids)}; "
                "write the path as it is below the source folder"
            )
        claims[place.ids[0]].append((place.rank, entry))
    matched: dict[str, LabelEntry] = {}
    for video_id in ids:
        if video_id in claims:
            matched[video_id], refused = _settled(video_id, claims[video_id])
            unmatched.extend(entry.cells.get(how.column) or entry.key for entry in refused)
    return EntryMatch(matched, tuple(unmatched), how)


def _settled(video_id: str, claims: list[tuple[int, LabelEntry]]) -> tuple[LabelEntry, list[LabelEntry]]:
    """The entry that a video gets out of all that fit it, and those that mean another video after all."""
    best = min(rank for rank, _ in claims)
    winner = next(entry for rank, entry in claims if rank == best)
    refused = []
    for rank, entry in claims:
        alike = (entry.split, entry.source) == (winner.split, winner.source)
        if alike and same_name(entry.label_name, winner.label_name):
            continue
        if best in (EXACT, NORMALISED) and rank > NORMALISED:
            refused.append(entry)  # the winner names this very path, so the other is a file that is not here
            continue
        raise LabelError(
            f"two rows contradict each other about {video_id}: {_place(winner)} says {_told(winner)}, "
            f"{_place(entry)} says {_told(entry)}; keep one of them"
        )
    return winner, refused


def join_labels(ids: Iterable[str], entries: Sequence[LabelEntry], *, names: LabelNames) -> LabelJoin:
    """Give every id the label of its entry.

    Raises LabelError for a label that is neither of `names` (naming the row), for a key that fits several
    videos and for rows that contradict each other. A join that misses some or all is a result: see
    `require_joined`.
    """
    for entry in entries:
        if names.number(entry.label_name) is None:
            raise LabelError(
                f"{_place(entry)}: {entry.key!r} has the label {entry.label_name!r}, "
                f"which is neither {names.positive!r} nor {names.negative!r}"
            )
    ids = list(dict.fromkeys(ids))
    found, unmatched_keys, how = match_entries(ids, entries)
    matched: dict[str, VideoLabel] = {}
    for video_id, entry in found.items():
        label = names.label(entry.label_name, split=entry.split, source=entry.source)
        if label is not None:
            matched[video_id] = label
    return LabelJoin(
        names=names,
        matched=matched,
        unmatched_ids=tuple(video_id for video_id in ids if video_id not in matched),
        unmatched_keys=unmatched_keys,
        how=how,
    )


def require_joined(join: LabelJoin, *, allow_unmatched: bool) -> None:
    """Raise LabelError if nothing matched, or if something did not and `allow_unmatched` is off."""
    if not join.matched:
        tried = join.how.columns()
        told = f"no label matched any video{f' by {tried}' if tried else ''}; keys must be paths, file names or clip ids"
        raise LabelError("\n".join((told, *join.report()[1:])))
    if not allow_unmatched and (join.unmatched_ids or join.unmatched_keys):
        raise LabelError(
            "\n".join(
                (*join.report(), "complete the label file, or pass --allow-unmatched to go on without them")
            )
        )


def label_videos(
    ids: Iterable[str], *, labels_file: str | Path, positive: str | None, allow_unmatched: bool
) -> LabelJoin:
    """Read a label file, choose the positive class and join, with every check of this module (LabelError)."""
    entries = read_label_file(labels_file)
    where: dict[str, str] = {}
    for entry in entries:
        where.setdefault(nfc(entry.label_name), entry.where)
    join = join_labels(ids, entries, names=choose_positive(where, positive=positive, where=where))
    require_joined(join, allow_unmatched=allow_unmatched)
    return join


def _place(entry: LabelEntry) -> str:
    return entry.where or f"the row of {entry.key!r}"


def _told(entry: LabelEntry) -> str:
    parts = (
        entry.label_name,
        entry.split and f"split {entry.split}",
        entry.source and f"source {entry.source}",
    )
    return ", ".join(part for part in parts if part) or "nothing"


def shortened(values: Sequence[str], *, limit: int = 5) -> str:
    """The first values for a message, and how many more there are."""
    more = f" and {len(values) - limit:,} more" if len(values) > limit else ""
    return ", ".join(values[:limit]) + more


def near_misses(keys: Sequence[str], ids: Sequence[str], *, limit: int = 3, pool: int = 2000) -> list[str]:
    """`did you mean` lines for the first keys, looked for among the first `pool` ids (the search is slow)."""
    stems = {normalised_stem(video_id): video_id for video_id in ids[:pool]}
    lines: list[str] = []
    for key in keys[: 10 * limit]:
        near = difflib.get_close_matches(normalised_stem(key), stems, n=1, cutoff=0.6)
        if near and len(lines) < limit:
            lines.append(f"near miss: label {key!r} and video {stems[near[0]]!r}")
    return lines
