"""Source groups by column and by the RWF-2000 rule."""

from __future__ import annotations

import unicodedata

import pytest

from cache.labels.groups import joined_by_copies, source_group, source_groups


@pytest.mark.parametrize(
    ("video_id", "group"),
    [
        ("train/Fight/gVDey4_0.avi", "gVDey4"),
        ("val/NonFight/gVDey4_12.AVI", "gVDey4"),
        ("_6-B11R9FJM_3.mp4", "_6-B11R9FJM"),
        ("a_b_c_1.mp4", "a_b_c"),
        ("RWF-2000/V_123_0.0_4.0", "V_123"),
        ("V_123_4.0_8.0.mp4", "V_123"),
        ("V_123_0.5", "V_123_0.5"),  # one decimal is neither a clip number nor a span
        ("fi079.mp4", "fi079"),
        ("nested\\windows\\x_7.mp4", "x"),
        ("_5.mp4", "_5"),
        ("12.mp4", "12"),
        ("x_1.part_2.mkv", "x_1.part"),
        ("rec_7.264", "rec"),
        ("V_123_0.0_4.265", "V_123"),
        ("été_1.mp4", "\xe9t\xe9"),
        (unicodedata.normalize("NFD", "été_2.mp4"), "\xe9t\xe9"),
    ],
)
def test_group_is_read_off_the_id(video_id: str, group: str) -> None:
    assert source_group(video_id, "") == group


def test_a_given_source_wins() -> None:
    assert source_group("train/Fight/gVDey4_0.avi", "7q6KJoSgxmY") == "7q6KJoSgxmY"


def test_many() -> None:
    assert source_groups(["a_1.mp4", "b_1.mp4"], ["", "rec"]) == ["a", "rec"]
    with pytest.raises(ValueError):
        source_groups(["a_1.mp4"], [])


def test_groups_that_hold_copies_of_a_file_are_one() -> None:
    groups = ["d", "c", "b", "a", "e", "f", "c"]
    digests = ["2", "1", "2", "", "", "3", "2"]
    assert joined_by_copies(groups, digests) == ["b", "b", "b", "a", "e", "f", "b"]
    assert joined_by_copies(groups, [""] * 7) == groups
    n = 20_000  # a chain of copies from group to group, in the worst order
    chain = [f"{i:06d}" for i in range(n, 0, -1) for _ in "ab"]
    assert set(joined_by_copies(chain, [str((i + 1) // 2) for i in range(2 * n)])) == {"000001"}
