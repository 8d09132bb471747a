from __future__ import annotations

import os
import shutil
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cache.errors import CacheCorrupt, CacheError, CacheLocked, InputError, StorageFull
from cache.objects import mirror as mirror_module
from cache.objects.bucket import Bucket
from cache.objects.mirror import Mirror, written
from cache.objects.record import RECORD_NAME, CommitRecord, digest_of
from cache.objects.store import TRIES, ObjectTrouble
from tests.cache.builders import make_reject, make_video, open_writer, read_contents, write_cache
from tests.cache.crashing import Killed, dying_after
from tests.objects import BUCKET, Server, point_at, point_google_at

BATCHES = (["a.mp4", "b.mp4"], ["c.mp4"], ["d.mp4"])


def run(url: str, *, batches: Any = BATCHES, lines: list[str] | None = None) -> Path:
    """What extract does: commit what is not known yet, publishing after each commit; returns the working copy."""
    with Mirror.open(url, say=(lines if lines is not None else []).append, every_seconds=0) as mirror:
        with open_writer(mirror.path) as writer:
            writer.after_change = mirror.publish_if_due
            for batch in batches:
                if todo := [name for name in batch if name not in writer.known()]:
                    writer.commit([make_video(name) for name in todo], [make_reject(f"{todo[0]}.broken")])
        return mirror.path


def record(bucket: Server, url: str) -> CommitRecord:
    return CommitRecord.from_bytes(bucket.objects[key(url)][0], where=url)


def key(url: str, name: str = RECORD_NAME) -> str:
    return f"{url.split('/', 3)[3]}/{name}"


