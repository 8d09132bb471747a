from __future__ import annotations

import numpy as np
import pytest

from cache.errors import LabelError
from heads.data.splits import FoldConfig, Split, choose_split, fold_splits, straddling_groups


def data(n: int = 40) -> tuple[np.ndarray, list[str], list[str]]:
    """Pairs of one label from one group, without splits."""
    return (np.arange(n) // 2 % 2).astype(np.int8), [""] * n, [f"g{i // 2}" for i in range(n)]


def test_stored_split_is_used_as_it_is() -> None:
    labels, _, groups = data(12)
    splits = ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    split = choose_split(labels, splits, groups)
    assert (split.train.tolist(), split.val.tolist(), split.test.tolist()) == (
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    )
    assert split.origin == "as stored in the cache"
    assert split.notes == ()


def test_holdout_keeps_groups_together_and_classes_on_both_sides() -> None:
    labels, splits, groups = data(100)
    for seed in range(5):
        split = choose_split(labels, splits, groups, seed=seed)
        assert straddling_groups(split, groups) == {}
        assert len(split.val) == pytest.approx(20, abs=4)
        assert labels[split.val].mean() == pytest.approx(0.5, abs=0.11)
        assert len(split.train) + len(split.val) == 100
    assert (
        choose_split(labels, splits, groups, seed=1).val.tolist()
        == choose_split(labels, splits, groups, seed=1).val.tolist()
    )


def test_val_comes_out_of_train_when_only_test_is_stored() -> None:
    labels, _, groups = data(40)
    splits = ["train"] * 32 + ["test"] * 8
    split = choose_split(labels, splits, groups)
    assert split.test.tolist() == list(range(32, 40))
    assert set(split.val) < set(range(32))
    assert "val = 20% of train" in split.origin


def test_unknown_labels_and_missing_splits_are_counted() -> None:
    labels, _, groups = data(12)
    labels[0] = -1
    splits = ["train"] * 6 + ["val"] * 4 + [""] * 2
    split = choose_split(labels, splits, groups)
    assert 0 not in split.train
    assert "1 of 12 videos have no label" in split.notes[0]
    assert "2 labelled videos have no split" in split.notes[1]


def test_groups_in_two_parts_are_a_warning_with_names() -> None:
    labels, _, groups = data(12)
    split = choose_split(labels, ["train", "val"] * 6, groups)
    assert len(straddling_groups(split, groups)[("train", "val")]) == 6
    assert "6 source groups are in both train and val, 6 of 6 val videos (g0, g1, g2, ...)" in split.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("unlabelled", "none of the 12 videos has a label"),
        ("one video", "only one labelled video"),
        ("no positives", "hold no positive video"),
        ("no negatives", "hold no negative video"),
        ("val of one class", "split val hold no positive"),
        ("no train", "no labelled video is in split train"),
        ("odd name", "unknown split 'dev'"),
        ("too few groups", "2 of each are needed"),
    ],
)
def test_what_cannot_be_trained_on_says_why(change: str, message: str) -> None:
    labels, _, groups = data(12)
    splits = ["train"] * 8 + ["val"] * 4
    if change == "unlabelled":
        labels[:] = -1
    elif change == "one video":
        labels[1:] = -1
    elif change == "no positives":
        labels[:] = 0
    elif change == "no negatives":
        labels[:] = 1
    elif change == "val of one class":
        labels[8:] = 0
    elif change == "no train":
        splits = ["val"] * 12
    elif change == "odd name":
        splits[0] = "dev"
    elif change == "too few groups":
        splits, groups = [""] * 12, ["a"] * 6 + ["b"] * 6
        labels = np.array([0] * 6 + [1] * 6, np.int8)
    with pytest.raises(LabelError, match=message):
        choose_split(labels, splits, groups)


def test_folds_cover_every_video_once_and_never_share_a_group() -> None:
    labels, _, groups = data(60)
    labels[:3] = -1
    splits = fold_splits(labels, groups, config=FoldConfig(k=5), seed=2)
    assert sorted(np.concatenate([s.test for s in splits]).tolist()) == list(range(3, 60))
    for split in splits:
        assert straddling_groups(split, groups) == {}
        assert set(labels[split.train]) == set(labels[split.val]) == {0, 1}
        assert len(split.train) + len(split.val) + len(split.test) == 57


def test_many_groups_are_placed_in_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, _, groups = data(400)
    plain = fold_splits(labels, groups)
    monkeypatch.setattr("heads.data.splits.MOST_GROUPS", 20)
    bundled = fold_splits(labels, groups)
    assert sorted(np.concatenate([split.test for split in bundled]).tolist()) == list(range(400))
    assert not any(straddling_groups(split, groups) for split in bundled)
    assert any(a.test.tolist() != b.test.tolist() for a, b in zip(plain, bundled, strict=True))
    for split in bundled:
        assert 0.4 < labels[split.test].mean() < 0.6 and 60 <= len(split.test) <= 100


def test_folds_of_some_rows_leave_the_others_alone() -> None:
    labels, _, groups = data(60)
    labels[:3] = -1
    some = np.arange(40)
    splits = fold_splits(labels, groups, config=FoldConfig(k=4), seed=2, rows=some)
    assert sorted(np.concatenate([s.test for s in splits]).tolist()) == list(range(3, 40))
    for split in splits:
        assert max(np.concatenate([split.train, split.val, split.test])) < 40
    everything = fold_splits(labels, groups, config=FoldConfig(k=4), seed=2, rows=np.arange(60))
    plain = fold_splits(labels, groups, config=FoldConfig(k=4), seed=2)
    assert [s.test.tolist() for s in everything] == [s.test.tolist() for s in plain]
    with pytest.raises(LabelError, match="3 of each are needed"):
        fold_splits(labels, groups, config=FoldConfig(k=3), rows=np.arange(8))


def test_folds_need_groups() -> None:
    labels, _, groups = data(12)
    with pytest.raises(LabelError, match="5 of each are needed"):
        fold_splits(labels, groups)
    with pytest.raises(LabelError, match="folds must be between"):
        FoldConfig(k=1)


def test_a_rare_class_still_splits() -> None:
    labels = np.zeros(400, np.int8)
    labels[[10, 200]] = 1
    groups = [str(i) for i in range(400)]
    split = choose_split(labels, [""] * 400, groups)
    assert labels[split.train].sum() == labels[split.val].sum() == 1


def test_split_checks_itself() -> None:
    some, none = np.array([0, 1]), np.array([], np.int64)
    with pytest.raises(ValueError, match="two parts"):
        Split(some, some, none, "test")
    with pytest.raises(ValueError, match="empty split"):
        Split(some, none, none, "test")
