"""A machine's share of a source: by a stable hash of each id, or by a plan that weighs declared durations.

By hash a video never changes its shard because another one came or went. A plan is a file that is made once and read by every
shard; videos that it does not name go by their hash.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cache.errors import InputError
from cache.process.outputs import write_output
from pipeline.sources.labelled import ResolvedSources

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class Shard:
    """Share `index` of `of`, counted from 1. placed: shards by id where a plan says them; plan: the plan's digest."""

    index: int
    of: int
    placed: Mapping[str, int] = field(default_factory=dict)
    plan: str = ""

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def holds(self, video_id: str) -> bool:
        """Whether the video is this shard's."""
        return self.place(video_id) == self.index

    def place(self, video_id: str) -> int:
        """Whose the video is, of 1 to `of`."""
        return self.placed.get(video_id) or hashed_shard(video_id, self.of)

    def share(self, resolved: ResolvedSources) -> ResolvedSources:
        """Of all inputs, this shard's, in the plan's order: a long video that comes last leaves all cores but one idle."""
        rank = {
            video_id: number for number, (video_id, at) in enumerate(self.placed.items()) if at == self.index
        }
        mine = (source for source in resolved.sources if self.holds(source.id))
        kept = tuple(sorted(mine, key=lambda source: rank.get(source.id, len(self.placed))))
        ids = {source.id for source in kept}
        labels = {video_id: label for video_id, label in resolved.labels.items() if video_id in ids}
        return replace(resolved, sources=kept, labels=labels)


def hashed_shard(video_id: str, of: int) -> int:
    """1 to `of`: the first 8 bytes of the id's blake2b."""
    digest = hashlib.blake2b(video_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % of + 1


def parse_shard(text: str, plan: Path | None = None) -> Shard:
    """`I/N` as typed, with the plan that says which video is whose. Raises InputError."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--shard {text}: write I/N, such as 3/16, with I from 1 to N")
    index, of = int(found[1]), int(found[2])
    if plan is None:
        return Shard(index, of)
    try:
        raw = plan.read_bytes()
        read = json.loads(raw)
        placed = {str(video_id): place for video_id, place in read["shard_of"].items()}
        shards = read["shards"]
        if any(type(place) is not int for place in (*placed.values(), shards)):
            raise ValueError("shards are whole numbers")
    except OSError as error:
        raise InputError(f"--plan {plan}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"--plan {plan}: is no plan; onepass plan writes one") from error
    if (
        read.get("version") != PLAN_VERSION
        or shards != of
        or not all(1 <= place <= of for place in placed.values())
    ):
        raise InputError(
            f"--plan {plan}: is for {shards} shards (version {read.get('version')}), --shard {text} for {of}"
        )
    return Shard(index, of, placed, hashlib.blake2b(raw, digest_size=8).hexdigest())


def first_of_plan(plan: Path) -> Shard:
    """Shard 1 of however many the plan has. Raises InputError."""
    try:
        of = int(json.loads(plan.read_bytes())["shards"])
    except OSError as error:
        raise InputError(f"--plan {plan}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"--plan {plan}: is no plan; onepass plan writes one") from error
    return parse_shard(f"1/{of}", plan)


def balanced(weights: Mapping[str, float], of: int, *, taper: float = 0.0) -> dict[str, int]:
    """Shards by id, the heaviest video first: each to the shard with the most room (ties by number).

    taper: in [0, 1]; shares fall evenly from 1 + taper to 1 - taper of the mean, so that what is placed last is short.
    """
    mean = sum(weights.values()) / of
    fall = 2 * taper / max(1, of - 1)
    rooms = [(-mean * (1 + taper - fall * (place - 1)), place) for place in range(1, of + 1)]
    heapq.heapify(rooms)
    found = {}
    for video_id in sorted(weights, key=lambda one: (-weights[one], one)):
        room, place = heapq.heappop(rooms)
        found[video_id] = place
        heapq.heappush(rooms, (room + weights[video_id], place))
    return found


def write_plan(path: Path, placed: Mapping[str, int], of: int) -> None:
    """Write a plan whole or not at all; the order of `placed` is that of the work in each shard. Raises InputError."""
    plan = {"version": PLAN_VERSION, "shards": of, "shard_of": dict(placed)}
    write_output("--out", path, json.dumps(plan, indent=1).encode())
