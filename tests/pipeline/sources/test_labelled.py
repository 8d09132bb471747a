"""Sources with labels, splits and groups: where each comes from, what is printed, what is refused."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from cache.errors import LabelError, SourceError
from cache.labels.join import LabelNames, VideoLabel
from pipeline.sources.labelled import ResolvedSources, SourceTree, discover, resolve_labels
from tests.pipeline.trees import lock_folder

RWF = (
    "train/Fight/a_0.mp4",
    "train/Fight/a_1.mp4",
    "train/NonFight/b_0.mp4",
    "val/Fight/c_0.mp4",
    "val/NonFight/d_0.mp4",
)


def _tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def _text(resolved: ResolvedSources) -> str:
    return "\n".join(resolved.lines)


def _numbers(resolved: ResolvedSources) -> dict[str, int]:
    return {video_id: label.label for video_id, label in resolved.labels.items()}


def test_class_folders(tmp_path: Path) -> None:
    resolved = resolve_labels(discover(_tree(tmp_path, *RWF)))
    assert resolved.names == LabelNames("NonFight", "Fight")
    assert _numbers(resolved) == dict(zip(RWF, (1, 1, 0, 1, 0), strict=True))
    assert {label.split for label in resolved.labels.values()} == {"train", "val"}
    assert resolved.n_unlabelled == 0
    assert resolved.lines[1:] == (
        "positive class: Fight (1), negative class: NonFight (0); chosen by its name; --positive changes it",
        "train: 1 NonFight, 2 Fight",
        "val: 1 NonFight, 1 Fight",
        "source groups: 4 (by file name)",
    )


def test_the_positive_class_by_flag(tmp_path: Path) -> None:
    tree = discover(_tree(tmp_path, "cats/a.mp4", "dogs/b.mp4"))
    with pytest.raises(LabelError, match=r"cats \(1 videos\), dogs \(1 videos\); pass --positive cats or"):
        resolve_labels(tree)
    resolved = resolve_labels(tree, positive="dogs")
    assert _numbers(resolved) == {"cats/a.mp4": 0, "dogs/b.mp4": 1}
    assert "chosen by --positive" in _text(resolved)
    assert resolve_labels(tree, allow_unmatched=True).n_unlabelled == 2
    for allow in (True, False):
        with pytest.raises(LabelError, match=r"--positive dgos: no such class.*did you mean dogs"):
            resolve_labels(tree, positive="dgos", allow_unmatched=allow)


def test_a_flat_folder_is_unlabelled_and_says_so(tmp_path: Path) -> None:
    resolved = resolve_labels(discover(_tree(tmp_path, "a.mp4", "b.mp4")))
    assert (resolved.names, resolved.n_unlabelled) == (None, 2)
    assert "no labels: all 2 videos are unlabelled; --labels FILE gives labels" in resolved.lines


def test_one_folder_of_unknown_name_is_unlabelled_unless_it_is_the_positive_class(tmp_path: Path) -> None:
    tree = discover(_tree(tmp_path, "session1/a.mp4"))
    resolved = resolve_labels(tree)
    assert resolved.names is None
    assert "--positive, if 'session1' is a class" in _text(resolved)
    assert _numbers(resolve_labels(tree, positive="session1")) == {"session1/a.mp4": 1}


def test_a_misspelt_class_folder_is_an_error_unless_allowed(tmp_path: Path) -> None:
    tree = discover(_tree(tmp_path, *RWF, "train/Fihgt/e.mp4"))
    with pytest.raises(LabelError, match=r"there are 3: .*Fihgt \(1 videos\).*--allow-unmatched"):
        resolve_labels(tree)
    resolved = resolve_labels(tree, allow_unmatched=True)
    assert resolved.labels["train/Fihgt/e.mp4"].label == -1
    assert resolved.n_unlabelled == 1
    assert "1 of 6 videos have no label: train/Fihgt/e.mp4" in resolved.lines
    assert "train: 1 NonFight, 2 Fight, 1 unlabelled" in resolved.lines


def test_a_video_outside_the_class_folders_is_an_error_unless_allowed(tmp_path: Path) -> None:
    tree = discover(_tree(tmp_path, *RWF, "loose.mp4"))
    with pytest.raises(LabelError, match=r"1 of 6 videos have no label: loose.mp4; .*--allow-unmatched"):
        resolve_labels(tree)
    assert resolve_labels(tree, allow_unmatched=True).labels["loose.mp4"].label == -1


def test_many_unknown_folders_can_be_extracted_without_labels(tmp_path: Path) -> None:
    tree = discover(_tree(tmp_path, "cam1/a.mp4", "cam2/b.mp4", "cam3/c.mp4"))
    with pytest.raises(LabelError, match="there are 3"):
        resolve_labels(tree)
    resolved = resolve_labels(tree, allow_unmatched=True)
    assert (resolved.names, resolved.n_unlabelled) == (None, 3)
    assert "all 3 videos are unlabelled" in _text(resolved)


# --- label files ------------------------------------------------------------


def test_a_label_file_labels_a_flat_folder(tmp_path: Path) -> None:
    root = _tree(tmp_path / "clips", "V_1_0.0_4.0.mp4", "V_2_0.0_4.0.MP4")
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label,split\nRWF-2000/V_1_0.0_4.0,harmful,train\nRWF-2000/V_2_0.0_4.0,safe,val\n")
    resolved = resolve_labels(discover(root), labels_file=labels)
    assert resolved.names == LabelNames("safe", "harmful")
    assert [(label.label, label.split) for label in resolved.labels.values()] == [(1, "train"), (0, "val")]
    assert "labels: 2 videos matched (1 harmful, 1 safe), 0 videos without a label" in _text(resolved)


def test_a_label_file_wins_over_folders_and_says_how_often(tmp_path: Path) -> None:
    tree = discover(_tree(tmp_path / "src", *RWF))
    labels = tmp_path / "labels.csv"
    rows = [f"{name},{'Fight' if '/Fight' in name else 'NonFight'},," for name in RWF]
    rows[0] = "train/Fight/a_0.mp4,NonFight,val,tape9"
    labels.write_text("path,label,split,source\n" + "\n".join(rows) + "\n")
    resolved = resolve_labels(tree, labels_file=labels)
    first = resolved.labels[RWF[0]]
    assert (first.label, first.label_name, first.split, first.source) == (0, "NonFight", "val", "tape9")
    assert resolved.labels[RWF[1]].split == "train"  # the file does not say, so the folder does
    assert f"1 labels differ from folder or manifest, the file wins: {RWF[0]}" in resolved.lines
    assert f"1 splits differ from folder or manifest, the file wins: {RWF[0]}" in resolved.lines


def test_a_label_file_that_misses_videos(tmp_path: Path) -> None:
    tree = discover(_tree(tmp_path / "src", *RWF))
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"file": "a_0.mp4", "label": "Fight"}\n{"file": "b_O.mp4", "label": "NonFight"}\n')
    with pytest.raises(LabelError, match="4 videos without a label, 1 labels without a video") as caught:
        resolve_labels(tree, labels_file=labels)
    assert "near miss: label 'b_O.mp4' and video 'train/NonFight/b_0.mp4'" in str(caught.value)
    resolved = resolve_labels(tree, labels_file=labels, allow_unmatched=True)
    assert resolved.n_unlabelled == 4  # the folder's label is not mixed in
    labels.write_text('{"file": "zzz.mp4", "label": "Fight"}\n')
    with pytest.raises(LabelError, match="no label matched any video"):
        resolve_labels(tree, labels_file=labels, allow_unmatched=True)


def test_a_manifest_gives_labels_splits_and_sources(tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label,split,source\nFight/a.mp4,0,train,r1\nFight/b.mp4,1,val,r2\n")
    resolved = resolve_labels(discover(manifest))
    assert [(v.label, v.label_name, v.split, v.source) for v in resolved.labels.values()] == [
        (0, "0", "train", "r1"),
        (1, "1", "val", "r2"),
    ]


NFC, NFD = (unicodedata.normalize(form, "Bagarré") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("typed", [NFC, NFD])
def test_a_class_in_two_unicode_forms_is_one(tmp_path: Path, typed: str) -> None:
    names = (f"train/{NFD}/a.mp4", "train/calme/b.mp4", f"val/{NFC}/c.mp4", "val/calme/d.mp4")
    resolved = resolve_labels(discover(_tree(tmp_path, *names)), positive=typed)
    assert resolved.names == LabelNames("calme", NFC)
    assert list(_numbers(resolved).values()) == [1, 0, 1, 0]
    assert {label.label_name for label in resolved.labels.values()} == {NFC, "calme"}


def test_folders_that_are_numbers_are_no_classes_by_themselves(tmp_path: Path) -> None:
    tree = discover(_tree(tmp_path / "a", "1/a.mp4", "2/b.mp4"))
    with pytest.raises(LabelError, match="cannot tell which class .* --positive 1 or --positive 2"):
        resolve_labels(tree)
    assert resolve_labels(tree, allow_unmatched=True).n_unlabelled == 2
    assert _numbers(resolve_labels(tree, positive="2")) == {"1/a.mp4": 0, "2/b.mp4": 1}
    assert resolve_labels(discover(_tree(tmp_path / "b", "1/a.mp4"))).n_unlabelled == 1
    cameras = discover(_tree(tmp_path / "c", "0/a.mp4", "1/b.mp4", "2/c.mp4"))
    assert resolve_labels(cameras, allow_unmatched=True).n_unlabelled == 3
    assert _numbers(resolve_labels(discover(_tree(tmp_path / "d", "0/a.mp4", "1/b.mp4")))) == {
        "0/a.mp4": 0,
        "1/b.mp4": 1,
    }


def test_a_manifest_of_codes_keeps_them(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,label\na.mp4,1\nb.mp4,0\nc.mp4,-1\n")
    resolved = resolve_labels(discover(manifest), allow_unmatched=True)
    assert list(_numbers(resolved).values()) == [1, 0, -1]
    manifest.write_text("path,label\na.mp4,1\nb.mp4,2\n")
    with pytest.raises(LabelError, match="--positive 1 or --positive 2"):
        resolve_labels(discover(manifest))


def test_contradicting_columns_of_a_manifest_are_an_error(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,label,class\na.mp4,Fight,NonFight\n")
    with pytest.raises(
        SourceError, match="line 2: column 'label' says 'Fight' and column 'class' says 'NonFight'"
    ):
        discover(manifest)


# --- folders that cannot be listed ------------------------------------------------


def _locked(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> SourceTree:
    lock_folder(monkeypatch, name)
    return discover(root)


@pytest.mark.parametrize("allow", [True, False])
def test_a_folder_that_cannot_be_listed_is_no_unlabelled_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow: bool
) -> None:
    before = resolve_labels(discover(_tree(tmp_path, *RWF)))
    tree = _locked(_tree(tmp_path, *RWF, "train/locked/x.mp4"), monkeypatch, "locked")
    resolved = resolve_labels(tree, allow_unmatched=allow)
    assert resolved.labels == {**before.labels, "train/locked": VideoLabel(-1, "")}
    assert len(resolved.sources) == len(RWF) + 1
    assert resolved.lines[2:] == before.lines[1:]  # the first two: how many videos, and the warning


def test_label_and_source_files_need_not_know_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = _locked(_tree(tmp_path / "src", "a.mp4", "b.mp4", "locked/c.mp4"), monkeypatch, "locked")
    table = tmp_path / "labels.csv"
    rows = "a.mp4,Fight,x\nb.mp4,NonFight,y\n"
    table.write_text(f"path,label,source\n{rows}")
    resolved = resolve_labels(tree, labels_file=table, sources_file=table)
    assert _numbers(resolved) == {"a.mp4": 1, "b.mp4": 0, "locked": -1}
    table.write_text(f"path,label,source\n{rows}locked/c.mp4,Fight,z\n")
    with pytest.raises(LabelError, match=r"(?s)1 labels without a video.*cannot be listed.*unknown: locked"):
        resolve_labels(tree, labels_file=table)
    assert resolve_labels(tree, labels_file=table, allow_unmatched=True).labels["locked"].label == -1


# --- source groups ------------------------------------------------------------


def test_sources_csv_in_the_folder_is_used_for_groups_alone(tmp_path: Path) -> None:
    root = _tree(tmp_path, *RWF)
    rows = "".join(f"{name},Other,test,tape{n // 3}\n" for n, name in enumerate(RWF))
    (root / "sources.csv").write_text(f"path,label,split,source\n{rows}gone.mp4,Other,test,tape9\n")
    resolved = resolve_labels(discover(root))
    assert [resolved.labels[name].source for name in RWF] == ["tape0", "tape0", "tape0", "tape1", "tape1"]
    assert [resolved.labels[name].split for name in RWF] == ["train"] * 3 + ["val"] * 2
    assert (
        f"sources: 5 of 5 videos have a source in {root / 'sources.csv'}, joined by column 'path': 5 by exact path; "
        "e.g. 'val/NonFight/d_0.mp4' -> val/NonFight/d_0.mp4; 1 rows without a video: gone.mp4"
        in resolved.lines
    )
    assert "source groups: 2 (given for 5 of 5 videos)" in resolved.lines


def test_sources_csv_inside_a_wrapping_folder(tmp_path: Path) -> None:
    _tree(tmp_path / "RWF-2000", *RWF)
    rows = "".join(f"{name},tape\n" for name in RWF)
    (tmp_path / "RWF-2000" / "sources.csv").write_text(f"path,source\n{rows}")
    resolved = resolve_labels(discover(tmp_path))
    assert {label.source for label in resolved.labels.values()} == {"tape"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("path,source\nzzz.mp4,tape\n", "no row joins any video"),
        ("path,label\ntrain/Fight/a_0.mp4,Fight\n", "no source column with values"),
        ("something else\n", "no path column"),
    ],
)
def test_an_unusable_sources_csv_is_told_when_found_and_an_error_when_given(
    tmp_path: Path, content: str, why: str
) -> None:
    root = _tree(tmp_path, *RWF)
    path = root / "sources.csv"
    path.write_text(content)
    resolved = resolve_labels(discover(root))
    assert any(f"{path} was found and not used" in line and why in line for line in resolved.lines)
    with pytest.raises(LabelError, match=why):
        resolve_labels(discover(root), sources_file=path, allow_unmatched=True)


def test_a_given_sources_file_wins_and_must_be_complete(tmp_path: Path) -> None:
    root = _tree(tmp_path / "src", *RWF)
    (root / "sources.csv").write_text("path,source\n" + "".join(f"{name},auto\n" for name in RWF))
    given = tmp_path / "groups.csv"
    given.write_text("clip,group\n" + "".join(f"{Path(name).stem},mine\n" for name in RWF[:-1]))
    with pytest.raises(LabelError, match=r"no source for 1 of 5 videos: val/NonFight/d_0.mp4"):
        resolve_labels(discover(root), sources_file=given)
    resolved = resolve_labels(discover(root), sources_file=given, allow_unmatched=True)
    assert [resolved.labels[name].source for name in RWF] == ["mine"] * 4 + [""]
    assert "source groups: 2 (given for 4 of 5 videos)" in resolved.lines


def test_a_sources_file_joins_by_names_not_by_running_numbers(tmp_path: Path) -> None:
    root = _tree(tmp_path / "src", "1.mp4", "2.mp4")
    given = tmp_path / "groups.csv"
    given.write_text("id,file,source\n1,2.mp4,tape2\n2,1.mp4,tape1\n")
    resolved = resolve_labels(discover(root), sources_file=given)
    assert [label.source for label in resolved.labels.values()] == ["tape1", "tape2"]
    assert any(
        f"in {given}, joined by column 'file': 2 by exact path; e.g. " in line for line in resolved.lines
    )


def test_groups_in_two_splits_and_one_giant_group_are_pointed_out(tmp_path: Path) -> None:
    names = (
        "train/Fight/clip_0.mp4",
        "train/NonFight/clip_1.mp4",
        "val/Fight/clip_2.mp4",
        "val/NonFight/clip_3.mp4",
    )
    text = _text(resolve_labels(discover(_tree(tmp_path, *names))))
    assert "warning: 1 source groups lie in several splits: clip" in text
    assert "warning: one source group, 'clip', holds 4 of 4 videos" in text
