"""Merging: all parts or an error, bit for bit, whatever ends the process in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import merge as merging
from cache.errors import CacheError, FingerprintMismatch, StorageFull
from cache.merge import merge, shard_provenance
from cache.reader import open_cache
from cache.schema import Reject, StreamSpec, StreamTokens, VideoFeatures, VideoRow
from cache.writer import CacheWriter
from tests.pipeline.trees import contents

SPECS = [
    StreamSpec("clip", 4, "float16", {"stream": "clip", "weights": {"tag": "random", "seed": 0}}),
    StreamSpec("slowfast", 6, "float32", {"stream": "slowfast", "weights": {"tag": "random", "seed": 0}}),
]


def video(number: int, *, shift: float = 0.0) -> VideoFeatures:
    rng = np.random.default_rng(number)
    row = VideoRow(
        id=f"v{number:03d}.mp4",
        digest=f"blake2b:{number:040x}",
        size_bytes=10 + number,
        mtime_ns=number,
        label=number % 2,
        label_name=("no", "yes")[number % 2],
        split="train",
        source=f"s{number // 3}",
        duration_seconds=2.0,
        fps=25.0,
        width=64,
        height=48,
        n_frames=50,
        decoder="pyav",
    )
    tokens = {}
    for spec in SPECS:
        count = 1 + number % 4
        spans = np.stack([np.arange(count), np.arange(count) + 1], axis=1).astype(np.float32)
        tokens[spec.name] = StreamTokens(rng.normal(size=(count, spec.dim)).astype(spec.dtype) + shift, spans)
    return VideoFeatures(row, tokens)


def reject(number: int, detail: str = "0 bytes") -> Reject:
    return Reject(f"r{number:03d}.mp4", "empty-file", detail, "", 0, number)


def part(
    path: Path, videos: list[VideoFeatures], rejects: list[Reject], provenance: Any = None, **changes: Any
) -> Path:
    given: dict[str, Any] = {"streams": SPECS, "dataset": "d", "label_names": ("no", "yes")} | changes
    with CacheWriter.open(path, provenance=dict(provenance or {}), **given) as writer:
        writer.commit(videos, rejects)
    return path


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("n", [1, 3, 7])
def test_shards_merged_are_the_whole_bit_for_bit(suffix: str, n: int, tmp_path: Path) -> None:
    videos, rejects = [video(number) for number in range(20)], [reject(number) for number in range(5)]
    whole = part(tmp_path / f"whole{suffix}", videos, rejects)
    parts = [
        part(
            tmp_path / f"part-{place}{(suffix, '.zarr')[place % 2]}",
            videos[place::n],
            rejects[place::n],
            shard_provenance(place + 1, n, plan="", found=0, finished=True),
        )
        for place in range(n)
    ]
    found = merge(
        parts, tmp_path / f"all{suffix}", listed=[*(v.row.id for v in videos), *(r.id for r in rejects)]
    )
    assert (found.n_parts, found.n_videos, found.n_rejects, found.n_twice) == (n, 20, 5, 0)
    assert contents(tmp_path / f"all{suffix}") == contents(whole)
    with open_cache(tmp_path / f"all{suffix}") as cache:
        assert list(cache.provenance) == ["merged"] and cache.provenance["merged"]["parts"] == n
        assert cache.dataset == "d"
    left = {path.name for path in tmp_path.iterdir() if "merging" in path.name}
    assert not left


def test_what_is_wrong_with_the_shards_is_named(tmp_path: Path) -> None:
    def shard(index: int, of: int = 3, *, finished: bool = True, plan: str = "", name: str = "") -> Path:
        said = shard_provenance(index, of, plan=plan, found=2, finished=finished)
        return part(tmp_path / f"{name or index}.zarr", [video(index)], [], said)

    one, two, three = shard(1), shard(2), shard(3)
    out = tmp_path / "all.zarr"
    with pytest.raises(CacheError, match="1 of 3 shards are missing: 2/3; extract them"):
        merge([one, three], out)
    with pytest.raises(CacheError, match="2 of 3 shards are missing: 2/3, 3/3"):
        merge([one], out)
    unfinished = shard(2, finished=False, name="unfinished")
    with pytest.raises(CacheError, match=r"shard 2/3\) is not finished: 1 of 2 inputs have ended"):
        merge([one, unfinished, three], out)
    with pytest.raises(CacheError, match="shards of different splits"):
        merge([one, two, shard(4, 4, name="other")], out)
    with pytest.raises(CacheError, match="shards of different splits"):
        merge([one, two, shard(3, plan="feed", name="planned")], out)
    with pytest.raises(CacheError, match="is no shard, the other parts are"):
        merge([one, two, three, part(tmp_path / "bare.zarr", [video(9)], [])], out)
    with pytest.raises(CacheError, match="a part is given twice"):
        merge([one, two, three, one], out)
    assert not out.exists()


def test_an_id_in_two_parts_must_be_the_same(tmp_path: Path) -> None:
    one = part(tmp_path / "1.zarr", [video(1), video(2)], [reject(1)])
    alike = part(tmp_path / "2.zarr", [video(2), video(3)], [reject(1), reject(2)])
    found = merge([one, alike], tmp_path / "all.zarr")
    assert (found.n_videos, found.n_rejects, found.n_twice) == (3, 2, 2)
    assert contents(tmp_path / "all.zarr") == contents(
        part(tmp_path / "whole.zarr", [video(1), video(2), video(3)], [reject(1), reject(2)])
    )
    others = {
        "tokens": part(tmp_path / "3.zarr", [video(2, shift=1.0)], []),
        "reject": part(tmp_path / "4.zarr", [], [reject(1, "other")]),
        "state": part(tmp_path / "5.zarr", [], [Reject("v002.mp4", "empty-file", "0 bytes", "", 0, 2)]),
    }
    for other in others.values():
        with pytest.raises(CacheError, match=r"stands in .*1\.zarr and, with other contents, in"):
            merge([one, other], tmp_path / "more.zarr")


def test_every_input_of_the_source_is_in_a_part(tmp_path: Path) -> None:
    one = part(tmp_path / "1.zarr", [video(1)], [reject(1)])
    with pytest.raises(CacheError, match=r"1 of 3 inputs of the source are in no part: v009\.mp4"):
        merge([one], tmp_path / "all.zarr", listed=["v001.mp4", "r001.mp4", "v009.mp4"])
    with pytest.raises(CacheError, match=r"1 inputs of the parts are not in the source: r001\.mp4"):
        merge([one], tmp_path / "all.zarr", listed=["v001.mp4"])


def test_parts_that_do_not_belong_together_and_targets_in_use(tmp_path: Path) -> None:
    one = part(tmp_path / "1.zarr", [video(1)], [])
    seeds = [StreamSpec(s.name, s.dim, s.dtype, {**s.fingerprint, "seed": 1}) for s in SPECS]
    with pytest.raises(FingerprintMismatch, match=r"seed.*extract one of them again, into a new cache"):
        merge([one, part(tmp_path / "2.zarr", [video(2)], [], streams=seeds)], tmp_path / "all.zarr")
    taken = part(tmp_path / "taken.zarr", [video(5)], [])
    with pytest.raises(CacheError, match="exists; remove it"):
        merge([one], taken)
    merge([one], taken, overwrite=True)
    assert contents(taken) == contents(one)
    with pytest.raises(CacheError, match="a part is given twice, or is the cache to write"):
        merge([one], one)


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_merge_that_was_cut_off_goes_on(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "BATCH_VIDEOS", 2)
    parts = [part(tmp_path / f"{n}.zarr", [video(k) for k in range(n, 18, 3)], [reject(n)]) for n in range(3)]
    target, commit = tmp_path / f"all{suffix}", CacheWriter.commit
    for limit in (1, 3, 4):
        done: list[int] = []

        def failing(self: CacheWriter, *given: Any, done: list[int] = done, limit: int = limit) -> None:
            if len(done) == limit:
                raise StorageFull("no room")
            done.append(1)
            commit(self, *given)

        with monkeypatch.context() as patch:
            patch.setattr(CacheWriter, "commit", failing)
            with pytest.raises(StorageFull):
                merge(parts, target)
        assert not target.exists()
    again: list[int] = []

    def counting(self: CacheWriter, *given: Any) -> None:
        again.append(len(given[0]))
        commit(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(CacheWriter, "commit", counting)
        merge(parts, target)
    assert 0 < sum(again) < 18  # what was committed before is not read again
    whole = part(tmp_path / "whole.zarr", [video(k) for k in range(18)], [reject(n) for n in range(3)])
    assert contents(target) == contents(whole)


def test_a_merge_of_other_parts_does_not_go_on_with_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (part(tmp_path / f"{n}.zarr", [video(n)], []) for n in (1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(merging, "publish", lambda *_, **__: (_ for _ in ()).throw(StorageFull("no room")))
        with pytest.raises(StorageFull):
            merge([one], tmp_path / "all.zarr")
    merge([two], tmp_path / "all.zarr")
    assert contents(tmp_path / "all.zarr") == contents(two)


def test_a_part_that_changed_begins_the_merge_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redo leaves path, counts and identity of a part as they were; its features are new."""
    parts = [part(tmp_path / f"{n}.zarr", [video(n)], []) for n in (1, 2)]
    with monkeypatch.context() as patch:
        patch.setattr(merging, "publish", lambda *_, **__: (_ for _ in ()).throw(StorageFull("no room")))
        with pytest.raises(StorageFull):
            merge(parts, tmp_path / "all.zarr")
    with CacheWriter.reopen(parts[0]) as writer:
        writer.commit([video(1, shift=3.0)], [])
    merge(parts, tmp_path / "all.zarr")
    with open_cache(*parts) as now, open_cache(tmp_path / "all.zarr") as merged:
        assert merged.tokens("clip", 0).values.tobytes() == now.tokens("clip", 0).values.tobytes()


def test_nothing_that_is_there_is_removed(tmp_path: Path) -> None:
    one, two = (
        part(tmp_path / name, [video(n)], []) for n, name in enumerate(("1.zarr", "all.zarr.merging.zarr"))
    )
    with pytest.raises(CacheError, match="a part is given twice, or is the cache to write"):
        merge([one, two], tmp_path / "all.zarr")
    with pytest.raises(CacheError, match="is a cache of its own, and in the way"):
        merge([one], tmp_path / "all.zarr")
    with pytest.raises(CacheError, match="lies inside the part"):
        merge([one], one / "in.zarr")
    before = contents(two)
    assert len(before["videos"]) == 1
    (tmp_path / "b.zarr.merging.zarr").mkdir()
    with pytest.raises(CacheError, match="remove it"):
        merge([one], tmp_path / "b.zarr")
