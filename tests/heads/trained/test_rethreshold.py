from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.errors import HeadError, InputError, LabelError
from cache.labels.join import LabelEntry, LabelJoin, LabelNames, join_labels
from cache.reader import Cache, open_cache
from heads.scoring.floors import FLOORS
from heads.scoring.thresholds import ThresholdConfig
from heads.train import train_head
from heads.trained.checkpoint import save_info
from heads.trained.head import TrainedHead
from heads.trained.rethreshold import at_threshold, choose_again, selection_scores, with_threshold
from heads.training.config import TrainConfig
from tests.heads.synthetic import features, toy_videos, write_cache


@pytest.fixture(scope="module")
def head(toy_path: Path) -> TrainedHead:
    config = TrainConfig().updated({"epochs": 3, "batch_size": 8, "n_resamples": 20})
    with open_cache(toy_path) as cache:
        return train_head(cache, config)


def test_the_same_objective_gives_the_stored_threshold(head: TrainedHead, toy_cache: Cache) -> None:
    scores = selection_scores(head, toy_cache)
    assert len(scores.labels) == 24
    assert scores.split is not None
    again = choose_again(scores, head.info.config.threshold, n_resamples=20, seed=head.info.config.seed)
    assert again.threshold == pytest.approx(head.info.threshold.threshold, rel=1e-9)
    assert again.interval == head.info.threshold.interval
    found = at_threshold(scores, again.threshold)
    assert found.metrics.f1 == pytest.approx(head.info.metrics["val"]["f1"])
    hours = scores.seconds[scores.labels == 0].sum() / 3600
    assert found.false_alarms_per_hour == pytest.approx(found.metrics.false_positives / hours)


def test_objectives_keep_their_promises(head: TrainedHead, toy_cache: Cache) -> None:
    scores = selection_scores(head, toy_cache)
    recall = choose_again(scores, ThresholdConfig("precision-at-recall", floor=0.95), n_resamples=0)
    assert at_threshold(scores, recall.threshold).metrics.recall >= 0.95  # type: ignore[operator]
    quiet = choose_again(
        scores, ThresholdConfig("false-alarms-per-hour", max_false_alarms_per_hour=0.0), n_resamples=0
    )
    assert at_threshold(scores, quiet.threshold).false_alarms_per_hour == 0.0
    coarse = choose_again(scores, ThresholdConfig(grid="coarse"), n_resamples=0)
    assert round(coarse.threshold * 100) % 5 == 0


