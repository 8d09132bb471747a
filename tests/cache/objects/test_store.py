from __future__ import annotations

import pickle
import sys
import threading
from pathlib import Path

import pytest

from cache.errors import InputError
from cache.objects import store as store_module
from cache.objects.store import (
    ObjectTrouble,
    as_location,
    base_name,
    is_remote,
    open_objects,
    redacted,
    split,
)
from tests.objects import BUCKET, KEY_ID, SECRET, Server

URL = f"s3://{BUCKET}"


@pytest.fixture(autouse=True)
def server(bucket: Server) -> Server:
    return bucket


def test_urls_are_told_from_paths() -> None:
    for url in ("s3://b/x", "gs://b", "az://c/x", "https://h/x.mp4", "S3://b/x"):
        assert is_remote(url) and is_remote(Path(url))
        assert as_location(Path(url)) == as_location(url) == url.replace("S3", "s3")
    for path in ("data/s3", "/tmp/x.mp4", "s3:", "c:/videos", "file:///x", "s3.csv"):
        assert not is_remote(path) and as_location(path) == Path(path)
    assert split("s3://b/a c/d%20.mp4") == ("s3://b", "a c/d%20.mp4")
    assert split("https://h:1/a%20c.mp4") == ("https://h:1", "a c.mp4")
    assert split("s3://b/") == ("s3://b", "")
    assert base_name("s3://b/x/RWF-2000/") == "RWF-2000" and base_name("s3://b") == "b"


@pytest.mark.parametrize(
    "url",
    [
        f"s3://me:{SECRET}@b/x",
        f"https://h/x.mp4?X-Amz-Signature={SECRET}",
        f"https://h/#{SECRET}",
        "s3://b/a//b",
    ],
)
def test_urls_with_secrets_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="not read|cannot be named") as caught:
        split(url)
    assert SECRET not in str(caught.value) and SECRET not in redacted(url)


def test_a_listing_goes_over_pages_and_on_after_trouble(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LISTED_AT_A_TIME", 5)
    keys = [f"d/{n:02}.mp4" for n in range(25)] + ["d/ü한 a+b%20#?.mp4", "dd/other.mp4"]
    for key in keys:
        server.put(key, key.encode())
    server.page = 7
    server.offsets = False  # as fake-gcs-server, which begins again
    server.faults[""] += ["503", "503", *[""] * 3, "503"]
    assert [one.key for one in open_objects(URL).list("d")] == sorted(keys[:-1])
    server.offsets = True
    server.faults[""] += ["503", "503", "", "503"]
    found = list(open_objects(URL).list("d"))
    assert [one.key for one in found] == sorted(keys[:-1])
    assert found[3].size_bytes == len(keys[3]) and found[3].mtime_ns == 1_700_000_000 * 10**9
    assert found[3].etag
    assert len(list(open_objects(URL).list())) == len(keys)
    server.put("d/a//b.mp4", b"")
    with pytest.raises(ObjectTrouble, match=r"the key 'd/a//b.mp4' cannot be named"):
        list(open_objects(URL).list("d"))


def test_what_passes_is_tried_again_and_what_does_not_is_told(server: Server) -> None:
    store = open_objects(URL)
    server.put("x", bytes(range(200)))
    server.faults["x"] += ["503", "cut", "cut", "503"]
    data, found = store.read("x", 10, 100)
    assert data == bytes(range(10, 100)) and found.size_bytes == 200 and server.asked["GET", "x"] == 5
    assert store.read("x", 150, 900, found.etag)[0] == bytes(range(150, 200))
    assert store.read_all("x")[0] == bytes(range(200))
    with pytest.raises(ObjectTrouble, match=rf"{URL}/x: is not what it was") as caught:
        store.read("x", 0, 10, '"other"')
    assert caught.value.kind == "changed"
    for fault, kind, text in (
        ("403", "denied", "access was denied (403 AccessDenied)"),
        ("404", "missing", "is not there (404 NoSuchKey)"),
    ):
        server.asked.clear()
        server.faults["x"].append(fault)
        with pytest.raises(ObjectTrouble) as caught:
            store.read_all("x")
        assert caught.value.kind == kind and text in str(caught.value) and server.gets() == 1
    server.asked.clear()
    server.faults["x"] += ["503"] * 50
    with pytest.raises(ObjectTrouble, match=r"the store answered 503 SlowDown, 7 times") as caught:
        store.read_all("x")
    assert caught.value.kind == "passing" and server.gets() == store_module.TRIES
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.kind) == (str(caught.value), "passing")
    server.faults["x"].clear()
    server.faults["x"] += ["cut"] * 50
    with pytest.raises(ObjectTrouble, match=r"the answer was cut, 7 times"):
        store.read_all("x")


