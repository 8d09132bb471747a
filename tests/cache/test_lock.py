from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cache.errors import CacheError, CacheLocked
from cache.lock import CacheLock, LentLock, lock_path, locked, note_path, note_writers
from tests.cache.builders import make_video, open_writer, read_contents
from tests.cache.processes import read_line, start_python

HOLD = """
import sys
from tests.cache.builders import make_video, open_writer
from pathlib import Path
writer = open_writer(Path(sys.argv[1]))
writer.commit([make_video("a.mp4")], [])
print("held", flush=True)
sys.stdin.read()
"""


def start_holder(store: Path) -> subprocess.Popen[str]:
    holder = start_python(HOLD, store, stdin=subprocess.PIPE)
    assert read_line(holder) == "held\n"
    return holder


def test_a_second_process_is_told_who_writes_and_a_dead_one_holds_nothing(store: Path) -> None:
    with start_holder(store) as holder:
        with pytest.raises(CacheLocked) as caught:
            open_writer(store)
        for part in (store.name, f"process {holder.pid} on ", " since 20", "Wait until it ends"):
            assert part in str(caught.value)
        assert len(read_contents(store)["videos"]) == 1  # reading needs no lock
        holder.kill()
        holder.wait()
    assert store.with_name(store.name + ".lock").exists()
    with open_writer(store) as writer:
        assert list(writer.known()) == ["a.mp4"]


def test_who_reads_a_cache_that_is_written_is_told(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start_holder(store) as holder:
        note_writers(store, "s3://bucket/other.zarr")
        told = f"note: {store} is being written by process {holder.pid} on "
        out, err = capsys.readouterr()
        assert not out and err.startswith(told) and err.count("\n") == 1 and "what is committed by now" in err
        note = json.loads(note_path(store).read_bytes())
        note_path(store).write_text(json.dumps(note | {"places": ["elsewhere"], "pid": 1 << 22}))
        note_writers(store)  # another machine's, renewed a moment ago
        assert "is being written by process 4194304" in capsys.readouterr().err
        os.utime(note_path(store), (0, time.time() - 120))
        note_writers(store)  # and silent since
        note_path(store).write_text(json.dumps(note))
        holder.kill()
        holder.wait()
        note_writers(store)
    note_path(store).write_text("no lease")
    note_writers(store)
    with open_writer(store):
        note_writers(store)  # this process knows
    note_writers(store)
    assert capsys.readouterr().err == ""


def test_a_cache_that_is_written_is_known_by_any_path_to_it(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`onepass inspect .`, in a cache, ended in a traceback; a link to a cache told nothing."""
    (link := store.parent / f"link{store.suffix}").symlink_to(store)
    with start_holder(store):
        note_writers(link)
        assert f"note: {link} is being written by" in capsys.readouterr().err
        if store.is_dir():
            monkeypatch.chdir(store)
            note_writers(".")
            assert "note: . is being written by" in capsys.readouterr().err
        loop = store.parent / "loop.zarr"
        loop.symlink_to(loop)
        note_writers("/", loop)
        assert capsys.readouterr().err == ""


def test_the_number_of_a_process_says_nothing_in_another_container(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its numbers are others: the one that writes may have this process's, or none here."""
    with start_holder(store):
        note = json.loads(note_path(store).read_bytes())
        for pid in (os.getpid(), 1 << 22):
            note_path(store).write_text(json.dumps(note | {"pid_namespace": "pid:[1]", "pid": pid}))
            note_writers(store)
            assert f"is being written by process {pid} " in capsys.readouterr().err
        note_path(store).write_text(json.dumps(note))


def test_two_writers_in_one_process_exclude_each_other(store: Path) -> None:
    with open_writer(store), pytest.raises(CacheLocked, match=f"process {os.getpid()} "):
        open_writer(store)
    open_writer(store).close()


FORK = """
import os, sys, time
from pathlib import Path
from cache.lock import CacheLock
lock = CacheLock(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""


def _lock_soon(path: Path, *, seconds: float = 20.0) -> None:
    """Take and release the lock; a child lets go of its copy only once the system has run it after the fork."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            CacheLock(path).release()
        except CacheLocked:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)
        else:
            return


def test_a_forked_child_that_outlives_the_writer_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "c.zarr"
    parent = start_python(FORK, path)
    child = int(read_line(parent))
    try:
        with pytest.raises(CacheLocked):
            CacheLock(path)
        parent.kill()
        parent.wait()
        os.kill(child, 0)  # still there
        _lock_soon(path)
    finally:
        os.kill(child, signal.SIGKILL)
        assert parent.stdout is not None
        parent.stdout.close()


def test_leftover_lock_files_mean_nothing(store: Path) -> None:
    store.with_name(store.name + ".lock").write_text("")
    store.with_name(store.name + ".lock.json").write_text("not json")
    with open_writer(store):
        pass
    lock = CacheLock(store)
    store.with_name(store.name + ".lock.json").write_text("not json")
    with pytest.raises(CacheLocked, match="written by another process"):
        open_writer(store)
    lock.release()


def test_a_lock_from_before_the_cache_leaves_nothing_where_none_came(store: Path) -> None:
    path = store.parent / "new/deep" / store.name
    with pytest.raises(KeyError), locked(path):
        with pytest.raises(CacheLocked):
            open_writer(path)
        raise KeyError
    assert not (store.parent / "new").exists()
    store.with_name(store.name + ".lock").write_text("")  # of a run that was killed
    with pytest.raises(KeyError), locked(store):
        raise KeyError
    assert list(store.parent.iterdir()) == []


def test_what_stands_where_the_lock_is_described_is_named_and_nothing_is_left(store: Path) -> None:
    note_path(store).mkdir()
    with pytest.raises(CacheError, match=re.escape(f"{note_path(store)}: Is a directory")), locked(store):
        pass
    assert list(store.parent.iterdir()) == [note_path(store)]


def test_a_file_of_that_name_that_is_no_lock_stays(store: Path) -> None:
    lock_path(store).write_text("mine")
    with pytest.raises(KeyError), locked(store):
        raise KeyError
    assert lock_path(store).read_text() == "mine"


def test_a_lent_lock_outlives_its_writers(store: Path) -> None:
    with locked(store) as lock:
        open_writer(store, held=lock).close()
        with open_writer(store, held=lock) as writer:
            writer.commit([make_video("a.mp4")], [])
        LentLock(lock).release()
        with pytest.raises(CacheLocked):
            CacheLock(store)
    assert lock_path(store).exists()
    with open_writer(store) as writer:
        assert list(writer.known()) == ["a.mp4"]


def test_a_process_that_dies_before_its_cache_is_made_holds_nothing(store: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from cache.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    with start_python(code, store) as holder:
        assert read_line(holder) == "held\n"
        with pytest.raises(CacheLocked, match=f"process {holder.pid} on "):
            open_writer(store)
        holder.kill()
        holder.wait()
    with open_writer(store):
        pass