def test_a_holdout_is_found_again(tmp_path: Path) -> None:
    videos = [
        features(i, label=(i // 2) % 2, rng=np.random.default_rng(i), source=f"s{i // 2}") for i in range(40)
    ]
    path = write_cache(tmp_path / "c.zarr", videos)
    config = TrainConfig().updated({"epochs": 2, "n_resamples": 0, "seed": 3})
    with open_cache(path) as cache:
        head = train_head(cache, config)
        assert head.training is not None
        scores = selection_scores(head, cache)
        assert scores.rows.tolist() == head.training.split.val.tolist()


def test_what_the_head_has_seen_may_not_choose(head: TrainedHead, toy_cache: Cache) -> None:
    with pytest.raises(InputError, match="only its val videos"):
        selection_scores(head, toy_cache, part="all")


def test_another_cache_may_choose(head: TrainedHead, tmp_path: Path) -> None:
    fresh = [
        features(900 + i, label=i % 2, rng=np.random.default_rng(i), source=f"new{i}") for i in range(10)
    ]
    with open_cache(write_cache(tmp_path / "new.zarr", fresh)) as cache:
        with pytest.raises(InputError, match="--part all"):
            selection_scores(head, cache)
        scores = selection_scores(head, cache, part="all")
        assert scores.split is None
        assert "not the cache that the head was trained on" in scores.origin
        choice = choose_again(scores, ThresholdConfig(), n_resamples=0)
        changed = with_threshold(head, scores, choice, ThresholdConfig())
        assert list(changed.info.metrics) == ["all"]
        assert changed.info.floors == {}


def test_changed_labels_are_noticed(head: TrainedHead, toy_cache: Cache) -> None:
    ids = toy_cache.videos.id.tolist()
    truth = toy_cache.videos.label.tolist()
    names = LabelNames("NonFight", "Fight")

    def join(labels: list[int]) -> LabelJoin:
        entries = [
            LabelEntry(i, names.positive if x else names.negative) for i, x in zip(ids, labels, strict=True)
        ]
        return join_labels(ids, entries, names=names)

    same = selection_scores(head, toy_cache, labels=join(truth))
    assert same.notes == ()
    last_val = max(i for i in range(len(ids)) if ids[i].startswith("val"))
    other = [1 - x if i == last_val else x for i, x in enumerate(truth)]
    changed = selection_scores(head, toy_cache, labels=join(other))
    assert "changed since training" in changed.notes[0]


def test_one_class_and_other_names_are_refused(head: TrainedHead, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one = [
        features(900 + i, label=i % 2, rng=rng, split="val" if i % 2 else "train", source=f"new{i}")
        for i in range(1, 5)
    ]
    with (
        open_cache(write_cache(tmp_path / "one.zarr", one)) as cache,
        pytest.raises(LabelError, match="single class"),
    ):
        selection_scores(head, cache)


def test_writing_keeps_what_it_was(head: TrainedHead, toy_cache: Cache, tmp_path: Path) -> None:
    folder = head.save(tmp_path / "h")
    before = head.info.threshold.threshold
    scores = selection_scores(head, toy_cache)
    config = ThresholdConfig("recall-at-precision", floor=1.0)
    choice = choose_again(scores, config, n_resamples=20)
    save_info(with_threshold(head, scores, choice, config).info, folder)
    loaded = TrainedHead.load(folder)
    assert loaded.info.threshold == choice
    assert loaded.info.config.threshold == config
    assert loaded.predict(toy_cache).threshold == choice.threshold
    assert list(loaded.info.metrics) == ["val"]
    assert loaded.info.metrics["val"]["precision"] == 1.0
    assert set(loaded.info.floors) == {f"{name} on val" for name in FLOORS}
    (entry,) = loaded.info.threshold_history
    assert entry["threshold"]["threshold"] == before
    assert set(entry["metrics"]) == {"val", "train"}
    assert entry["replaced_at"].endswith("+00:00")
    assert any("chosen again" in note for note in loaded.info.notes)
    np.testing.assert_array_equal(
        loaded.predict(toy_cache).probabilities, head.predict(toy_cache).probabilities
    )

    save_info(with_threshold(loaded, scores, head.info.threshold, ThresholdConfig()).info, folder)
    twice = TrainedHead.load(folder)
    assert [entry["threshold"]["threshold"] for entry in twice.info.threshold_history] == [
        before,
        choice.threshold,
    ]
    assert sum("chosen again" in note for note in twice.info.notes) == 1
    assert not list(folder.glob("*.part"))


def test_save_info_needs_a_head(head: TrainedHead, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="not readable"):
        save_info(head.info, tmp_path)
    (tmp_path / "head.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(HeadError, match="does not name its weights"):
        save_info(head.info, tmp_path)


def without_videos(head: TrainedHead) -> TrainedHead:
    """As a head of before its videos were recorded."""
    trained_on = {name: value for name, value in head.info.trained_on.items() if name != "videos"}
    return replace(head, info=replace(head.info, trained_on=trained_on), training=None)


def some_of(tmp_path: Path, *, name: str, extra: int = 0, first: int = 0, n: int = 60) -> Path:
    """A part of the toy cache, and clips that are not in it."""
    fresh = [
        features(900 + i, label=i % 2, rng=np.random.default_rng(i), source=f"new{i}") for i in range(extra)
    ]
    return write_cache(tmp_path / f"{name}.zarr", [*toy_videos()[first : first + n], *fresh])


@pytest.mark.parametrize(("first", "n", "extra"), [(0, 60, 1), (0, 36, 0), (36, 24, 0), (0, 2, 10)])
def test_seen_videos_may_not_choose_in_whatever_cache_they_come(
    head: TrainedHead, tmp_path: Path, first: int, n: int, extra: int
) -> None:
    path = some_of(tmp_path, name="part", first=first, n=n, extra=extra)
    with open_cache(path) as cache, pytest.raises(InputError, match=f"{n} of {n + extra} videos are its own"):
        selection_scores(head, cache, part="all")


def test_clips_of_a_train_recording_may_not_choose(head: TrainedHead, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    clips = [features(700 + i, label=i % 2, rng=rng, source="source0", split="val") for i in range(6)]
    with open_cache(write_cache(tmp_path / "clips.zarr", clips)) as cache:
        for part in ("all", "val"):
            with pytest.raises(
                InputError, match=r"6 more share a source group with them \(such as source0\)"
            ):
                selection_scores(head, cache, part=part)  # type: ignore[arg-type]


def test_own_val_videos_choose_in_a_cache_of_one_clip_more(head: TrainedHead, tmp_path: Path) -> None:
    with open_cache(some_of(tmp_path, name="more", extra=1)) as cache:
        scores = selection_scores(head, cache)
        assert len(scores.rows) == 24
        assert "own val videos" in scores.origin


def labelled_only(cache: Cache, wanted: set[str]) -> LabelJoin:
    """A join that gives these videos their label, and no other."""
    videos = zip(cache.videos.id.tolist(), cache.videos.label_name.tolist(), strict=True)
    entries = [LabelEntry(i, name, "", "", "l.csv, line 1") for i, name in videos if i in wanted]
    return join_labels(cache.videos.id.tolist(), entries, names=LabelNames("NonFight", "Fight"))


def test_videos_of_its_own_cache_that_had_no_label_may_choose(toy_cache: Cache) -> None:
    """The cache is the one it was trained on; what has a label in it is not what had one then."""
    ids = sorted(toy_cache.videos.id.tolist(), key=lambda video_id: video_id.rsplit("/", 1)[-1])
    own, others = set(ids[:20]), set(ids[24:36])
    config = TrainConfig().updated({"model": "logistic", "n_resamples": 20, "data.ignore_splits": True})
    head = train_head(toy_cache, config, labels=labelled_only(toy_cache, own), cv=2)
    scores = selection_scores(head, toy_cache, part="all", labels=labelled_only(toy_cache, others))
    assert (len(scores.rows), scores.origin) == (12, "all of toy, without its videos")
    for labels in (None, labelled_only(toy_cache, others | {ids[0]})):
        with pytest.raises(InputError, match="what the head was trained on, all of it outside test"):
            selection_scores(head, toy_cache, part="all", labels=labels)


def test_copies_of_train_in_val_may_not_choose(tmp_path: Path) -> None:
    """Other names in other sources: val holds what the head was fitted on, and training says so."""
    videos = toy_videos()
    copies = [
        replace(v, row=replace(v.row, id=f"val/copy{n}.mp4", source=f"c{n}", split="val"))
        for n, v in enumerate(videos[:6])
    ]
    config = TrainConfig().updated({"model": "logistic", "n_resamples": 0})
    with open_cache(write_cache(tmp_path / "c.zarr", [*videos, *copies])) as cache:
        head = train_head(cache, config)
        assert any(
            "source groups are in both train and val, 6 of 30 val videos" in n for n in head.info.notes
        )
        with pytest.raises(
            InputError, match="6 of the 30 val videos here were train or .*onepass audit names"
        ):
            selection_scores(head, cache)


def test_what_chose_a_threshold_is_seen_from_then_on(head: TrainedHead, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fresh = [features(900 + i, label=i % 2, rng=rng, source=f"new{i}") for i in range(10)]
    with open_cache(write_cache(tmp_path / "new.zarr", fresh)) as cache:
        scores = selection_scores(head, cache, part="all")
        assert scores.notes == ()
        changed = with_threshold(head, scores, choose_again(scores, ThresholdConfig()), ThresholdConfig())
        with pytest.raises(InputError, match="10 threshold"):
            selection_scores(changed, cache, part="all")


def test_an_older_head_cannot_tell_and_says_so(head: TrainedHead, tmp_path: Path) -> None:
    with open_cache(some_of(tmp_path, name="more", extra=1)) as cache:
        scores = selection_scores(without_videos(head), cache, part="all")
    assert "before heads recorded their videos" in scores.notes[0]
