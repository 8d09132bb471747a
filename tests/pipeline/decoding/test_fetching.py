from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from cache.errors import InputError
from cache.objects.store import ObjectTrouble, open_objects
from pipeline.backbones.load import load_backbones
from pipeline.cli.extract import app
from pipeline.cli.merge import merge_command
from pipeline.config import ExtractConfig
from pipeline.decoding import fetching, remote_file
from pipeline.decoding.fetching import Fetcher, FetchSettings
from pipeline.decoding.pool import PoolSettings
from pipeline.decoding.remote_file import RemoteFile, object_digest
from pipeline.decoding.scratch import OBJECTS_PREFIX
from pipeline.decoding.worker import Finished, file_digest
from pipeline.dry_run import dry_run
from pipeline.run import extract
from pipeline.sources.shards import Shard
from tests.objects import BUCKET, KEY_ID, SECRET, Server, emptied, point_at, point_google_at
from tests.objects import serve as serve
from tests.pipeline.tiny import tiny_backbones
from tests.pipeline.trees import BAD, GOOD, contents, make_tree, run

REPOSITORY = Path(__file__).parents[3]
KILLED_AT = (1, 4, 7)
extract_app = typer.main.get_command(app)
pytestmark = pytest.mark.usefixtures("forked_workers", "tiny")
URL = f"s3://{BUCKET}/data"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five good and three broken files, changed on a whole second, as S3 tells times. Read-only by agreement."""
    root = make_tree(tmp_path_factory.mktemp("objects") / "data")
    for path in root.rglob("*.*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return root


@pytest.fixture(scope="module")
def local(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run over the files on the disk stores."""
    out = tmp_path_factory.mktemp("local") / "c.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.run.load_backbones", lambda config, **_: tiny_backbones(*config.names))
        run(data, out)
    return contents(out)


