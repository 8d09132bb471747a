"""Each kind of leak is planted alone into a clean set and must be the only thing found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.errors import InputError
from cache.reader import open_cache
from cache.schema import StreamTokens, VideoFeatures
from heads.audit.audit import AuditReport, audit_cache
from tests.heads.synthetic import toy_videos, write_cache

Videos = list[VideoFeatures]


@pytest.fixture(autouse=True)
def few_trees(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small forest where it is not what is tested."""
    if "metadata" not in request.function.__name__:
        monkeypatch.setattr("heads.audit.shortcut.TREES", 20)


@pytest.fixture
def clean() -> Videos:
    """120 videos, pairs from one source, both classes in both splits, sizes that say nothing."""
    rng = np.random.default_rng(3)
    widths = rng.choice([320, 640, 1280], size=120)
    return [
        replace(video, row=replace(video.row, width=int(width)))
        for video, width in zip(toy_videos(120, seed=1), widths, strict=True)
    ]


def audited(path: Path, videos: Videos, **options: object) -> AuditReport:
    with open_cache(write_cache(path / "toy.zarr", videos)) as cache:
        return audit_cache(cache, **options)  # type: ignore[arg-type]


def kinds(report: AuditReport, *, severity: str = "leak") -> list[str]:
    return [finding.kind for finding in report.findings if finding.severity == severity]


def changed(video: VideoFeatures, **columns: object) -> VideoFeatures:
    return replace(video, row=replace(video.row, **columns))


def with_tokens(video: VideoFeatures, change: object) -> VideoFeatures:
    tokens = {
        name: StreamTokens(change(stream.values.copy()), stream.spans)  # type: ignore[operator]
        for name, stream in video.tokens.items()
    }
    return replace(video, tokens=tokens)


def test_a_clean_set_is_clean(clean: Videos, tmp_path: Path) -> None:
    report = audited(tmp_path, clean)
    assert report.findings == ()
    assert report.leaks == ()
    assert report.balance == {"train": {"NonFight": 36, "Fight": 36}, "val": {"Fight": 24, "NonFight": 24}}
    assert report.near is not None
    assert report.near.unrelated is not None
    assert report.near.unrelated < report.near.threshold
    assert {shortcut.model for shortcut in report.shortcuts} == {"logistic regression", "random forest"}
    assert report.as_dict()["clean"] is True
    assert json.loads(json.dumps(report.as_dict()))["n_videos"] == 120


def test_a_file_in_two_splits_is_found(clean: Videos, tmp_path: Path) -> None:
    copy = changed(clean[4], id="val/Fight/copy.mp4", split="val", source="elsewhere")
    report = audited(tmp_path, [*clean, copy])
    assert kinds(report) == ["exact-duplicate"]
    assert report.leaks[0].count == 1
    assert "copy.mp4 (val)" in report.leaks[0].examples[0]
    assert "v0004.mp4 (train)" in report.leaks[0].examples[0]


def test_a_file_twice_in_one_split_is_only_a_warning(clean: Videos, tmp_path: Path) -> None:
    label = 1 - clean[4].row.label
    copy = changed(clean[4], id="train/Fight/copy.mp4", label=label, label_name=("NonFight", "Fight")[label])
    report = audited(tmp_path, [*clean, copy])
    assert kinds(report) == []
    assert sorted(kinds(report, severity="warning")) == ["duplicate-in-split", "duplicate-label"]


def test_a_copy_under_another_digest_is_found_by_its_features(clean: Videos, tmp_path: Path) -> None:
    copy = changed(clean[4], id="val/x.mp4", split="val", source="elsewhere", digest="blake2b:other")
    report = audited(tmp_path, [*clean, copy])
    assert sorted(kinds(report)) == ["near-duplicate", "repeated-features"]


