"""Which arrays are which video's, in the layouts in which features are published."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from cache.errors import SourceError
from pipeline.imports.items import find_items


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.ones((1, 2))) if path.suffix == ".npy" else path.touch()
    return root


def ids(src: Path, **settings: object) -> list[str]:
    return [item.id for item in find_items(src, **settings).items]  # type: ignore[arg-type]


def test_a_folder_with_classes_and_splits(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "train/Fight/a.mp4.npy",
        "val/NonFight/b.1.npy",
        "val/readme.txt",
        ".DS_Store",
        "c.zarr/x.npy",
    )
    found = find_items(tmp_path)
    assert [(i.id, i.label_name, i.split) for i in found.items] == [
        ("train/Fight/a.mp4", "Fight", "train"),
        ("val/NonFight/b.1", "NonFight", "val"),
    ]
    assert [name for name, _ in found.skipped] == [".DS_Store", "c.zarr", "val/readme.txt"]


def test_one_video_in_two_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="both the features of 'a'"):
        find_items(touch(tmp_path, "a.npy", "a.npz"))


def test_crop_files_are_one_video_as_xd_violence_has_them(tmp_path: Path) -> None:
    name = "A.Beautiful.Mind.2001__#00-25-20_00-29-20_label_A"
    touch(tmp_path, *(f"{name}__{n}.npy" for n in range(5)), *(f"v2__{n}.npy" for n in (0, 1, 2, 4)))
    found = find_items(tmp_path)
    assert [(i.id, len(i.places), i.problem) for i in found.items] == [
        (name, 5, ""),
        ("v2", 4, "lacks the crop files __3"),
    ]
    assert [place.path.name for place in found.items[0].places] == [f"{name}__{n}.npy" for n in range(5)]
    assert found.lines == ("2 videos of up to 5 crop files each (__0 to __4), 9 files",)
    touch(tmp_path, "plain.npy")
    with pytest.raises(SourceError, match=r"9 of 10 files end in __0 to __9.*\(plain\)"):
        find_items(tmp_path)


def test_numbers_that_are_no_crops_stay(tmp_path: Path) -> None:
    assert ids(touch(tmp_path, "day__1.npy", "day__2.npy")) == ["day__1", "day__2"]


def test_a_list_of_another_machine_as_ucf_crime_has_it(tmp_path: Path) -> None:
    touch(tmp_path, "UCF_Train/Abuse001_x264_i3d.npy", "UCF_Train/Normal_Videos001_x264_i3d.npy")
    lines = [
        f"/home/yu/yu_ssd/UCF_Train/{name}_i3d.npy" for name in ("Normal_Videos001_x264", "Abuse001_x264")
    ]
    (tmp_path / "ucf-i3d.list").write_text("\n".join(lines) + "\n")
    found = find_items(tmp_path / "ucf-i3d.list", ending="_i3d")
    assert [i.id for i in found.items] == ["Abuse001_x264", "Normal_Videos001_x264"]
    assert all(i.places[0].path.is_file() for i in found.items)
    assert ids(tmp_path / "ucf-i3d.list", root=tmp_path / "UCF_Train")[0] == "Abuse001_x264_i3d"
    with pytest.raises(SourceError, match="no file name ends so"):
        find_items(tmp_path / "ucf-i3d.list", ending="_c3d")


def test_a_list_with_more_than_paths_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.list").write_text("x/a.npy\nx/b.npy 1\n")
    with pytest.raises(SourceError, match=r"line 2: 'x/b.npy 1' is no path.*path,label"):
        find_items(tmp_path / "a.list")
    (tmp_path / "a.list").write_text("\n")
    with pytest.raises(SourceError, match="holds no paths"):
        find_items(tmp_path / "a.list")


def test_a_manifest_of_crops_and_classes_as_clip_features_have_it(tmp_path: Path) -> None:
    """path,label with absolute paths, a file a crop, one of fourteen classes."""
    names = [("Abuse/Abuse001_x264", "Abuse"), ("Normal/Normal_001", "Normal"), ("Arson/Arson001", "Arson")]
    rows = [f"/home/xb/UCFClip/{name}__{n}.npy,{label}" for name, label in names for n in range(10)]
    (tmp_path / "ucf.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    touch(tmp_path, *(f"UCFClip/{name}__{n}.npy" for name, _ in names for n in range(10)))
    found = find_items(tmp_path / "ucf.csv", negative="normal")
    assert [(i.id, i.label_name, len(i.places)) for i in found.items] == [
        ("Abuse/Abuse001_x264", "anomaly", 10),
        ("Arson/Arson001", "anomaly", 10),
        ("Normal/Normal_001", "normal", 10),
    ]
    assert all(place.path.is_file() for item in found.items for place in item.places)


def test_a_manifest_with_ids_and_spans(tmp_path: Path) -> None:
    touch(tmp_path, "f/a.npy", "s/a.npy")
    (tmp_path / "m.csv").write_text("path,id,label,split,spans\nf/a.npy,Fight/a.mp4,Fight,val,s/a.npy\n")
    item = find_items(tmp_path / "m.csv", spans_column="spans").items[0]
    assert (item.id, item.label_name, item.split) == ("Fight/a.mp4", "Fight", "val")
    assert item.places[0].path == tmp_path / "f/a.npy" and item.spans == tmp_path / "s/a.npy"
    with pytest.raises(SourceError, match="--spans when: neither"):
        find_items(tmp_path / "m.csv", spans_column="when")


def test_one_file_of_many_videos(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", **{"Fight/a": np.ones((1, 2)), "b": np.ones((1, 2))})
    assert ids(tmp_path / "all.npz") == ["Fight/a", "b"]
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        for name in (".npy", "b.npy"):
            archive.write(next(tmp_path.glob("all.npz")), name)
    with pytest.raises(SourceError, match="names no video"):
        find_items(tmp_path / "odd.npz")
    np.save(tmp_path / "one.npy", np.ones(3))
    assert ids(tmp_path / "one.npy") == ["one"]


@pytest.mark.parametrize("name", ["nowhere", "x.mp4"])
def test_other_sources_are_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.mp4").touch()
    with pytest.raises(SourceError):
        find_items(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no .*npy.* files"):
        find_items(tmp_path / "empty")
