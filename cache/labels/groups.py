"""Source groups: videos cut from one original recording. They never straddle a split or a fold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from cache.labels.media import without_suffix

_CLIP_NUMBER = re.compile(r"_\d+$")
_TIME_SPAN = re.compile(r"_\d+\.\d+_\d+\.\d+$")


def source_group(video_id: str, source: str) -> str:
    """The group of one video: `source` where it is known, else the recording's name read off the id.

    The RWF-2000 rule: the stem without its trailing `_<n>` (`train/Fight/gVDey4_0.avi` -> `gVDey4`). Clip ids
    that end in a time span lose that instead (`V_123_0.0_4.0` -> `V_123`). A stem without either is a group
    of its own. Folders do not count: parts of one recording may lie in two of them, and that is what a leak
    audit must see; nor does the Unicode form of accents.
    """
    if source:
        return unicodedata.normalize("NFC", source)
    name = unicodedata.normalize("NFC", video_id).replace("\\", "/").rsplit("/", 1)[-1]
    stem = without_suffix(name)
    shortened = _TIME_SPAN.sub("", stem)
    if shortened == stem:
        shortened = _CLIP_NUMBER.sub("", stem)
    return shortened or stem


def joined_by_copies(groups: Sequence[str], digests: Sequence[str]) -> list[str]:
    """The same groups, one where copies of a file (equal digests that are known) stand in several: named as the first by name."""
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = group = parent[parent[group]]
        return group

    first: dict[str, str] = {}
    for group, digest in zip(groups, digests, strict=True):
        if digest:
            one, other = sorted((root(group), root(first.setdefault(digest, group))))
            parent[other] = one
    return [root(group) for group in groups]


def source_groups(ids: Sequence[str], sources: Sequence[str]) -> list[str]:
    """`source_group` of every row."""
    return [source_group(video_id, source) for video_id, source in zip(ids, sources, strict=True)]
