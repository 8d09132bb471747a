"""Two writers whose locks do not exclude each other, as on a share with local locks: each has a lock file of its own."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from cache import lease, lock
from cache.check import check_cache
from cache.errors import CacheLocked, StorageFull
from cache.reader import open_cache
from cache.stores import files
from cache.writer import CacheWriter
from tests.cache import test_crash_points as script
from tests.cache.builders import expected, make_video, open_writer, read_contents
from tests.cache.processes import read_line, start_python

sidecar = script.sidecar
LEASE_SECONDS = 0.5
PLACES = lease.places
UNLIKE = {"duration_seconds": 7.5, "fps": 30.0, "width": 640, "height": 480, "n_frames": 225}


def on_machine(name: str) -> None:
    """From here on this process has the name and the lock files of another machine."""
    lease.places = lambda: [name]
    lease.socket.gethostname = lambda: name
    lock.lock_path = lambda cache: cache.with_name(f"{cache.name}.{name}.lock")


@pytest.fixture(autouse=True)
def _machine_b(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (lease, "places"),
        (lease, "LEASE_SECONDS"),
        (lease, "BEAT_SECONDS"),
        (lease.socket, "gethostname"),
        (lock, "lock_path"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    on_machine("b")


CHILD = f"""
import sys
from pathlib import Path
from cache import lease
from cache.errors import OnepassError
from tests.cache.builders import make_video, open_writer
from tests.cache.test_lease import on_machine

on_machine("a")
lease.LEASE_SECONDS, lease.BEAT_SECONDS = {LEASE_SECONDS}, {LEASE_SECONDS / 10}
try:
    with open_writer(Path(sys.argv[1])) as writer:
        for number in range(100_000):
            writer.commit([make_video(f"a/{{number}}.mp4")], [])
            print(number, flush=True)
