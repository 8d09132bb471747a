"""The rows of a cache as stage 2 sees them: sorted by id, with labels from the cache or from a join."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cache.arguments import shown
from cache.errors import LabelError
from cache.labels.groups import joined_by_copies, source_groups
from cache.labels.names import same_name
from cache.schema import UNKNOWN_LABEL

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache

METADATA_COLUMNS = ("width", "height", "fps", "duration_seconds")


@dataclass(frozen=True, slots=True, eq=False)
class VideoRows:
    """V videos, sorted by id. order: int64 [V], each one's place in the store.

    labels: int8 [V], 1 positive, 0 negative, -1 unknown. metadata: float64 [V, 4], METADATA_COLUMNS.
    label_names: (negative, positive). sources: each one's source group. groups: what may not be parted: the same, joined where
    copies of one file stand in several.
    """

    order: npt.NDArray[np.int64]
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    labels: npt.NDArray[np.int8]
    splits: tuple[str, ...]
    sources: tuple[str, ...]
    groups: tuple[str, ...]
    metadata: npt.NDArray[np.float64]
    label_names: tuple[str, str]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def durations(self) -> npt.NDArray[np.float64]:
        """Seconds, float64 [V]."""
        return self.metadata[:, METADATA_COLUMNS.index("duration_seconds")]

    @property
    def digest(self) -> str:
        """Short digest of which files these are, whatever the store's order or format."""
        text = "\n".join(f"{i}\t{d}" for i, d in zip(self.ids, self.digests, strict=True))
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def read_rows(cache: Cache, labels: LabelJoin | None = None) -> VideoRows:
    """`labels` replaces the stored labels; a video it does not match has none. Its splits and sources count
    where it gives them. Raises LabelError for a cache without videos.
    """
    if labels is not None and not hasattr(labels, "matched"):
        raise LabelError(
            f"labels are a join, such as cache.labels.label_videos(...) gives, not {shown(labels)}"
        )
    table = cache.videos
    ids = [str(i) for i in table.id]
    if not ids:
        raise LabelError(f"{cache.names[0]} holds no videos; extract some first")
    order = np.argsort(np.array(ids, dtype=object), kind="stable")
    sorted_ids = [ids[i] for i in order]
    found = np.asarray(table.label, dtype=np.int8)[order]
    splits = [str(table.split[i]) for i in order]
    sources = [str(table.source[i]) for i in order]
    label_names = cache.label_names or ("0", "1")
    if labels is not None:
        label_names = (labels.names.negative, labels.names.positive)
        for v, video_id in enumerate(sorted_ids):
            label = labels.matched.get(video_id)
            found[v] = UNKNOWN_LABEL if label is None else label.label
            splits[v] = (label.split if label else "") or splits[v]
            sources[v] = (label.source if label else "") or sources[v]
    elif cache.label_names:
        _require_one_sense(table.label_name, table.label, cache)
    digests = [str(table.digest[i]) for i in order]
    sources = source_groups(sorted_ids, sources)
    columns = [np.asarray(getattr(table, c), dtype=np.float64)[order] for c in METADATA_COLUMNS]
    return VideoRows(
        order=order,
        ids=tuple(sorted_ids),
        digests=tuple(digests),
        labels=found,
        splits=tuple(splits),
        sources=tuple(sources),
        groups=tuple(joined_by_copies(sources, digests)),
        metadata=np.stack(columns, axis=1),
        label_names=label_names,
    )


def _require_one_sense(names: npt.NDArray[Any], labels: npt.NDArray[np.int8], cache: Cache) -> None:
    """Raise LabelError where a class is positive in some videos and negative in others."""
    called = cache.label_names
    assert called is not None
    for name, label in sorted(set(zip(map(str, names), map(int, labels), strict=True))):
        if label == UNKNOWN_LABEL or not name or same_name(name, called[label]):
            continue
        if same_name(name, called[1 - label]):
            senses = ("negative", "positive")
            raise LabelError(
                f"{cache.names[0]} holds videos of class {name!r} as {senses[label]} ones, and calls {called[1 - label]!r} its "
                f"{senses[1 - label]} class: join the labels of all its videos again (extract --labels FILE)"
            )


def copy_notes(
    ids: Sequence[str], digests: Sequence[str], labels: npt.NDArray[np.int8], sources: Sequence[str]
) -> tuple[str, ...]:
    """On copies of one file (equal digests) that stand in several source groups, and on copies with both labels."""
    copies: dict[str, list[int]] = {}
    for row, digest in enumerate(digests):
        if digest:
            copies.setdefault(digest, []).append(row)
    apart = [rows for rows in copies.values() if len({sources[row] for row in rows}) > 1]
    torn = [rows for rows in copies.values() if {0, 1} <= {int(labels[row]) for row in rows}]
    return tuple(
        f"{len(found)} file{'s are' if len(found) > 1 else ' is'} there more than once, {how} "
        f"(such as {' = '.join(ids[row] for row in found[0][:2])}); {so}"
        for found, how, so in (
            (
                apart,
                "in several source groups",
                "these groups count as one, so that no fold or holdout drawn here parts copies",
            ),
            (torn, "with both labels", "one of them is wrong, see onepass audit"),
        )
        if found
    )


def varying_columns(metadata: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which columns of float64 [V, K] differ between videos: bool [K]. The others cannot tell a label."""
    known = np.nan_to_num(metadata)
    varying: npt.NDArray[np.bool_] = known.max(axis=0) > known.min(axis=0)
    return varying
