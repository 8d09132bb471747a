"""Shares of a source: every input in exactly one, wherever it is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import InputError
from cache.schema import VideoLabel
from pipeline.sources.labelled import ResolvedSources
from pipeline.sources.shards import Shard, balanced, hashed_shard, parse_shard, write_plan
from pipeline.sources.tree import Source

IDS = [f"train/Fight/{number}.mp4" for number in range(500)]


@pytest.mark.parametrize("of", [1, 2, 3, 7, 64])
def test_every_video_is_in_one_shard(of: int) -> None:
    shards = [Shard(index, of) for index in range(1, of + 1)]
    for video_id in IDS:
        assert sum(shard.holds(video_id) for shard in shards) == 1
    counts = [sum(shard.holds(video_id) for video_id in IDS) for shard in shards]
    assert max(counts) <= 3 * len(IDS) / of


def test_the_hash_is_stable() -> None:
    """Parts of last year must fit those of today."""
    assert [hashed_shard(one, 7) for one in ("a.mp4", "train/Fight/b.mp4", "é\udcff.avi")] == [7, 3, 1]


@given(st.dictionaries(st.text(min_size=1), st.floats(0, 1e5), max_size=60), st.integers(1, 9))
def test_a_plan_is_nearly_level(weights: dict[str, float], of: int) -> None:
    placed = balanced(weights, of)
    assert placed.keys() == weights.keys() and all(1 <= place <= of for place in placed.values())
    loads = [sum(weights[one] for one, place in placed.items() if place == n) for n in range(1, of + 1)]
    assert max(loads) - min(loads) <= max(weights.values(), default=0.0) + 1e-6


def test_a_tapered_plan_ends_with_short_shards() -> None:
    weights = {f"v{number}": 1.0 + number % 5 for number in range(400)}
    placed = balanced(weights, 4, taper=0.6)
    loads = [sum(weights[one] for one, place in placed.items() if place == n) for n in (1, 2, 3, 4)]
    mean = sum(weights.values()) / 4
    assert loads == pytest.approx([1.6 * mean, 1.2 * mean, 0.8 * mean, 0.4 * mean], abs=5)


def test_a_plan_is_read_back_and_what_it_does_not_name_goes_by_hash(tmp_path: Path) -> None:
    placed = dict.fromkeys(IDS[:3], 2)
    write_plan(tmp_path / "plan.json", placed, 3)
    shards = [parse_shard(f"{index}/3", tmp_path / "plan.json") for index in (1, 2, 3)]
    assert (
        all(shards[1].holds(video_id) for video_id in IDS[:3]) and len({shard.plan for shard in shards}) == 1
    )
    for video_id in IDS:
        assert sum(shard.holds(video_id) for shard in shards) == 1
    assert shards[hashed_shard(IDS[9], 3) - 1].holds(IDS[9])


@pytest.mark.parametrize("text", ["", "3", "٣/٤", "0/3", "4/3", "a/b", "1/0", "-1/3", "1/3/5", "1.5/3"])
def test_shards_as_typed(text: str) -> None:
    with pytest.raises(InputError, match="write I/N"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("", "is no plan"),
        ("[]", "is no plan"),
        ('{"version": 1, "shards": 2, "shard_of": {"a": "x"}}', "is no plan"),
        ('{"version": 1, "shards": 3, "shard_of": {"a": Infinity}}', "is no plan"),
        ('{"version": 1, "shards": 3, "shard_of": {"a": 1.7}}', "is no plan"),
        ('{"version": 1, "shards": 3, "shard_of": {"a": true}}', "is no plan"),
        ("[" * 200000, "is no plan"),
        ('{"version": 1, "shards": 2, "shard_of": {}}', "is for 2 shards"),
        ('{"version": 9, "shards": 3, "shard_of": {}}', "version 9"),
        ('{"version": 1, "shards": 3, "shard_of": {"a": 4}}', "is for 3 shards"),
    ],
)
def test_plans_that_are_none(written: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(written)
    with pytest.raises(InputError, match=says):
        parse_shard("1/3", tmp_path / "plan.json")
    with pytest.raises(InputError, match="cannot be read"):
        parse_shard("1/3", tmp_path / "none.json")


def test_a_plan_is_plain_json(tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.json", {"b": 1, "a": 2}, 2)
    read = json.loads((tmp_path / "plan.json").read_text())
    assert read == {"version": 1, "shards": 2, "shard_of": {"a": 2, "b": 1}}
    assert list(read["shard_of"]) == ["b", "a"]


def test_a_shard_works_in_the_order_of_its_plan() -> None:
    """The longest first, what came after the plan last."""
    placed = balanced({"short": 1.0, "long": 9.0, "other": 8.0, "middle": 5.0}, 2)
    names = ("late", *sorted(placed))
    resolved = ResolvedSources(
        tuple(Source(name, Path(name), "", "", "") for name in names),
        dict.fromkeys(names, VideoLabel(-1, "")),
        None,
        (),
    )
    late = hashed_shard("late", 2)
    orders = {n: [s.id for s in Shard(n, 2, placed).share(resolved).sources] for n in (1, 2)}
    assert orders[late].pop() == "late" and orders == {1: ["long", "short"], 2: ["other", "middle"]}
