"""Labels that a command takes in place of the cache's: joined once, and the join told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cache.labels.join import LabelJoin
    from cache.reader import Cache


def join_given(
    cache: Cache,
    labels: Path | None,
    *,
    positive: str | None,
    allow_unmatched: bool,
    say: Callable[[str], object] | None,
) -> LabelJoin | None:
    """The join of `--labels`, or None where there is none; say gets its lines, None leaves them to the caller.

    Raises LabelError.
    """
    if labels is None:
        return None
    from cache.labels.join import label_videos

    ids = cache.videos.id.tolist()
    join = label_videos(ids, labels_file=labels, positive=positive, allow_unmatched=allow_unmatched)
    if say is not None:
        for line in join.report():
            say(line)
    return join
