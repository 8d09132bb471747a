from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache.errors import InputError, LabelError
from cache.reader import Cache, open_cache
from cache.schema import VideoFeatures
from heads import TrainedHead, evaluate_head
from heads.report.score_file import agreement_lines
from heads.scoring.floors import FLOORS
from heads.train import train_head
from heads.trained.evaluation import source_notes, source_scores
from heads.trained.record import PART_ROLES, PredictionTable
from heads.training.config import TrainConfig
from tests.heads.synthetic import features, toy_videos, write_cache
from tests.heads.trained.test_rethreshold import without_videos


@pytest.fixture(scope="module")
def head(toy_path: Path) -> TrainedHead:
    config = TrainConfig().updated({"epochs": 3, "batch_size": 8, "n_resamples": 20})
    with open_cache(toy_path) as cache:
        return train_head(cache, config)


def fresh(n: int = 40, **options: object) -> list[VideoFeatures]:
    rng = np.random.default_rng(7)
    return [
        features(900 + i, label=(i // 2) % 2, rng=rng, source=f"new{i // 2}", **options)  # type: ignore[arg-type]
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def new_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("new") / "new.zarr", fresh())


@pytest.fixture
def new_cache(new_path: Path) -> Iterator[Cache]:
    with open_cache(new_path) as cache:
        yield cache


def test_unseen_videos_are_scored_as_predict_does_beside_floors_of_their_own(
    head: TrainedHead, new_cache: Cache
) -> None:
    found = evaluate_head(head, new_cache, n_resamples=50)
    assert found.part == "unseen"
    expected = dict(zip(new_cache.videos.id, head.predict(new_cache).probabilities, strict=True))
    assert {
        i: pytest.approx(p, abs=1e-5) for i, p in zip(found.table.ids, found.table.probabilities, strict=True)
    } == expected
    assert [floor.name for floor in found.floors] == list(FLOORS)
    assert all(interval is not None for interval in found.head.intervals.values())
    assert found.floors[2].metrics.auroc is not None and found.floors[2].metrics.auroc > 0.9
    assert found.floors[2].metrics.threshold is None  # out of fold: each video has that of its fold
    hours = new_cache.videos.duration_seconds[new_cache.videos.label == 0].sum() / 3600
    assert found.false_alarms_per_hour == pytest.approx(found.head.metrics.false_positives / hours)
    assert sum(source.n_mistakes for source in found.sources) == (
        found.head.metrics.false_positives + found.head.metrics.false_negatives
    )


@pytest.mark.parametrize(
    ("n_own", "words"), [(60, "60 of 60 videos are its own"), (2, "2 of 42 videos are its own")]
)
def test_seen_videos_are_refused_in_whatever_cache_and_named_where_they_are_taken(
    head: TrainedHead, tmp_path: Path, n_own: int, words: str
) -> None:
    videos = [*toy_videos()[:n_own], *(fresh() if n_own < 60 else [])]
    with open_cache(write_cache(tmp_path / "c.zarr", videos)) as cache:
        with pytest.raises(InputError, match=f"{words}.*--seen"):
            evaluate_head(head, cache)
        found = evaluate_head(head, cache, seen=True, n_resamples=0)
    assert found.part == "seen" and "too good" in PART_ROLES[found.part]
    assert found.notes[0].startswith("SEEN: ") and words in found.notes[0]
    assert found.head.part == "seen" and {floor.part for floor in found.floors} == {"seen"}


def test_a_head_of_before_is_not_called_unseen(head: TrainedHead, new_cache: Cache) -> None:
    found = evaluate_head(without_videos(head), new_cache, n_resamples=0)
    assert found.part == "unknown"
    assert any("before heads recorded their videos" in note for note in found.notes)


def test_too_few_sources_for_folds_leave_all_positive_alone(head: TrainedHead, tmp_path: Path) -> None:
    with open_cache(write_cache(tmp_path / "few.zarr", fresh(4))) as cache:
        found = evaluate_head(head, cache, n_resamples=0)
    assert [floor.name for floor in found.floors] == ["all-positive"]
    assert any("no floors but all-positive" in note for note in found.notes)
    with open_cache(write_cache(tmp_path / "more.zarr", fresh(8))) as cache:
        found = evaluate_head(head, cache, n_resamples=0)
    assert "statistics" in [floor.name for floor in found.floors]  # two sources of each class, two folds
    assert not any("no floors" in note for note in found.notes)


def test_one_class_is_said(head: TrainedHead, tmp_path: Path) -> None:
    videos = [video for video in fresh() if video.row.label == 1]
    with open_cache(write_cache(tmp_path / "one.zarr", videos)) as cache:
        with pytest.raises(LabelError, match="no negative video"):
            evaluate_head(head, cache)
        (line,) = agreement_lines(head.predict(cache), cache, head)
    assert "AUROC undefined" in line


def table(groups: str, labels: str, flagged: str) -> PredictionTable:
    scores = np.array([0.9 if flag == "1" else 0.1 for flag in flagged])
    return PredictionTable(
        ids=tuple(map(str, range(len(groups)))),
        labels=np.array(list(map(int, labels)), dtype=np.int8),
        splits=("unseen",) * len(groups),
        groups=tuple(groups),
        logits=np.zeros(len(groups)),
        probabilities=scores,
    )


def test_the_source_that_goes_wrong_comes_first_and_is_named() -> None:
    sources = source_scores(table("aaaabbcc", "11001010", "00110010"), 0.5)
    assert [source.group for source in sources] == ["a", "b", "c"]
    assert (sources[0].n, sources[0].n_missed, sources[0].n_false_alarms) == (4, 2, 2)
    assert sources[0].log_loss == pytest.approx(-np.log(0.1))
    (note,) = source_notes(sources)
    assert note.startswith("4 of the 5 mistakes are clips of one source group, a (4 clips)")
    assert source_notes(source_scores(table("abcdef", "101010", "010101"), 0.5)) == ()


def test_predict_says_which_labelled_videos_were_seen(
    head: TrainedHead, toy_cache: Cache, new_cache: Cache, tmp_path: Path
) -> None:
    (line,) = agreement_lines(head.predict(new_cache), new_cache, head)
    found = evaluate_head(head, new_cache, n_resamples=1000)
    assert line.startswith("against the labels of 40 videos that the head has not seen")
    assert f"AUROC {found.head.metrics.auroc:.3f} [" in line
    assert f"F1 {found.head.metrics.f1:.3f} [" in line
    (line,) = agreement_lines(head.predict(toy_cache), toy_cache, head)
    assert line.startswith("seen by the head: 60 of 60 videos are its own (36 train, 24 val)")
    with open_cache(write_cache(tmp_path / "c.zarr", [*toy_videos()[:10], *fresh()])) as cache:
        unseen, seen = agreement_lines(head.predict(cache), cache, head)
    assert "labels of 40 videos that the head has not seen" in unseen
    assert "10 of 50" in seen
