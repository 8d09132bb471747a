from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from cache.errors import HeadError, InputError
from cache.labels.groups import joined_by_copies
from heads.train import train_head
from heads.trained.head import TrainedHead
from heads.trained.seen import CHOSEN, SeenVideos, require_unseen


@dataclass(frozen=True)
class Videos:
    ids: tuple[str, ...]
    digests: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(joined_by_copies(self.sources, self.digests))


OWN = Videos(("a_0", "a_1", "b_0", "c_0"), ("d0", "d1", "d2", ""), ("a", "a", "b", "c"))
PARTS = {"train": np.array([0, 1]), "val": np.array([2]), "test": np.array([3])}


def test_a_video_is_known_by_file_and_by_source_whatever_it_is_called() -> None:
    seen = SeenVideos.of(OWN, PARTS)
    others = Videos(
        ("x", "a_7", "y", "c_0", "c_9", "new"),
        ("d0", "d9", "d2", "", "", ""),
        ("x", "a", "y", "c", "c", "new"),
    )
    overlap = seen.overlap(others, np.arange(6))
    assert overlap.same_file == ("train", "", "val", "test", "", "")
    assert overlap.same_source == ("train", "train", "val", "test", "test", "")
    assert overlap.seen.tolist() == [True, True, True, True, True, False]
    assert overlap.not_for_choosing.tolist() == [True, True, False, True, True, False]
    assert overlap.words() == (
        "3 of 6 videos are its own (1 train, 1 val, 1 test), 2 more share a source group with them (such as a)"
    )
    with pytest.raises(InputError, match=r"here: the head has seen these videos: 3 of 6 .*; choose others"):
        require_unseen(overlap, where="here", instead="choose others")
    require_unseen(seen.overlap(others, np.array([5])), where="here", instead="")


def test_a_recording_is_known_by_copies_of_its_clips() -> None:
    """b_0 is a copy of a_0: whoever trained on one knows both recordings."""
    own = Videos(("a_0", "b_0", "c_0"), ("d0", "d0", "d2"), ("a", "b", "c"))
    seen = SeenVideos.of(own, {"train": np.array([0]), "val": np.array([2])})  # b_0 has no label
    other = Videos(("b_1", "new_0"), ("d8", "d9"), ("b", "new"))
    assert seen.overlap(other, np.arange(2)).parts == ("train", "")
    # nor does it matter whether the copy here is among the rows that are asked for
    renamed = Videos(("z_0", "z_1", "y_0"), ("d0", "d7", "d6"), ("z", "z", "y"))
    overlap = seen.overlap(renamed, np.array([1, 2]))
    assert overlap.same_file == ("", "")
    assert overlap.parts == ("train", "")
    assert overlap.not_for_choosing.tolist() == [True, False]


def test_unknown_digests_are_not_equal() -> None:
    seen = SeenVideos.of(OWN, PARTS)
    assert not seen.overlap(Videos(("z",), ("",), ("z",)), np.array([0])).seen.any()


def test_it_goes_through_json_and_grows() -> None:
    seen = SeenVideos.of(OWN, PARTS).with_part(
        CHOSEN, SeenVideos.of(Videos(("n",), ("dn",), ("n",)), {"all": np.array([0])})
    )
    values = json.loads(json.dumps(seen.as_dict(), sort_keys=True))
    assert set(values) == {"train", "val", "test", "threshold"}

    class Info:
        trained_on = {"videos": values}  # noqa: RUF012

    again = SeenVideos.of_head(Info())  # type: ignore[arg-type]
    assert again is not None
    assert again.overlap(Videos(("m",), ("dn",), ("m",)), np.array([0])).parts == ("threshold",)
    assert again.overlap(OWN, np.arange(4)).same_file == ("train", "train", "val", "test")
    values["train"]["files"] = "not base64!"
    with pytest.raises(HeadError, match="trained_on.videos"):
        SeenVideos.of_head(Info())  # type: ignore[arg-type]


def test_a_head_knows_its_videos_after_loading_and_2000_are_compact(toy_cache, quick, tmp_path) -> None:  # type: ignore[no-untyped-def]
    head = TrainedHead.load(train_head(toy_cache, quick).save(tmp_path / "h"))
    seen = SeenVideos.of_head(head.info)
    assert seen is not None
    assert {part: len(files) for part, files in seen.files.items()} == {"train": 36, "val": 24}
    many = Videos(
        tuple(map(str, range(2000))), tuple(f"d{i}" for i in range(2000)), tuple(map(str, range(2000)))
    )
    assert len(json.dumps(SeenVideos.of(many, {"train": np.arange(2000)}).as_dict())) < 50_000
