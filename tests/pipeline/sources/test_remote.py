from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import SourceError
from cache.labels.names import nfc
from cache.objects import store as store_module
from pipeline.sources.inventory import take_inventory
from pipeline.sources.labelled import resolve_labels
from pipeline.sources.remote import beside
from pipeline.sources.transcripts import with_transcripts
from pipeline.sources.tree import SourceTree, discover
from tests.objects import BUCKET, KEY_ID, SECRET, Server, emptied
from tests.objects import serve as serve

URL = f"s3://{BUCKET}"
FILES = (
    *(
        "RWF/train/Fight/a_0.mp4",
        "RWF/train/NonFight/b 1.avi",
        "RWF/val/Fight/ü#+%20.mov",
        "RWF/val/NonFight/d.png",
    ),
    *("RWF/readme.txt", "RWF/train/.hidden/x.mp4", "RWF/.DS_Store", "RWF/train/Fight/voice.wav"),
    *("RWF/train/v1.zarr/zarr.json", "RWF/train/@eaDir/t.jpg", "RWF/train/Fight/no_suffix"),
)


@pytest.fixture
def server(serve: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    return emptied(serve, monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "data"


def shape(tree: SourceTree) -> tuple[object, ...]:
    rows = [(source.id, source.label_name, source.split, source.source) for source in tree.sources]
    return rows, tree.layout, tree.skipped, tree.notes


@pytest.mark.parametrize("sound", [False, True])
def test_a_prefix_is_read_like_the_same_folder(server: Server, folder: Path, sound: bool) -> None:
    server.put_tree(folder, "sets/all")
    for marker in ("sets/all", "sets/all/RWF", "sets/all/RWF/train", "sets/all/RWF/val/Empty"):
        server.put(f"{marker}/", b"")
    server.put("sets/all-others/x.mp4", b"")
    server.page = 3
    local = discover(folder, sound=sound)
    tree = discover(f"{URL}/sets/all", sound=sound)
    extra = ("RWF/val/Empty", "not a video or image")  # an empty folder is nothing on a disk
    assert extra in tree.skipped
    kept = tuple(one for one in tree.skipped if one != extra)
    assert shape(local) == (shape(tree)[0], tree.layout, kept, tree.notes)
    assert [nfc(s.id) for s in tree.sources if "ü" in s.id] and tree.root == f"{URL}/sets/all"
    for source in tree.sources:
        path = folder / source.id
        assert source.remote is not None
        assert source.remote.stamp == (path.stat().st_size, int(path.stat().st_mtime) * 10**9)
    assert server.gets() == 0
    inventory = take_inventory(tree.sources, {}, {}, retry_rejects=False)
    assert inventory.n_found == len(tree.sources) == len(inventory.work)
    _, lines = with_transcripts(tree.sources, [source.id for source in tree.sources], None)
    assert (
        f"words: {len(tree.sources)} videos lie in object storage, where no transcripts are looked for"
        in lines
    )


def test_one_video_and_what_is_none(server: Server) -> None:
    server.put("a/x.mp4", b"1")
    tree = discover(f"{URL}/a/x.mp4")
    assert (tree.layout, [source.id for source in tree.sources]) == ("file", ["x.mp4"])
    for url, text in (
        (f"{URL}/b", "no videos or images in this folder"),
        (f"{URL}/a/y.mp4", "no videos or images"),
        ("https://host/folder", "a web server cannot be listed"),
        (f"s3://me:{SECRET}@bucket/x", "s3://bucket/x: a URL with a user"),
    ):
        with pytest.raises(SourceError if "@" not in url else Exception, match=text) as caught:
            discover(url)
        assert SECRET not in str(caught.value)
    with pytest.raises(SourceError, match="reads local files only"):
        discover(Path(f"{URL}/a"))


@pytest.mark.parametrize(("fault", "text"), [("404", "is not there"), ("403", "access was denied")])
def test_a_bucket_that_cannot_be_listed_is_one_line(server: Server, fault: str, text: str) -> None:
    server.faults[""].append(fault)
    with pytest.raises(SourceError, match=text) as caught:
        discover(f"{URL}/a")
    told = str(caught.value)
    assert "\n" not in told and KEY_ID not in told and SECRET not in told and URL in told


def test_manifests_name_objects(server: Server, tmp_path: Path) -> None:
    server.put("v/a.mp4", b"1")
    server.put("v/sub/b.mp4", b"22")
    (tmp_path / "c.mp4").write_bytes(b"333")
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        f"path,label\n{URL}/v/a.mp4,Fight\n{URL}/v/gone.mp4,NonFight\nc.mp4,NonFight\n", "utf-8"
    )
    tree = discover(manifest)
    assert [source.id for source in tree.sources] == ["c.mp4", f"{URL}/v/a.mp4", f"{URL}/v/gone.mp4"]
    assert server.asked.total() == 0
    inventory = take_inventory(tree.sources, {}, {}, retry_rejects=False)
    sizes = {item.source.id: item.size_bytes for item in inventory.work}
    assert sizes == {"c.mp4": 3, f"{URL}/v/a.mp4": 1, f"{URL}/v/gone.mp4": 0}
    server.put("v/list.jsonl", b'{"path": "a.mp4", "label": 1}\n{"path": "sub/../sub/b.mp4", "label": 0}\n')
    tree = discover(f"{URL}/v/list.jsonl")
    assert tree.layout == "manifest" and tree.root == f"{URL}/v"
    assert {source.id: source.remote and source.remote.url for source in tree.sources} == {
        "a.mp4": f"{URL}/v/a.mp4",
        "sub/b.mp4": f"{URL}/v/sub/b.mp4",
    }
    assert [source.label_name for source in tree.sources] == ["1", "0"]
    manifest.write_text(f"path\n{URL}/v/train/Fight/a.mp4\n{URL}/v/train/NonFight/b.mp4\n", encoding="utf-8")
    tree = discover(manifest)
    assert {(source.split, source.label_name) for source in tree.sources} == {
        ("train", "Fight"),
        ("train", "NonFight"),
    }
    with pytest.raises(SourceError, match=r"\.\./\.\./x\.mp4 is no object of"):
        beside(f"{URL}/v/list.csv", "../../x.mp4")
    manifest.write_text(f"path\nhttps://h/x.mp4?sig={SECRET}\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"https://h/x\.mp4: a URL with") as caught:
        discover(manifest)
    assert SECRET not in str(caught.value)


def test_a_store_that_is_away_ends_a_run_over_a_manifest(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(store_module, "TRIES", 1)
    rows = "".join(f"{URL}/{n}.mp4\n" for n in range(60))
    (tmp_path / "list.csv").write_text(f"path\n{rows}", encoding="utf-8")
    sources = discover(tmp_path / "list.csv").sources
    with pytest.raises(SourceError, match="no object of the manifest could be asked about"):
        take_inventory(sources, {}, {}, retry_rejects=False)
    few = take_inventory(sources[:3], {}, {}, retry_rejects=False)
    assert len(few.work) == 3


def test_a_file_of_sources_beside_the_videos_is_read(server: Server) -> None:
    for name in ("a", "b"):
        server.put(f"d/{name}.mp4", b"1")
    server.put("d/sources.csv", b"path,source\na.mp4,film\nb.mp4,film\n")
    resolved = resolve_labels(discover(f"{URL}/d"))
    assert {label.source for label in resolved.labels.values()} == {"film"}
    assert f"2 of 2 videos have a source in {URL}/d/sources.csv" in "\n".join(resolved.lines)