def test_what_is_not_looked_at_is_not_called_clean(
    clean: Videos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three near copies in one split only the most alike pair is looked at; the others could part splits."""
    copies = [changed(clean[4], id=f"train/{n}.mp4", digest=f"blake2b:{n}") for n in range(3)]
    monkeypatch.setattr("heads.audit.features.MOST_PAIRS", 1)
    report = audited(tmp_path, [*clean, *copies])
    assert kinds(report) == ["near-duplicate"] and "5 pairs, less alike" in report.leaks[0].examples[0]


@pytest.mark.parametrize("offset", [0.0, 5.0, 50.0])
def test_a_copy_encoded_again_is_found_and_a_common_offset_hides_nothing(
    clean: Videos, tmp_path: Path, offset: float
) -> None:
    """With a large offset in common, as random weights give, all plain cosines are near 1."""
    rng = np.random.default_rng(0)
    noisy = with_tokens(
        changed(clean[5], id="val/x.mp4", split="val", source="elsewhere", digest="blake2b:other"),
        lambda values: (values + 0.05 * rng.standard_normal(values.shape)).astype(np.float16),
    )
    videos = [
        with_tokens(video, lambda values: (values + offset).astype(np.float16)) for video in [*clean, noisy]
    ]
    report = audited(tmp_path, videos)
    assert kinds(report) == ["near-duplicate"]
    assert report.leaks[0].count == 1
    assert "x.mp4 (val)" in report.leaks[0].examples[0]


def test_near_copies_of_two_sources_in_one_split_are_a_warning(clean: Videos, tmp_path: Path) -> None:
    copy = changed(clean[5], id="train/x.mp4", source="elsewhere", digest="blake2b:other")
    tokens = {
        name: StreamTokens((s.values * np.float16(1.01)).astype(np.float16), s.spans)
        for name, s in copy.tokens.items()
    }
    report = audited(tmp_path, [*clean, replace(copy, tokens=tokens)])
    assert kinds(report) == []
    assert kinds(report, severity="warning") == ["near-across-groups"]


def test_a_source_in_two_splits_is_found(clean: Videos, tmp_path: Path) -> None:
    moved = [changed(video, source="source3") if i == 100 else video for i, video in enumerate(clean)]
    report = audited(tmp_path, moved)
    assert kinds(report) == ["straddling-group"]
    assert report.leaks[0].examples[0].startswith("source3: 2 in train, 1 in val")


@pytest.mark.parametrize("give_away", ["larger", "odd one out"])
def test_a_label_told_by_metadata_is_found(clean: Videos, tmp_path: Path, give_away: str) -> None:
    widths = {1: 640, 0: 320} if give_away == "larger" else {1: 640, 0: 0}
    videos = [
        changed(video, width=widths[video.row.label] or (320 if i // 4 % 2 else 1280))
        for i, video in enumerate(clean)
    ]
    report = audited(tmp_path, videos)
    assert kinds(report) == ["shortcut"]
    assert any("random forest: AUROC 1.000" in line for line in report.leaks[0].examples)
    linear = any("logistic" in line for line in report.leaks[0].examples)
    assert linear == (give_away == "larger")


def test_labels_and_classes_are_counted(clean: Videos, tmp_path: Path) -> None:
    videos = [
        changed(video, label=-1, label_name="") if i < 3 else video
        for i, video in enumerate(clean)
        if not (video.row.split == "val" and video.row.label == 0)
    ]
    report = audited(tmp_path, videos)
    assert kinds(report) == []
    found = {f.kind: f for f in report.findings}
    assert found["unmatched"].count == 3
    assert found["one-class"].examples == ("val: all 24 are Fight",)
    assert "balance" in found
    assert report.balance["train"]["unknown"] == 3


def test_features_that_carry_nothing_are_told(clean: Videos, tmp_path: Path) -> None:
    dead = with_tokens(clean[7], lambda values: np.full_like(values, 0.25))
    still = with_tokens(clean[8], lambda values: np.broadcast_to(values[:1], values.shape).copy())
    videos = [dead if i == 7 else still if i == 8 else video for i, video in enumerate(clean)]
    for i, video in enumerate(videos):
        tokens = dict(video.tokens)
        values = tokens["clip"].values.copy()
        values[:, 11] = 0.25
        videos[i] = replace(video, tokens=tokens | {"clip": StreamTokens(values, tokens["clip"].spans)})
    report = audited(tmp_path, videos)
    assert kinds(report) == []
    constant = [f for f in report.findings if f.kind == "constant-features"]
    assert any("v0007" in line for line in constant[0].examples)
    assert any("v0008" in line for line in constant[1].examples)
    assert kinds(report, severity="note") == ["constant-columns"]


def test_labels_given_replace_those_stored(clean: Videos, tmp_path: Path) -> None:
    from cache.labels.join import label_videos

    path = write_cache(tmp_path / "toy.zarr", clean)
    file = tmp_path / "labels.csv"
    rows = [
        f"{v.row.id},{'Fight' if v.row.label else 'NonFight'},{v.row.split},{i // 2}"
        for i, v in enumerate(clean)
    ]
    rows[0] = rows[0].replace("train,0", "val,0")
    file.write_text("\n".join(["id,label,split,source", *rows[:-2], "nowhere.mp4,Fight,val,99"]))
    with open_cache(path) as cache:
        join = label_videos(
            [str(i) for i in cache.videos.id], labels_file=file, positive=None, allow_unmatched=True
        )
        report = audit_cache(cache, labels=join)
    assert kinds(report) == ["straddling-group"]
    assert [f.count for f in report.findings if f.kind == "unmatched"] == [2, 1]


def test_small_and_groupless_sets_are_answered(clean: Videos, tmp_path: Path) -> None:
    report = audited(tmp_path, clean[:6])
    assert report.near is None
    assert report.leaks == ()
    assert "near-duplicate" in kinds(report, severity="note")
    with pytest.raises(InputError, match="threshold must be"):
        audited(tmp_path / "a", clean, near_threshold=1.5)
    with pytest.raises(InputError, match="limit must be"):
        audited(tmp_path / "b", clean, shortcut_limit=0.2)


def test_unknown_digests_are_copies_of_nothing(clean: Videos, tmp_path: Path) -> None:
    report = audited(tmp_path, [changed(video, digest="") for video in clean])
    assert report.findings == ()


def test_equal_features_of_unknown_digests_are_still_found(clean: Videos, tmp_path: Path) -> None:
    videos = [changed(video, digest="") for video in clean]
    videos[-1] = replace(videos[-1], tokens=videos[0].tokens)
    assert kinds(audited(tmp_path, videos)) == ["repeated-features", "near-duplicate"]


def test_metadata_that_never_varies_tells_nothing(clean: Videos, tmp_path: Path) -> None:
    blank = {"width": 0, "height": 0, "fps": 0.0, "duration_seconds": 0.0}
    report = audited(tmp_path, [changed(video, **blank) for video in clean])
    assert report.shortcuts == ()
    (note,) = [finding for finding in report.findings if finding.kind == "shortcut"]
    assert note.severity == "note"
    assert note.examples[0].startswith("no metadata: width, height")