def on_another_machine(local: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ONEPASS_OBJECTS_DIR", str(local / name))


def test_an_address_that_is_only_read_is_refused_before_the_work(bucket: Server, url: str) -> None:
    bucket.faults[key(url, "write.probe")].append("403")
    with pytest.raises(ObjectTrouble, match=rf"^{url} cannot be written to: .*access was denied"):
        run(url)
    assert not bucket.objects
    bucket.faults[key(url, "write.probe")].extend(
        ["503"] * TRIES
    )  # may pass until there is something to publish
    run(url)
    assert key(url) in bucket.objects and key(url, "write.probe") not in bucket.objects


def test_commits_are_published_and_continued_on_another_machine(
    bucket: Server, url: str, local: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = read_contents(run(f"file://{tmp_path}/other/v1.zarr"))
    first = run(url, batches=BATCHES[:2])
    found = record(bucket, url)
    assert (found.sequence, found.n_videos, found.n_rejects, found.name) == (2, 3, 2, "v1.zarr")
    objects = {name.rpartition("/")[2] for name in bucket.objects} - {RECORD_NAME}
    assert {piece for file in found.files for piece in file.pieces} <= objects
    assert all("SECRET" not in data.decode("latin1") for data, _ in bucket.objects.values())
    bucket.asked.clear()
    noted = first.with_name("v1.zarr.transcripts.jsonl")
    noted.write_text("{}\n", encoding="utf-8")
    run(url, batches=BATCHES[:2])
    tried = Counter({("PUT", key(url, "write.probe")): 1, ("POST", ""): 1})
    looked = Counter({("GET", key(url)): 1, ("GET", ""): 1})
    assert noted.exists() and bucket.asked == tried + looked  # nothing new: nothing sent or fetched
    on_another_machine(local, monkeypatch, "second")
    lines: list[str] = []
    second = run(url, lines=lines)
    assert second != first and "3 videos; 58 of 58 files" in lines[0] and len(lines) == 1
    assert read_contents(second) == read_contents(Path(url)) == whole
    on_another_machine(local, monkeypatch, ".")
    lines.clear()
    bucket.asked.clear()
    run(url, lines=lines)  # the first machine takes over what the second did: only what differs
    assert not noted.exists()  # it was of another state
    assert "4 videos" in lines[0] and 0 < bucket.gets() < len(objects)
    assert read_contents(first) == whole


def test_an_hdf5_cache_is_published_too(bucket: Server, url: str, local: Path, tmp_path: Path) -> None:
    url = url.replace(".zarr", ".h5")
    whole = read_contents(run(f"file://{tmp_path}/other/v1.h5"))
    with Mirror.open(url, every_seconds=0) as mirror, open_writer(mirror.path) as writer:
        writer.after_change = mirror.publish_if_due
        writer.commit([make_video("a.mp4"), make_video("b.mp4")], [make_reject("a.mp4.broken")])
        assert all(file.path.startswith("v1.h5.staging/") for file in record(bucket, url).files)
        assert len(read_contents(Path(url))["videos"]) == 2
    assert [file.path for file in record(bucket, url).files] == ["v1.h5"]
    shutil.rmtree(local)
    assert read_contents(run(url)) == read_contents(Path(url)) == whole


def test_of_two_writers_one_wins_and_the_other_says_so(
    bucket: Server, url: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both begin at one record; the second to publish is refused, keeps what it has, and later goes on from the winner's."""
    run(url, batches=BATCHES[:1])
    on_another_machine(local, monkeypatch, "loser")
    with pytest.raises(CacheLocked) as caught, Mirror.open(url, every_seconds=0) as loser:
        on_another_machine(local, monkeypatch, "winner")
        run(url, batches=BATCHES[:2])
        won = dict(bucket.objects)
        with open_writer(loser.path) as writer:
            writer.after_change = loser.publish_if_due
            writer.commit([make_video("x.mp4")], [])
    said = str(caught.value)
    assert "another writer on " in said and "published record 2 at 20" in said and "(3 videos)" in said
    assert "worked from record 1" in said and "\n" not in said
    assert all(bucket.objects[name][0] == data for name, (data, _) in won.items())
    assert "x.mp4" in str(read_contents(loser.path))
    on_another_machine(local, monkeypatch, "loser")
    path = run(url, batches=[*BATCHES[:2], ["x.mp4"]])
    ids = [row.id for row in read_contents(path)["videos"]]
    assert ids == ["a.mp4", "b.mp4", "c.mp4", "x.mp4"] and read_contents(Path(url)) == read_contents(path)


def race(url: str, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines publish the first record at one moment: exactly one of them holds."""
    mirrors = []
    for name in ("one", "two"):
        on_another_machine(local, monkeypatch, name)
        mirrors.append(Mirror.open(url))
    ended: list[str] = []
    gate = threading.Barrier(2)

    def work(mirror: Mirror, video: str) -> None:
        try:
            with mirror:
                write_cache(mirror.path, [make_video(video)])
                gate.wait()
        except CacheLocked:
            ended.append("lost")
        else:
            ended.append(video)

    threads = [threading.Thread(target=work, args=(m, f"{i}.mp4")) for i, m in enumerate(mirrors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [end for end in ended if end != "lost"]
    assert len(ended) == 2 and len(won) == 1
    on_another_machine(local, monkeypatch, "reader")
    assert [row.id for row in read_contents(Path(url))["videos"]] == won
    found = Bucket(url).read_record()
    assert found is not None and CommitRecord.from_bytes(found[0], where=url).sequence == 1


def test_two_at_one_moment(bucket: Server, url: str, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        race(url.replace("v1", f"v{number}"), local, monkeypatch)


def test_on_google_cloud_storage(
    bucket: Server, url: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_google_at(bucket.address, tmp_path, monkeypatch)
    url = url.replace("s3:", "gs:")
    whole = read_contents(run(url))
    assert record(bucket, url).sequence == len(BATCHES)
    on_another_machine(local, monkeypatch, "other")
    assert read_contents(run(url)) == read_contents(Path(url)) == whole
    race(url.replace("v1", "v2"), local, monkeypatch)


@pytest.mark.slow
def test_two_at_one_moment_on_a_real_server_of_s3(
    url: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto, which is not among the packages for development: it takes 30 s to install."""
    moto = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        point_at(address, monkeypatch)
        urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT")).close()
        for number in range(20):
            race(url.replace("v1", f"v{number}"), local, monkeypatch)
        whole = read_contents(run(url.replace("v1", "more")))
        on_another_machine(local, monkeypatch, "other")
        assert read_contents(Path(url.replace("v1", "more"))) == whole
    finally:
        server.stop()


def test_the_storage_has_bad_days(
    bucket: Server, url: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(mirror_module, "_TRIES", 2)
    with Mirror.open(url, say=lines.append, every_seconds=0) as mirror, open_writer(mirror.path) as writer:
        writer.after_change = mirror.publish_if_due
        bucket.faults[key(url)] += ["503", "", "503"]  # the next publish makes the conditional put again
        writer.commit([make_video("a.mp4")], [])
        assert (
            "not published yet" in lines[0] and "503 SlowDown" in lines[0] and key(url) not in bucket.objects
        )
        bucket.faults[key(url)] += ["lost"]  # done, but nobody said so: it is read back
        writer.commit([make_video("b.mp4")], [])
        assert len(lines) == 1 and record(bucket, url).sequence == 1
        one = digest_of(bucket.objects[key(url)][0])
        bucket.faults[key(url)] += ["lost", *["503"] * 7]  # done, and neither told nor to be seen
        writer.commit([make_video("c.mp4")], [])
        assert len(lines) == 2 and record(bucket, url).previous == one
        writer.commit([make_video("d.mp4")], [])  # now it is seen, and continued
        assert len(lines) == 2 and (record(bucket, url).sequence, record(bucket, url).n_videos) == (3, 4)
        monkeypatch.setattr("cache.objects.store.TRIES", 2)
        before = dict(bucket.objects)
        with mock.patch.object(mirror_module, "send", side_effect=ObjectTrouble("slow", "passing")):
            writer.commit([make_video("e.mp4")], [])
        assert lines[2].endswith("goes on with it") and f"lies in {local}" in lines[2]
        assert bucket.objects == before
    assert record(bucket, url).n_videos == 5  # the end publishes what was left
    bucket.faults[key(url)] += ["", *["503"] * 20]
    with pytest.raises(ObjectTrouble, match=r"503 SlowDown.*and the same command goes on with it"):
        run(url, batches=[["f.mp4"]])
    bucket.faults.clear()
    path = run(url, batches=[["f.mp4"]])
    assert len(read_contents(path)["videos"]) == 6 and read_contents(Path(url)) == read_contents(path)
    bucket.faults[key(url)] += ["403"]
    with pytest.raises(ObjectTrouble, match=r"access was denied .*check the credentials"):
        run(url)


def test_a_run_that_fails_publishes_what_it_committed(bucket: Server, url: str) -> None:
    with pytest.raises(StorageFull, match=rf"^no room in {url}/x$"), Mirror.open(url) as mirror:
        with open_writer(mirror.path) as writer:
            writer.commit([make_video("a.mp4")], [])
        raise StorageFull(f"no room in {mirror.path}/x")
    assert record(bucket, url).n_videos == 1
    with pytest.raises(KeyboardInterrupt), Mirror.open(url) as mirror:
        with open_writer(mirror.path) as writer:
            writer.commit([make_video("b.mp4")], [])
        raise KeyboardInterrupt
    assert record(bucket, url).n_videos == 1
    bucket.asked.clear()
    path = run(url, batches=())  # the working copy is ahead: nothing of it is lost
    assert record(bucket, url).n_videos == 2 and read_contents(Path(url)) == read_contents(path)


def test_what_stands_in_the_way_is_one_line(
    bucket: Server, url: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Mirror.open(url),
        pytest.raises(CacheLocked, match=rf"^{url} is being written by process {os.getpid()} "),
    ):
        Mirror.open(url)
    assert not bucket.objects  # nothing was written: nothing is published
    run(url, batches=BATCHES[:1])
    kept = bucket.objects.pop(key(url))
    with pytest.raises(CacheError, match=rf"{url} has no commit.json any more, and .*remove that folder"):
        run(url)
    bucket.objects[key(url)] = kept
    with (
        pytest.raises(CacheError, match=r"commit.json was removed while this run worked"),
        Mirror.open(url) as mirror,
    ):
        write_cache(mirror.path, [make_video("b2.mp4")])
        del bucket.objects[key(url)]
    bucket.objects[key(url)] = kept
    path = run(url)
    state = path.with_name("state.json")
    state.write_bytes(b"{")
    with pytest.raises(CacheError, match=r"state.json cannot be read .*remove it"):
        run(url)
    state.unlink()
    lines: list[str] = []
    bucket.asked.clear()
    run(url, lines=lines)  # what is there is found by its digest
    assert "0 of" in lines[0] and bucket.gets() == 1
    shutil.rmtree(path)
    assert run(url, batches=()) == path
    assert len(read_contents(path)["videos"]) == 5  # never an empty state over a full one
    with pytest.raises(InputError, match="only read from"):
        Mirror.open("https://example.org/v1.zarr")
    missing = next(
        file.pieces[0] for file in record(bucket, url).files if "values" in file.path and file.pieces
    )
    del bucket.objects[key(url, f"objects/{missing}")]
    on_another_machine(local, monkeypatch, "second")
    with pytest.raises(CacheCorrupt, match=rf"objects/{missing} is missing"):
        run(url)


def test_a_record_that_moved_keeps_the_name_of_its_cache(bucket: Server, url: str) -> None:
    whole = read_contents(run(url))
    moved = url.replace("v1.zarr", "renamed.zarr")
    for name in list(bucket.objects):
        bucket.objects[name.replace("v1.zarr", "renamed.zarr")] = bucket.objects.pop(name)
    assert read_contents(Path(moved)) == whole
    assert run(moved).name == "v1.zarr"


def test_a_local_target_is_written_where_it_is(tmp_path: Path) -> None:
    with written(tmp_path / "x.zarr") as path:
        assert path == tmp_path / "x.zarr"


@contextmanager
def dying(steps: int) -> Iterator[Any]:
    """Dies in a file's or a store's operation, whichever is number `steps`; a put may have been done by then, or not."""
    with ExitStack() as stack:
        countdown = stack.enter_context(dying_after(steps))
        for name in ("write", "replace_record"):
            whole = getattr(Bucket, name)

            def call(self: Bucket, *args: Any, whole: Any = whole, **kwargs: Any) -> Any:
                if not countdown.step():
                    if steps % 2:
                        whole(self, *args, **kwargs)
                    raise Killed
                return whole(self, *args, **kwargs)

            stack.enter_context(mock.patch.object(Bucket, name, call))
        yield countdown


@pytest.mark.parametrize("suffix", ["zarr", pytest.param("h5", marks=pytest.mark.slow)])
def test_killed_anywhere_it_shows_the_old_state_or_the_new(
    suffix: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONEPASS_EVERY_CRASH_POINT=1 tries all of them. The run that goes on is on the same machine, or on another one."""
    monkeypatch.setattr(mirror_module, "in_parallel", lambda work, items: [work(item) for item in items])
    address = tmp_path / f"bucket/v1.{suffix}"
    url = f"file://{address}"
    batches = BATCHES[1:]
    with mock.patch.object(os, "fsync"):
        with dying(10**9) as countdown:
            run(url, batches=batches)
        total = 10**9 - countdown.left
        whole = read_contents(Path(url))
        step = 1 if os.environ.get("ONEPASS_EVERY_CRASH_POINT") else total // (10 if suffix == "h5" else 4)
        for steps in range(suffix == "h5", total, step):
            shutil.rmtree(address)
            on_another_machine(local, monkeypatch, f"{steps}")
            with dying(steps), pytest.raises(Killed):
                run(url, batches=batches)
            if (address / RECORD_NAME).exists():
                found = CommitRecord.from_bytes((address / RECORD_NAME).read_bytes(), where=url)
                videos = read_contents(Path(url))["videos"]
                assert len(videos) == found.n_videos and videos == whole["videos"][: len(videos)]
            if steps % 3 == 0:
                on_another_machine(local, monkeypatch, f"{steps}-other")
            path = run(url, batches=batches)
            assert read_contents(path) == read_contents(Path(url)) == whole, f"killed at {steps} of {total}"
            shutil.rmtree(local)