except OnepassError as error:
    print(f"{{type(error).__name__}}: {{error}}", file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start_writer(store: Path) -> subprocess.Popen[str]:
    """Machine a, which commits one video after the other; returns after ten of them."""
    writer = start_python(CHILD, store, stderr=subprocess.PIPE)
    for _ in range(10):
        read_line(writer)
    return writer


def test_a_live_one_is_not_disturbed_and_a_stopped_one_is_taken_over_for_good(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with start_writer(store) as first:
        with pytest.raises(CacheLocked, match=rf"written by process {first.pid} on a since 20.*Wait until"):
            open_writer(store)
        assert "waiting up to 0 s to see whether process" in capsys.readouterr().err
        os.kill(first.pid, signal.SIGSTOP)
        began = time.monotonic()
        with open_writer(store) as second:
            assert time.monotonic() - began >= LEASE_SECONDS
            assert f"taken over, since process {first.pid} on a" in capsys.readouterr().err
            theirs = list(second.known())
            assert len(theirs) >= 10
            second.commit([make_video("b/0.mp4"), make_video("b/1.mp4")], [])
            os.kill(first.pid, signal.SIGCONT)
            _, said = first.communicate(timeout=20)
            assert first.returncode == CacheLocked.exit_code
            assert said.startswith(
                f"CacheLocked: {store} was taken over while this run did not answer: process"
            )
            assert f"process {os.getpid()} on b" in said and said.count("\n") == 1
            second.commit([make_video("b/2.mp4")], [])
    ids = [*theirs, "b/0.mp4", "b/1.mp4", "b/2.mp4"]
    assert read_contents(store) == expected({name: make_video(name) for name in ids}, {})
    assert not problems(store)
    open_writer(store).close()  # ended properly: nobody waits


def problems(path: Path) -> list[object]:
    with open_cache(path) as cache:
        return list(check_cache(cache))


def taken_over(path: Path) -> dict[str, object]:
    """What machine b makes of the cache: a commit and new labels, all in one moment of machine a's."""
    on_machine("b")
    exists = (path if path.suffix == ".zarr" else path.with_name(path.name + ".staging")).exists()
    with CacheWriter.reopen(path) if exists or path.is_file() else open_writer(path) as writer:
        writer.commit([make_video("late.mp4", streams=writer.streams, n_tokens=9, **UNLIKE)], [])
        writer.relabel({"late.mp4": script.NEW_LABEL})
    found = read_contents(path)
    on_machine("a")
    return found


def run_until_check(number: int, then: Callable[[], object], work: Callable[[], None]) -> int:
    """Do `work`; right after its check `number` has passed, before anything comes of it, do `then`. Returns the checks made."""
    count = 0
    check = lease.Lease.check

    def checked(self: lease.Lease) -> None:
        nonlocal count
        check(self)
        if threading.current_thread() is threading.main_thread():
            count += 1
            if count == number:
                then()

    with mock.patch.object(lease.Lease, "check", checked):
        work()
    return count


@pytest.mark.parametrize("store", ["zarr", pytest.param("h5", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.usefixtures("without_fsync")
def test_taken_over_between_a_check_and_what_it_allows_the_late_one_changes_nothing(
    store: Path, tmp_path: Path, sidecar: Path
) -> None:
    """ONEPASS_EVERY_CRASH_POINT=1 tries all of them."""
    lease.LEASE_SECONDS = 0.0
    on_machine("a")
    total = run_until_check(0, lambda: None, lambda: script.run(store, sidecar))
    every = bool(os.environ.get("ONEPASS_EVERY_CRASH_POINT"))
    numbers = range(1, total + 1)
    for number in numbers if every else random.Random(store.suffix).sample(numbers, 10):
        path = tmp_path / "shared" / store.name
        found: list[dict[str, object]] = []
        refused = False
        take_over = partial(_note_taken_over, path, found)
        try:
            run_until_check(number, take_over, partial(script.run, path, sidecar))
        except CacheLocked:
            refused = True
        assert refused or number == total, f"check {number} of {total}"
        assert read_contents(path) == found[0], f"check {number} of {total}"
        assert not problems(path), f"check {number} of {total}"
        shutil.rmtree(path.parent)


def _note_taken_over(path: Path, found: list[dict[str, object]]) -> None:
    found.append(taken_over(path))


def test_on_one_machine_nobody_waits_for_a_dead_one(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = open_writer(store)
    writer.commit([make_video("a.mp4")], [])
    note = store.with_name(store.name + ".lock.json")
    left = note.read_bytes()
    writer._release()
    note.write_bytes(left)  # as if killed
    chunk = next(store.parent.rglob("streams/clip/values/c.0.0"))
    inode = chunk.stat().st_ino
    began = time.monotonic()
    with open_writer(store) as writer:
        assert time.monotonic() - began < LEASE_SECONDS
        assert list(writer.known()) == ["a.mp4"]
        assert chunk.stat().st_ino == inode  # and nothing is copied
    assert not capsys.readouterr().err
    old = {key: json.loads(left)[key] for key in ("pid", "host", "since", "command")} | {"host": "elsewhere"}
    note.write_text(json.dumps(old))  # of a version that left no leases
    open_writer(store).close()
    assert not capsys.readouterr().err


def test_a_commit_sees_that_another_has_committed_whatever_the_lease_says(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    with pytest.raises(CacheLocked, match="changed by another writer since"), open_writer(path) as writer:
        writer.commit([make_video("a.mp4")], [])
        root = json.loads((path / "zarr.json").read_bytes())
        assert root["attributes"]["commit_number"] == 2
        assert root["attributes"]["writer"] == writer._lock.lease.token
        root["attributes"] |= {"commit_number": 3, "writer": "other"}
        (path / "zarr.json").write_text(json.dumps(root))
        writer.commit([make_video("b.mp4")], [])
    with open_writer(path) as writer:
        assert list(writer.known()) == ["a.mp4"]


def test_one_signal_ends_the_wait_for_a_lease_and_takes_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the process does at a signal otherwise, such as to note it for later."""
    with open_writer(store) as writer:
        writer.commit([make_video("a.mp4")], [])
        raw = store.with_name(store.name + ".lock.json").read_bytes()
    foreign = json.dumps(json.loads(raw) | {"places": ["elsewhere"], "lease_seconds": 60, "token": "t"})
    note = store.with_name(store.name + ".lock.json")
    note.write_text(foreign)
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            open_writer(store)
        assert time.monotonic() - began < 30 and note.read_text() == foreign
        os.kill(os.getpid(), signal.SIGINT)
        assert noted == [signal.SIGINT]
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    for odd in (None, 5, [["x"]]):
        note.write_text(json.dumps(json.loads(foreign) | {"places": odd, "lease_seconds": 0.2}))
        open_writer(store).close()  # one of another make is no lease, or a dead one


def test_a_lease_that_is_gone_is_no_lease(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    with (
        pytest.raises(CacheLocked, match=r"its lease .*c\.zarr\.lock\.json is gone"),
        open_writer(path) as writer,
    ):
        (tmp_path / "c.zarr.lock.json").unlink()
        writer.commit([make_video("a.mp4")], [])


def test_a_disk_too_full_for_a_lease_refuses_the_first_change_only(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    open_writer(path).close()
    replace = files.replace
    full = True

    def refused(target: Path, data: bytes, **options: bool) -> None:
        if full and target.name.endswith(".lock.json"):
            raise OSError(28, "No space left on device")
        replace(target, data, **options)  # type: ignore[arg-type]

    with mock.patch.object(files, "replace", refused), open_writer(path) as writer:
        with pytest.raises(StorageFull):
            writer.commit([make_video("a.mp4")], [])
        full = False
        writer.commit([make_video("a.mp4")], [])
        assert json.loads((tmp_path / "c.zarr.lock.json").read_bytes())["pid"] == os.getpid()


def test_places_tell_machines_apart_and_hold_no_ids_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(host: str, boot: str, machine: str) -> set[str]:
        ids = {"/proc/sys/kernel/random/boot_id": boot, "/etc/machine-id": machine}
        monkeypatch.setattr(lease, "_line", ids.__getitem__)
        monkeypatch.setattr(lease.socket, "gethostname", lambda: host)
        found = PLACES()
        assert not any(secret in one for one in found for secret in (boot, machine) if secret)
        return set(found)

    assert of("pod-1", "boot-1", "") & of("pod-2", "boot-1", "")  # two containers of one kernel
    assert of("node", "boot-1", "id-1") & of("node", "boot-2", "id-1")  # started again
    assert not of("localhost", "boot-1", "") & of("localhost", "boot-2", "")
    assert not of("node-1", "boot-1", "id-1") & of("node-2", "boot-2", "id-1")  # made from one image
    assert of("mac", "", "") & of("mac", "", "")
