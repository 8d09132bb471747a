"""Finding videos: layouts, what is skipped and why, manifests, and names that no cache can hold."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from cache.errors import SourceError
from cache.labels.media import IMAGE_SUFFIXES, MEDIA_SUFFIXES, VIDEO_SUFFIXES
from pipeline.sources.tree import Source, SourceTree, discover
from tests.pipeline.trees import lock_folder

REPOSITORY = Path(__file__).parents[3]


def _tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def _rows(tree: SourceTree) -> list[tuple[str, str, str]]:
    return [(source.id, source.label_name, source.split) for source in tree.sources]


def test_rwf_layout(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        *(
            "train/Fight/a_0.avi",
            "train/NonFight/b_0.avi",
            "val/Fight/c_0.avi",
            "val/NonFight/deep/er/d_0.avi",
        ),
        *("LICENSE", "sources.csv", "train/Fight/Thumbs.db"),
    )
    tree = discover(root)
    assert tree.layout == "split-class"
    assert _rows(tree) == [
        ("train/Fight/a_0.avi", "Fight", "train"),
        ("train/NonFight/b_0.avi", "NonFight", "train"),
        ("val/Fight/c_0.avi", "Fight", "val"),
        ("val/NonFight/deep/er/d_0.avi", "NonFight", "val"),
    ]
    assert all(source.path.is_file() and source.source == "" for source in tree.sources)
    assert [name for name, _ in tree.skipped] == ["LICENSE", "sources.csv", "train/Fight/Thumbs.db"]
    assert tree.describe() == (
        f"4 videos in {root} (split-class: train, val / Fight, NonFight)",
        "skipped 3, not a video or image: LICENSE, sources.csv, train/Fight/Thumbs.db",
    )


TRAIN_AND_VAL = [("Fight", "train"), ("NonFight", "val")]
TWO_CLASSES = [("Fight", ""), ("NonFight", "")]


@pytest.mark.parametrize(
    ("names", "layout", "expected"),
    [
        ("Training/a/x.mp4 Testing/b/y.mp4", "split-class", [("b", "test"), ("a", "train")]),
        ("Fight/train/x.mp4 NonFight/val/y.mp4", "split-class", TRAIN_AND_VAL),
        ("train/x.mp4 val/y.mp4", "split-class", [("", "train"), ("", "val")]),
        (
            "extra/Fight/y.mp4 train/Fight/x.mp4 z.mp4",
            "split-class",
            [("", ""), ("Fight", "train"), ("", "")],
        ),
        ("Fight/x.mp4 NonFight/y.mp4", "class", TWO_CLASSES),
        ("Fight/cam1/x.mp4 NonFight/cam2/deep/y.mp4", "class", TWO_CLASSES),
        ("Fight/cam1/x.mp4 Fight/cam2/y.mp4", "class", [("Fight", ""), ("Fight", "")]),
        ("Fight/x.mp4 y.mp4", "class", [("Fight", ""), ("", "")]),
        ("x.mp4 y.png", "flat", [("", ""), ("", "")]),
        ("RWF-2000/train/Fight/x.mp4 RWF-2000/val/NonFight/y.mp4", "split-class", TRAIN_AND_VAL),
        ("fights/train/Fight/x.mp4 fights/val/NonFight/y.mp4", "split-class", TRAIN_AND_VAL),
        ("violence/Fight/x.mp4 violence/NonFight/y.mp4", "class", TWO_CLASSES),
        ("a/b/Fight/x.mp4 a/b/NonFight/y.mp4", "class", TWO_CLASSES),
    ],
)
def test_layouts(tmp_path: Path, names: str, layout: str, expected: list[tuple[str, str]]) -> None:
    tree = discover(_tree(tmp_path, *names.split()))
    assert tree.layout == layout
    assert [(source.label_name, source.split) for source in tree.sources] == expected


def test_media_types_in_any_case(tmp_path: Path) -> None:
    suffixes = ["mp4", "avi", "mkv", "webm", "mov", "mpeg", "mpg", "m4v", "wmv", "flv", "ts", "3gp", "ogv"]
    suffixes += ["jpg", "jpeg", "png", "bmp", "webp", "MP4", "AvI", "JPG"]
    suffixes += [
        "vob",
        "dav",
        "h264",
        "264",
        "h265",
        "265",
        "hevc",
        "asf",
        "dv",
        "gif",
        "tif",
        "tiff",
        "avif",
        "mts",
        "m2ts",
        "3g2",
        "mxf",
        "f4v",
        "mjpeg",
        "y4m",
        "ivf",
    ]
    tree = discover(_tree(tmp_path, *(f"{n}.{suffix}" for n, suffix in enumerate(suffixes))))
    assert len(tree.sources) == len(suffixes)
    assert tree.skipped == ()


def test_there_is_one_list_of_suffixes() -> None:
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in MEDIA_SUFFIXES)
    assert not VIDEO_SUFFIXES & IMAGE_SUFFIXES


def test_what_is_skipped_is_listed_with_its_reason(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        *("a.mp4", ".DS_Store", "._a.mp4", ".hidden/b.mp4", "__MACOSX/c.mp4", "notes.txt", "no_suffix"),
        *("v1.zarr/c/0/0", "v1.zarr/zarr.json"),
    )
    os.mkfifo(root / "pipe.mp4")  # opening it would wait for ever
    (root / "gone.txt").symlink_to(root / "nowhere")
    tree = discover(root)
    assert [source.id for source in tree.sources] == ["a.mp4"]
    assert dict(tree.skipped) == {
        ".DS_Store": "hidden file",
        "._a.mp4": "hidden file",
        ".hidden": "hidden folder",
        "__MACOSX": "system folder",
        "gone.txt": "link that leads nowhere",
        "no_suffix": "not a video or image",
        "notes.txt": "not a video or image",
        "pipe.mp4": "not a regular file",
        "v1.zarr": "feature cache",
    }
    assert "skipped 2, not a video or image: no_suffix, notes.txt" in tree.describe()


def test_links(tmp_path: Path) -> None:
    root = _tree(tmp_path / "root", "Fight/a.mp4")
    _tree(tmp_path / "elsewhere", "b.mp4")
    (root / "NonFight").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "Fight" / "linked.mp4").symlink_to(root / "Fight" / "a.mp4")
    (root / "Fight" / "broken.mp4").symlink_to(root / "nowhere.mp4")
    (root / "Fight" / "itself.mp4").symlink_to(root / "Fight" / "itself.mp4")
    (root / "Fight" / "up").symlink_to(root, target_is_directory=True)
    (tmp_path / "elsewhere" / "here").symlink_to(".", target_is_directory=True)
    tree = discover(root)
    assert [source.id for source in tree.sources] == [
        "Fight/a.mp4",
        "Fight/broken.mp4",
        "Fight/itself.mp4",
        "Fight/linked.mp4",
        "NonFight/b.mp4",
    ]
    assert dict(tree.skipped) == {
        "Fight/up": "link back to a folder above",
        "NonFight/here": "link back to a folder above",
    }


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are always UTF-8 there")
def test_names_that_no_cache_can_hold(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    for name in (b"caf\xe9.mp4", b"two\nlines.mp4", b"bell\x07.mp4", "été ✓.mp4".encode(), b"100%.mp4"):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(b"x")
    tree = discover(tmp_path)
    assert [source.id for source in tree.sources] == [
        "100%.mp4",
        "bell%07.mp4",
        "caf%E9.mp4",
        "two%0Alines.mp4",
        "été ✓.mp4",
    ]
    assert all(source.path.is_file() for source in tree.sources)
    assert all("\n" not in line for line in tree.describe())
    (tmp_path / "caf%E9.mp4").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"two files have the id 'caf%E9\.mp4'"):
        discover(tmp_path)


@pytest.mark.skipif(sys.platform == "darwin", reason="paths end at 1,024 bytes there")
def test_folders_nested_deeper_than_the_recursion_limit(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 100
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for _ in range(depth):
            Path("d").mkdir()
            os.chdir("d")
        Path("a.mp4").write_bytes(b"x")
        (source,) = discover(tmp_path).sources
        assert source.id == "d/" * depth + "a.mp4"
        Path("a.mp4").unlink()
        for _ in range(depth):  # a recursive clean-up would not get down here
            os.chdir("..")
            Path("d").rmdir()
    finally:
        os.chdir(here)


def test_one_file(tmp_path: Path) -> None:
    _tree(tmp_path, "a.MP4", "b.mp4", "c.dat")
    tree = discover(tmp_path / "a.MP4")
    assert (tree.layout, tree.root, _rows(tree)) == ("file", tmp_path, [("a.MP4", "", "")])
    with pytest.raises(SourceError, match=r"c.dat: neither a folder"):
        discover(tmp_path / "c.dat")


def test_nothing_to_extract_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file or folder; give a folder"):
        discover(tmp_path / "missing")
    with pytest.raises(SourceError, match="it is empty"):
        discover(tmp_path)
    _tree(tmp_path, "notes.txt", "more.txt")
    with pytest.raises(SourceError, match=r"2 other files, such as more.txt"):
        discover(tmp_path)


def test_a_source_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tree(tmp_path, "Fight/a.mp4")
    lock_folder(monkeypatch, tmp_path.name)
    with pytest.raises(SourceError, match=rf"{tmp_path.name}: cannot be listed: Permission denied"):
        discover(tmp_path)


@pytest.mark.parametrize("locked", ["locked", "train/Fight/locked", "train/Other", "test"])
def test_a_folder_below_that_cannot_be_listed_is_an_input_without_a_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: str
) -> None:
    videos = ["train/Fight/a.mp4", "train/NonFight/b.mp4", "val/Fight/c.mp4"]
    before = discover(_tree(tmp_path, *videos))
    _tree(tmp_path, f"{locked}/d.mp4")
    lock_folder(monkeypatch, locked.rsplit("/", maxsplit=1)[-1])
    tree = discover(tmp_path)
    assert (tree.videos, tree.layout) == (before.sources, before.layout)
    (found,) = set(tree.sources) - set(tree.videos)
    assert found == Source(locked, tmp_path / locked, "", "", "", "Permission denied")
    assert (
        f"warning: 1 folders cannot be listed, each counts as one rejected input: {locked} (Permission denied)"
        in tree.describe()
    )


def test_a_source_with_nothing_but_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tree(tmp_path, "locked/b.mp4")
    lock_folder(monkeypatch, "locked")
    with pytest.raises(SourceError, match=r"no videos .*locked: cannot be listed: Permission denied"):
        discover(tmp_path)


@pytest.mark.parametrize(
    "folder",
    [
        *("@eaDir", "@EADIR", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", ".@__thumb", "@tmp"),
        *("$RECYCLE.BIN", "RECYCLER", "System Volume Information", "lost+found", ".Trash-1000", ".Trashes"),
        *("__MACOSX", ".snapshot", "~snapshot", ".Spotlight-V100", ".fseventsd", "Fight/@eaDir", "FOUND.000"),
    ],
)
def test_folders_of_systems_and_storage_boxes_are_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    root = _tree(
        tmp_path, "Fight/a.mp4", "NonFight/b.mp4", f"{folder}/a.mp4/SYNOPHOTO_THUMB_M.jpg", "Fight/._a.mp4"
    )
    lock_folder(monkeypatch, folder.rsplit("/", maxsplit=1)[-1])
    tree = discover(root)
    assert _rows(tree) == [("Fight/a.mp4", "Fight", ""), ("NonFight/b.mp4", "NonFight", "")]
    assert [name for name, _ in tree.skipped] == sorted(["Fight/._a.mp4", folder])


def test_a_snapshot_can_be_the_source_itself(tmp_path: Path) -> None:
    assert len(discover(_tree(tmp_path / "#snapshot", "a.mp4")).sources) == 1


NFC, NFD = unicodedata.normalize("NFC", "Bagarre été"), unicodedata.normalize("NFD", "Bagarre été")


@pytest.mark.skipif(sys.platform == "darwin", reason="both forms are one name there")
def test_class_names_are_nfc_and_ids_are_the_names_as_they_are(tmp_path: Path) -> None:
    tree = discover(_tree(tmp_path, f"train/{NFD}/a.mp4", f"val/{NFC}/b.mp4", f"val/{NFD}/b.mp4"))
    assert {source.label_name for source in tree.sources} == {NFC}
    assert {source.id for source in tree.sources} == {
        *(f"train/{NFD}/a.mp4", f"val/{NFC}/b.mp4", f"val/{NFD}/b.mp4"),
    }
    assert (
        f"warning: 1 names stand there in two Unicode forms, as two videos: val/{NFC}/b.mp4"
        in tree.describe()
    )


IDS_IN_ANY_LOCALE = """
import sys
from pipeline.sources.tree import discover
for source in discover(sys.argv[1]).sources:
    print(ascii([source.id, source.label_name, source.path.is_file()]))
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are always UTF-8 there")
@pytest.mark.parametrize("layout", ["folder", "manifest", "file"])
def test_ids_do_not_depend_on_the_locale(tmp_path: Path, layout: str) -> None:
    root = _tree(tmp_path, "été/vidéo ✓.mp4")
    Path(os.fsdecode(os.fsencode(root) + "/été/".encode() + b"caf\xe9.mp4")).write_bytes(b"x")
    manifest = _manifest(tmp_path, "path,label\nété/vidéo ✓.mp4,bagarré\n")
    src = {"folder": root, "manifest": manifest, "file": root / "été/vidéo ✓.mp4"}[layout]
    printed = []
    for locale in (
        {"PYTHONUTF8": "1", "LC_ALL": "C"},
        {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    ):
        environment = {**os.environ, **locale}
        command = [sys.executable, "-c", IDS_IN_ANY_LOCALE, str(src)]
        done = subprocess.run(command, capture_output=True, check=True, env=environment, cwd=REPOSITORY)
        printed.append(done.stdout.decode())
    assert printed[0] == printed[1]
    assert "True" in printed[0] and "False" not in printed[0]
    assert ascii("vidéo ✓.mp4")[1:-1] in printed[0]


# --- manifests ------------------------------------------------------------


def _manifest(folder: Path, content: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_manifest(tmp_path: Path) -> None:
    _tree(tmp_path, "clips/a.mp4", "clips/b.mp4")
    absolute = (tmp_path / "clips/b.mp4").as_posix()
    path = _manifest(
        tmp_path,
        f"path,label,split,source\n./clips//a.mp4,Fight,train,r1\n{absolute},NonFight,val,r2\ngone.mp4,Fight,val,r3\n"
        "notes.txt,Fight,val,\n",
    )
    tree = discover(path)
    assert tree.layout == "manifest"
    assert [(s.id, s.path, s.label_name, s.split, s.source) for s in tree.sources] == [
        (absolute, tmp_path / "clips/b.mp4", "NonFight", "val", "r2"),
        ("clips/a.mp4", tmp_path / "clips/a.mp4", "Fight", "train", "r1"),
        ("gone.mp4", tmp_path / "gone.mp4", "Fight", "val", "r3"),
        ("notes.txt", tmp_path / "notes.txt", "Fight", "val", ""),
    ]


def test_jsonl_manifest_and_windows_separators(tmp_path: Path) -> None:
    _tree(tmp_path, "clips/a.mp4")
    path = _manifest(
        tmp_path, '{"path": "clips\\\\a.mp4", "label": 1}\n{"path": "../b.mp4", "label": 0}\n', "m.jsonl"
    )
    tree = discover(path)
    assert _rows(tree) == [("../b.mp4", "0", ""), ("clips/a.mp4", "1", "")]
    assert tree.sources[1].path.is_file()


def test_a_manifest_without_labels_falls_back_on_its_folders(tmp_path: Path) -> None:
    rows = "train/Fight/a.mp4\nval/NonFight/b.mp4\n"
    assert _rows(discover(_manifest(tmp_path, f"path\n{rows}"))) == [
        ("train/Fight/a.mp4", "Fight", "train"),
        ("val/NonFight/b.mp4", "NonFight", "val"),
    ]
    labelled = "path,label\ntrain/Fight/a.mp4,NonFight\nval/NonFight/b.mp4,\n"
    assert _rows(discover(_manifest(tmp_path, labelled))) == [
        ("train/Fight/a.mp4", "NonFight", "train"),
        ("val/NonFight/b.mp4", "", "val"),
    ]


def test_repeated_manifest_rows(tmp_path: Path) -> None:
    same = _manifest(tmp_path, "path,label\na.mp4,Fight\n./a.mp4,Fight\n")
    assert len(discover(same).sources) == 1
    differ = _manifest(tmp_path, "path,label\na.mp4,Fight\nb.mp4,Fight\n./a.mp4,NonFight\n")
    with pytest.raises(SourceError, match=r"line 4: a.mp4 stands there with another label.*line 2"):
        discover(differ)


@pytest.mark.parametrize("content", ["", "path,label\n", "thing\na.mp4\n", "path,split\na.mp4,holdout\n"])
def test_unusable_manifest(tmp_path: Path, content: str) -> None:
    with pytest.raises(SourceError, match=r"list\.csv"):
        discover(_manifest(tmp_path, content))


def test_the_manifest_column_that_names_files_is_read(tmp_path: Path) -> None:
    _tree(tmp_path, "1.mp4", "2.mp4", "3", "clips/a.mp4")
    rows = "1,2.mp4,Fight\n2,1.mp4,NonFight\n"
    for header in ("id,filename,label", "key,File Name,label", "name,path,label"):
        tree = discover(_manifest(tmp_path, f"{header}\n{rows}"))
        assert _rows(tree) == [("1.mp4", "NonFight", ""), ("2.mp4", "Fight", "")]
        assert "e.g. 2.mp4; not read: " in tree.describe()[1]
    with pytest.raises(
        SourceError, match=r"line 2: column 'path' names .*1.mp4 and column 'file' names .*2.mp4"
    ):
        discover(_manifest(tmp_path, "file,path\n2.mp4,1.mp4\n"))
    same = discover(_manifest(tmp_path, f"file,path\n{tmp_path}/clips/a.mp4,clips/a.mp4\n"))
    assert [source.id for source in same.sources] == ["clips/a.mp4"]
    numbers_too = discover(_manifest(tmp_path, "id,clip\n3,1.mp4\n"))  # a file called 3 is there as well
    assert [source.id for source in numbers_too.sources] == ["1.mp4"]
    absent = discover(_manifest(tmp_path, "id,clip\n1,gone.mp4\n2,away.mp4\n"))
    assert [source.id for source in absent.sources] == ["away.mp4", "gone.mp4"]


def test_names_are_opened_by_their_bytes_in_every_locale(tmp_path: Path) -> None:
    (tmp_path / "é.mp4").touch()
    code = "import sys; from pathlib import Path; from cache.labels.media import utf8_path; "
    code += r"print(utf8_path(Path(sys.argv[1]), '\xe9.mp4').is_file())"
    environment = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    told = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, check=True, env=environment
    ).stdout
    assert told == b"True\n"