@pytest.fixture
def server(serve: Server, data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The files of `data` in a bucket; nothing is left in scratch at the end."""
    emptied(serve, monkeypatch)
    serve.put_tree(data, "data")
    yield serve
    assert not list(Path(tempfile.gettempdir()).glob(f"{OBJECTS_PREFIX}{os.getpid()}-*"))


def test_a_run_over_a_bucket_is_a_run_over_its_files(
    server: Server, local: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "c.zarr"
    monkeypatch.setattr(remote_file, "CHUNK_BYTES", 1000)
    server.faults["data/" + GOOD[0]] += ["503", "503", "", "cut", "cut"]
    server.faults["data/" + GOOD[1]] += ["cut", "503"]
    server.faults[""] += ["503"]
    report = run(URL, out)
    assert (report.stored, report.rejected, report.found) == (5, 3, 8) and report.adds_up
    assert {name: reason for name, (reason, _) in report.rejects.items()} == BAD
    assert contents(out) == local
    server.asked.clear()
    again = run(URL, out)
    assert (again.stored_now, again.stored_before, again.rejected_before) == (0, 5, 3)
    assert server.gets() == 0  # nothing is fetched for what is known


def test_over_google_cloud_storage_and_a_listing_without_quotation_marks(
    server: Server, local: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azure's listings give etags without them, the answer for an object with: each is fetched once all the same."""
    point_google_at(server.address, tmp_path, monkeypatch)
    monkeypatch.setattr(server, "quoted", False)
    run(URL.replace("s3:", "gs:"), tmp_path / "c.zarr")
    assert contents(tmp_path / "c.zarr") == local
    assert server.gets() == len(GOOD) + len(BAD) - 1  # one is empty


def test_what_cannot_be_fetched_is_a_reject_that_the_next_run_tries_again(
    server: Server, local: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "c.zarr"
    gone, denied, throttled, cut, changing = (f"data/{name}" for name in GOOD)
    server.faults[gone] += ["404"] * 9
    server.faults[denied] += ["403"] * 9
    server.faults[throttled] += ["503"] * 9
    server.faults[cut] += ["cut"] * 9
    versions = iter(range(99))

    def change(key: str) -> None:
        if key == changing:
            server.put(key, server.objects[key][0] + bytes([next(versions)]))

    before = server.objects[changing]
    server.before_get = change
    report = run(URL, out)
    assert report.adds_up and (report.stored, report.rejected) == (0, 8)
    assert {name: report.rejects[name][0] for name in GOOD} == {
        GOOD[0]: "missing-file",
        GOOD[1]: "unreadable-file",
        GOOD[2]: "unreadable-file",
        GOOD[3]: "unreadable-file",
        GOOD[4]: "changed-while-read",
    }
    details = "\n".join(detail for _, detail in report.rejects.values())
    assert f"{URL}/{GOOD[1]}: access was denied (403 AccessDenied)" in details
    assert "the store answered 503 SlowDown, 7 times" in details and "the answer was cut, 7 times" in details
    server.before_get = lambda _: None
    server.faults.clear()
    server.objects[changing] = before
    assert run(URL, out).stored_now == 5
    assert contents(out) == local


def test_an_object_that_was_replaced_after_the_listing_is_taken_as_it_is_now(
    server: Server, tmp_path: Path, data: Path
) -> None:
    newer = (data / GOOD[1]).read_bytes()
    changed = f"data/{GOOD[0]}"

    def replace_once(key: str) -> None:
        if key == changed:
            server.put(key, newer, 1_800_000_000)

    server.before_get = replace_once
    run(URL, tmp_path / "c.zarr")
    server.before_get = lambda _: None
    row, tokens = contents(tmp_path / "c.zarr")["videos"][GOOD[0]]
    twin, same = contents(tmp_path / "c.zarr")["videos"][GOOD[1]]
    assert row.digest == twin.digest and tokens == same
    assert (row.size_bytes, row.mtime_ns) == (len(newer), 1_800_000_000 * 10**9)
    server.asked.clear()
    run(URL, tmp_path / "c.zarr")
    assert server.gets() == 0
    server.put(changed, newer, 1_900_000_000)  # touched: fetched, found to be the same, restamped
    assert run(URL, tmp_path / "c.zarr").unchanged == 1
    server.asked.clear()
    run(URL, tmp_path / "c.zarr")
    assert server.gets() == 0


def test_a_vanished_object_keeps_its_features(server: Server, tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("path\n" + "".join(f"{URL}/{name}\n" for name in GOOD), encoding="utf-8")
    out = tmp_path / "c.zarr"
    assert run(manifest, out).stored_now == 5
    before = contents(out)
    del server.objects[f"data/{GOOD[0]}"]
    server.asked.clear()
    report = run(manifest, out)
    assert (report.stored, report.gone) == (5, 1) and report.adds_up and server.gets() == 0
    assert contents(out) == before


def test_shards_dry_runs_and_twins_of_a_bucket(
    server: Server, data: Path, local: dict[str, Any], tmp_path: Path
) -> None:
    parts = [tmp_path / f"{index}.zarr" for index in (1, 2)]
    for index, part in enumerate(parts, 1):
        assert run(URL, part, shard=Shard(index, 2)).adds_up
    merge_command(parts, out=tmp_path / "all.zarr", src=Path(URL))
    assert contents(tmp_path / "all.zarr") == local
    seconds: dict[str, float] = {}
    config = ExtractConfig(src=URL, out=tmp_path / "none.zarr", pool=PoolSettings(workers=1))
    report = dry_run(config, console=Console(file=io.StringIO()), declared_seconds=seconds)
    assert (
        seconds.keys() == set(GOOD)
        and report.reasons()
        == dry_run(
            ExtractConfig(src=data, out=tmp_path / "none.zarr", pool=PoolSettings(workers=1)),
            console=Console(file=io.StringIO()),
        ).reasons()
    )
    server.put("data/train/Fight/z.mp4", (data / GOOD[0]).read_bytes())
    report = run(URL, tmp_path / "c.zarr", duplicates="reject")
    assert report.rejects["train/Fight/z.mp4"][0] == "duplicate-content" and report.stored == 5
    with pytest.raises(InputError, match="--redo affected looks into the files"):
        run(URL, tmp_path / "c.zarr", redo="affected")
    assert run(URL, tmp_path / "c.zarr", redo="all").redone == 5


def test_no_secret_is_anywhere(server: Server, tmp_path: Path) -> None:
    server.faults[f"data/{GOOD[0]}"] += ["403"] * 9
    screen = io.StringIO()
    config = ExtractConfig(src=URL, out=tmp_path / "c.zarr", pool=PoolSettings(workers=1), max_rejects=1.0)
    report = extract(config, console=Console(file=screen, width=200))
    report.write(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["src"] == URL
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    held += screen.getvalue().encode() + "\n".join(report.lines()).encode()
    assert URL.encode() in held and GOOD[0].encode() in held
    assert SECRET.encode() not in held and KEY_ID.encode() not in held
    assert KEY_ID in "".join(server.headers)  # it was used


def test_a_store_that_is_away_ends_the_run_and_keeps_what_is_whole(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "LOST_IN_A_ROW", 2)
    monkeypatch.setattr(fetching, "THREADS", 1)
    for name in BAD:
        del server.objects[f"data/{name}"]
    for name in GOOD[3:]:
        server.faults[f"data/{name}"] += ["503"] * 9
    decoded = threading.Semaphore(0)
    tell = Fetcher.told

    def told(fetcher: Fetcher, event: Any) -> Any:
        if isinstance(event, Finished):
            decoded.release()
        return tell(fetcher, event)

    def wait_for_two(key: str) -> None:
        if key == f"data/{GOOD[2]}":
            assert decoded.acquire(timeout=30) and decoded.acquire(timeout=30)

    monkeypatch.setattr(Fetcher, "told", told)
    server.before_get = wait_for_two
    out = tmp_path / "c.zarr"
    with pytest.raises(ObjectTrouble, match="503 SlowDown, 7 times; so did the 1 objects before it"):
        run(URL, out, streams=("clip",), commit_seconds=900.0)
    assert GOOD[0] in contents(out)["videos"]
    server.faults.clear()
    server.before_get = lambda _: None
    assert run(URL, out, streams=("clip",)).stored == 5


def test_a_digest_is_that_of_the_file(server: Server, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_file, "CHUNK_BYTES", 1000)
    assert object_digest(RemoteFile(f"{URL}/{GOOD[0]}")) == file_digest(str(data / GOOD[0]))


# --- through the command ----------------------------------------------------------------------------------------


def test_a_source_that_cannot_be_listed_is_one_line_and_an_exit_code(server: Server, tmp_path: Path) -> None:
    for src, fault, told in (
        (URL, "404", f"{URL}: is not there (404 NoSuchKey)"),
        (URL, "404 NoSuchBucket", f"{URL}: there is no such bucket (404 NoSuchBucket); make it, or correct"),
        (URL, "403", f"{URL}: access was denied (403 AccessDenied)"),
        (f"s3://me:{SECRET}@bucket/data", "", "s3://bucket/data: a URL with a user"),
        (f"s3://{BUCKET}/nothing", "", "no videos or images in this folder (it is empty)"),
    ):
        server.faults[""] += [fault] if fault else []
        with pytest.raises(InputError) as caught:
            extract_app(["--src", src, "--out", str(tmp_path / "c.zarr")], standalone_mode=False)
        assert told in str(caught.value) and "\n" not in str(caught.value)
        assert caught.value.exit_code == 2 and SECRET not in str(caught.value)
        assert not (tmp_path / "c.zarr").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_nothing_and_ends_like_one_that_was_not(
    server: Server, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL while the first, the fourth and the last object is asked for."""
    out, scratch = tmp_path / "c.zarr", tmp_path / "temp"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": str(REPOSITORY)}
    line = [sys.executable, "-c", "from pipeline.cli.extract import main; main()", "--src", URL]
    line += ["--out", str(out), "--streams", "motion", "--workers", "1"]
    for moment in KILLED_AT:
        asked = itertools.count(1)
        with subprocess.Popen(line, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:

            def kill(
                _: str, asked: Iterator[int] = asked, moment: int = moment, pid: int = process.pid
            ) -> None:
                if next(asked) == moment:
                    os.kill(pid, signal.SIGKILL)

            server.before_get = kill
        assert process.returncode == -signal.SIGKILL
        assert len(list(scratch.glob(f"{OBJECTS_PREFIX}*"))) == 1  # those of earlier runs were swept up
    server.before_get = lambda _: None
    monkeypatch.setattr("pipeline.run.load_backbones", load_backbones)
    run(URL, out, streams=("motion",), fetch=FetchSettings(scratch))
    assert not list(scratch.glob(f"{OBJECTS_PREFIX}*"))
    run(data, tmp_path / "whole.zarr", streams=("motion",))
    assert contents(out) == contents(tmp_path / "whole.zarr")


def test_a_real_server_of_s3_gives_the_same(data: Path, local: dict[str, Any], tmp_path: Path) -> None:
    """moto, which is not among the packages for development: it takes 30 s to install."""
    moto = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            point_at(f"http://{host}:{port}", patch)
            make = urllib.request.Request(f"http://{host}:{port}/{BUCKET}", method="PUT")
            urllib.request.urlopen(make).close()
            bucket = open_objects(f"s3://{BUCKET}")
            for path in data.rglob("*.*"):
                bucket.put(f"data/{path.relative_to(data).as_posix()}", path.read_bytes(), create=True)
            with pytest.raises(ObjectTrouble, match="is there already"):
                bucket.put(f"data/{GOOD[0]}", b"", create=True)
            etag = bucket.look(f"data/{GOOD[0]}").etag
            with pytest.raises(ObjectTrouble, match="is not what it was"):
                bucket.read(f"data/{GOOD[0]}", 0, 10, f'"{etag[2:]}')
            run(URL, tmp_path / "c.zarr")
            listed = {one.key.removeprefix("data/"): one.mtime_ns for one in bucket.list("data")}
    finally:
        server.stop()
    assert contents(tmp_path / "c.zarr") == dated(local, listed)
    assert len(set(listed)) == 8


def dated(found: dict[str, Any], mtimes_ns: dict[str, int]) -> dict[str, Any]:
    """The same contents with the times of change of objects."""
    videos = {
        i: (replace(row, mtime_ns=mtimes_ns[i]), tokens) for i, (row, tokens) in found["videos"].items()
    }
    rejects = {i: replace(row, mtime_ns=mtimes_ns[i]) for i, row in found["rejects"].items()}
    return {**found, "videos": videos, "rejects": rejects}


def test_a_web_server_is_read_by_a_manifest(
    server: Server, local: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    base = f"{server.address}/bucket/data"
    manifest = tmp_path / "list.csv"
    manifest.write_text("path\n" + "".join(f"{base}/{name}\n" for name in GOOD), encoding="utf-8")
    monkeypatch.setattr(server, "ranges", False)  # as Python's own has none
    with monkeypatch.context() as patch:
        patch.setattr(remote_file, "CHUNK_BYTES", 1000)
        refused = run(manifest, tmp_path / "c.zarr").rejects
        assert len(refused) == 5
        assert all("gives no parts of an object (Range)" in detail for _, detail in refused.values())
    run(manifest, tmp_path / "c.zarr")
    found = contents(tmp_path / "c.zarr")["videos"]
    for name in GOOD:
        row, tokens = found[f"{base}/{name}"]
        before, same = local["videos"][name]
        assert tokens == same
        assert (row.digest, row.mtime_ns) == (before.digest, before.mtime_ns)
