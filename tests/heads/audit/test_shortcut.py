from __future__ import annotations

import numpy as np
import pytest

from heads.audit.shortcut import metadata_shortcuts


def made(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    labels = np.array([(i // 2) % 2 for i in range(n)], dtype=np.int8)
    return labels, rng.choice([240.0, 480.0, 720.0], size=(n, 4)), [f"g{i // 2}" for i in range(n)]


def test_metadata_that_says_nothing_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(5):
        if seed:
            monkeypatch.setattr("heads.audit.shortcut.TREES", 40)
        labels, metadata, groups = made(200, seed=seed)
        assert not any(s.reported() for s in metadata_shortcuts(labels, metadata, groups, n_resamples=200))


def test_knowing_each_recordings_size_is_no_shortcut() -> None:
    """Sizes that are the same within a source, and different between sources, tell nothing out of fold."""
    labels, metadata, groups = made(200)
    rng = np.random.default_rng(1)
    metadata[:, 0] = np.repeat(rng.permutation(100) * 10.0, 2)
    assert not any(s.reported() for s in metadata_shortcuts(labels, metadata, groups, n_resamples=200))


def test_a_frame_rate_that_goes_with_the_label_is_reported() -> None:
    labels, metadata, groups = made(200)
    metadata[:, 2] = np.where(labels == 1, 30.0, 25.0)
    metadata[::10, 2] = 25.0
    found = metadata_shortcuts(labels, metadata, groups, n_resamples=200)
    assert [s.reported() for s in found] == [True, True]
    assert all(s.n_folds == 5 for s in found)


def test_of_many_videos_whole_source_groups_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, metadata, groups = made(300)
    metadata[:, 2] = np.where(labels == 1, 30.0, 25.0)
    monkeypatch.setattr("heads.audit.shortcut.MOST_VIDEOS", 101)
    found = metadata_shortcuts(labels, metadata, groups, n_resamples=200)
    assert [(s.n_videos, s.auroc, s.reported()) for s in found] == [(102, 1.0, True)] * 2


def test_too_few_groups_of_a_class_give_no_answer() -> None:
    labels, metadata, _ = made(40)
    assert metadata_shortcuts(labels, metadata, ["a" if y else "b" for y in labels]) == []
    assert metadata_shortcuts(np.zeros(40, dtype=np.int8), metadata, [str(i) for i in range(40)]) == []