def test_a_store_that_does_not_answer_in_time_is_asked_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(server, "hang_seconds", 0.8)
    server.put("x", b"data")
    server.faults["x"].append("hang")
    assert open_objects(URL).read_all("x")[0] == b"data" and server.gets() == 2
    stop = threading.Event()
    stop.set()
    server.faults["x"].append("503")
    with pytest.raises(ObjectTrouble, match="told to end") as caught:
        open_objects(URL, stop).read_all("x")
    assert caught.value.kind == "stopped"


def test_a_store_that_never_answered_is_given_up_sooner(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address is wrong, or the network: nobody waits minutes for that. One that had answered may be back soon."""
    monkeypatch.setattr(store_module, "UNANSWERED_SECONDS", 0.0)
    monkeypatch.setattr(store_module, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(server, "hang_seconds", 0.3)
    server.put("x", b"data")
    server.faults["x"] += ["hang", "", *["hang"] * 3]
    store = open_objects(URL)
    with pytest.raises(ObjectTrouble, match=r"no answer in time from 127\.0\.0\.1:\d+; check the network"):
        store.read_all("x")
    assert server.gets() == 1
    assert store.read_all("x")[0] == b"data"
    assert store.read_all("x")[0] == b"data" and server.gets() == 6


def test_writes_with_a_condition(server: Server) -> None:
    store = open_objects(URL)
    first = store.put("x", b"1", create=True)
    with pytest.raises(ObjectTrouble) as caught:
        store.put("x", b"2", create=True)
    assert caught.value.kind == "exists"
    second = store.put("x", b"2", etag=first)
    with pytest.raises(ObjectTrouble) as caught:
        store.put("x", b"3", etag=first)
    assert caught.value.kind == "changed" and store.read_all("x")[0] == b"2"
    assert store.look("x").etag == second
    server.asked.clear()
    server.faults["x"] += ["503", "503"]
    with pytest.raises(ObjectTrouble) as caught:
        store.put("x", b"3", etag=second)
    assert caught.value.kind == "passing" and server.asked["PUT", "x"] == 1  # it may have been done
    store.put("x", b"4")
    assert store.read_all("x")[0] == b"4"
    with pytest.raises(ObjectTrouble) as caught:
        store.look("y")
    assert caught.value.kind == "missing"


def test_settings_that_cannot_work_are_one_line_without_secrets(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults["x"].append("403")
    lines = []
    for name, value in (("", ""), ("AWS_ALLOW_HTTP", "false"), ("AWS_ENDPOINT_URL", "http://127.0.0.1:1")):
        if name:
            monkeypatch.setenv(name, value)
        with pytest.raises(ObjectTrouble) as caught:
            open_objects(URL).read_all("x")
        lines.append(str(caught.value))
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    assert "access was denied (403 AccessDenied); check the credentials" in lines[0]
    assert "AWS_ALLOW_HTTP=true allows" in lines[1]
    assert lines[2].endswith("no connection to 127.0.0.1:1, 7 times; check the network and AWS_ENDPOINT_URL")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(ObjectTrouble, match="no account was named") as caught:
        open_objects("az://c/x")
    lines.append(str(caught.value))
    for line in lines:
        assert "\n" not in line and SECRET not in line and KEY_ID not in line


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(InputError, match=r"pip install 'onepass\[objects\]'"):
        open_objects(URL)
