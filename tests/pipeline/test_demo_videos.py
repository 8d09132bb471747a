"""The demo's data set: layout, determinism, and that motion (not metadata) tells the classes apart."""

from __future__ import annotations

import csv
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.demo_videos import draw_frames, make_demo_tree


def _decoded(path: Path) -> tuple[tuple[int, int, float], np.ndarray]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(stream)])
        rate = float(stream.average_rate or 0)
    return (frames.shape[2], frames.shape[1], round(rate, 2)), frames


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_tree(
        tmp_path_factory.mktemp("demo"), videos_per_class_train=3, videos_per_class_val=2, seed=0
    )


def test_layout_and_sources(tree: Path) -> None:
    with (tree / "sources.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    files = {path.relative_to(tree).as_posix() for path in tree.rglob("*.mp4")}
    assert {row["path"] for row in rows} == files
    assert len(files) == 2 * (3 + 2) + 3
    for row in rows:
        split, label, _ = row["path"].split("/")
        assert (row["split"], row["label"]) == (split, label)
    splits_by_source: dict[str, set[str]] = {}
    for row in rows:
        splits_by_source.setdefault(row["source"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in splits_by_source.values())
    assert len(splits_by_source) < len(rows)  # some recordings gave several clips


def test_clips_last_two_to_five_seconds_and_motion_tells_the_classes_apart(tree: Path) -> None:
    change: dict[str, list[float]] = {"Fight": [], "NonFight": []}
    metadata: dict[str, list[tuple[int, int, float, int]]] = {"Fight": [], "NonFight": []}
    for path in sorted(tree.glob("*/*/*_[0-9].mp4")):
        (width, height, fps), frames = _decoded(path)
        assert 1.9 <= len(frames) / fps <= 5.1
        change[path.parent.name].append(float(np.abs(np.diff(frames.astype(np.float32), axis=0)).mean()))
        metadata[path.parent.name].append((width, height, fps, len(frames)))
    assert len(change["Fight"]) == len(change["NonFight"]) == 5
    assert min(change["Fight"]) > 3 * max(change["NonFight"])
    assert metadata["Fight"] == metadata["NonFight"]


def test_broken_files_do_not_open(tree: Path) -> None:
    broken = {path.name: path for path in tree.rglob("*.mp4") if "_" not in path.stem}
    assert sorted(broken) == ["empty.mp4", "text.mp4", "truncated.mp4"]
    assert broken["empty.mp4"].stat().st_size == 0
    assert broken["truncated.mp4"].stat().st_size > 1000
    for path in broken.values():
        with pytest.raises(av.error.FFmpegError):
            av.open(str(path))


def test_same_seed_same_bytes(tree: Path, tmp_path: Path) -> None:
    again = make_demo_tree(tmp_path, videos_per_class_train=3, videos_per_class_val=2, seed=0)
    for path in tree.rglob("*.*"):
        assert path.read_bytes() == (again / path.relative_to(tree)).read_bytes(), path.name


def test_scenes_depend_on_seed_and_time() -> None:
    def draw(time: float, seed: int) -> np.ndarray:
        return draw_frames([time], motion="violent", width=32, height=16, seed=seed)

    assert draw(0.0, 1).shape == (1, 16, 32, 3)
    assert draw(0.0, 1).dtype == np.uint8
    np.testing.assert_array_equal(draw(0.5, 1), draw(0.5, 1))
    assert (draw(0.0, 1) != draw(0.0, 2)).any()
    assert (draw(0.0, 1) != draw(1.0, 1)).any()


def test_no_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="videos_per_class_val"):
        make_demo_tree(tmp_path, videos_per_class_train=1, videos_per_class_val=0)
