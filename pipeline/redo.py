"""Caches made by older decoding rules: what in them may be wrong, and bringing them up to date without extracting everything
again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cache.errors import FingerprintMismatch
from cache.fingerprint import decoding_rules, is_imported
from cache.reader import Cache, open_cache
from cache.stores.open import cache_exists
from pipeline.backbones.kind import hears
from pipeline.decoding.decoders.affected import why_affected
from pipeline.decoding.decoders.base import DECODING_RULES, DecodeProblem, checked_path
from pipeline.decoding.sampling import Sampling, token_spans


def stored_rules(cache: Cache) -> int:
    """The oldest decoding rules that any stream of a cache was made by; of imported ones they are unknown."""
    own = [info.fingerprint for info in cache.streams.values() if not is_imported(info.fingerprint)]
    return min(map(decoding_rules, own), default=DECODING_RULES)


def rules_of(out: Path) -> int:
    """The decoding rules of the cache at `out`; the present ones where there is none, or nothing in it."""
    if not cache_exists(out):
        return DECODING_RULES
    with open_cache(out) as cache:
        return stored_rules(cache)


def require_present_rules(out: Path) -> None:
    """Raise FingerprintMismatch where the cache at `out` was made by older rules, or by newer ones."""
    rules = rules_of(out)
    if rules < DECODING_RULES:
        raise FingerprintMismatch(
            f"{out} was made by decoding rules {rules}, this version decodes by rules {DECODING_RULES}, and they are not mixed: "
            "the same command with --redo affected extracts again just the videos whose frames may be wrong "
            "(onepass verify --decoders names them)"
        )
    if rules > DECODING_RULES:
        raise FingerprintMismatch(
            f"{out} was made by decoding rules {rules}, this version knows {DECODING_RULES}: use the newer version"
        )


def affected_videos(cache: Cache, paths: Mapping[str, Path]) -> dict[str, str]:
    """Id of every stored video that present rules would store otherwise, or may, with the reason.

    Videos that are not in `paths` are left out: nothing can be said of them, and nothing done.
    """
    if stored_rules(cache) >= DECODING_RULES:
        return {}
    samplings = {}
    for name, info in cache.streams.items():
        fields = info.fingerprint.get("sampling", {})
        if is_imported(info.fingerprint) or hears(info.fingerprint) or "fps" not in fields:
            continue  # no frames, or those of others
        samplings[name] = Sampling(
            float(fields["fps"]), int(fields.get("window", 1)), int(fields.get("stride", 1))
        )
    counts = {name: np.diff(cache.offsets(name)) for name in samplings}
    found: dict[str, str] = {}
    for index in range(len(cache)):
        row = cache.videos.row(index)
        if row.id not in paths:
            continue
        try:
            reason = why_affected(checked_path(paths[row.id]), row.decoder)
        except DecodeProblem as problem:
            found[row.id] = f"cannot be looked at: {problem.detail}"
            continue
        for name, sampling in samplings.items():
            due = len(token_spans(row.duration_seconds, sampling))
            if not reason and counts[name][index] != due:
                reason = f"{name} has a token for a sliver of a millisecond at the end"
        if reason:
            found[row.id] = reason
    return found


def reasons(affected: Mapping[str, str]) -> list[str]:
    """One line a reason: how many videos, and the first of them."""
    counts = Counter(affected.values())
    first = {reason: video_id for video_id, reason in reversed(list(affected.items()))}
    return [f"{count:>6}  {reason}: {first[reason]}" for reason, count in counts.most_common()]
