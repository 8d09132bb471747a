"""The `extract` command from outside: exit codes, messages, signals, and the caches that are left behind."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from cache.reader import open_cache
from pipeline.cli import extract as cli
from tests.cli_entry import TINY_MODELS
from tests.conftest import every_kill
from tests.pipeline.trees import BAD, GOOD, contents, make_tree, restamped
from tests.videos import write_video

REPOSITORY = Path(__file__).parents[1]
MODEL = ("--weights", "random", "--clip-model", "tiny-vit", "--runtime", "torch")
CLIP = (*MODEL, "--streams", "clip", "--workers", "1")
FAST = ("--stream", "motion=motion", "--workers", "1")
"""Where the features do not matter: a process that imports no backbone."""


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five good and three broken files. Read-only by agreement."""
    return make_tree(tmp_path_factory.mktemp("cli") / "data")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 videos of 20 seconds: long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("many")
    first = write_video(folder / "Fight/00.mp4", seconds=20, fps=25)
    for number in range(1, 24):
        path = folder / ("Fight" if number % 2 else "NonFight") / f"{number:02}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(
            first.read_bytes() + bytes([number])
        )  # a byte behind the end: other digests, no damage
    return folder


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """`extract` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cli_entry", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "200"},
        **options,
    )


def finish(process: subprocess.Popen[str], *, seconds: float = 180) -> subprocess.CompletedProcess[str]:
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode is not None
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def extract(*arguments: object) -> subprocess.CompletedProcess[str]:
    return finish(start(*arguments))


def wait_for(condition: Any, *, seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "what the test waits for did not come"
        time.sleep(0.02)


def is_writing(out: Path) -> bool:
    """The lock is held; its note is the last thing made before the decode begins."""
    return out.with_name(out.name + ".lock.json").exists()


def n_decoding(pid: int) -> int:
    """Decode workers of a run: it has opened its cache and found out what there is to do."""
    return len(psutil.Process(pid).children(recursive=True))


def n_live(out: Path) -> int:
    """Videos that are committed; an .h5 cache in the making is read from its staging folder."""
    if not out.exists() and not out.with_name(out.name + ".staging").exists():
        return 0
    with open_cache(out) as cache:
        return len(cache)


def kill_while_writing(process: subprocess.Popen[str], out: Path, *, after_seconds: float) -> None:
    """SIGKILL to the whole group, some time after the cache was opened for writing."""
    try:
        wait_for(lambda: is_writing(out) or process.poll() is not None)
        time.sleep(after_seconds)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    wait_for(lambda: group_is_gone(process.pid), seconds=10)


def group_is_gone(pid: int) -> bool:
    return not [p for p in psutil.process_iter(["pid"]) if _group(p.pid) == pid]


def _group(pid: int) -> int:
    try:
        alive = psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        return os.getpgid(pid) if alive else -1
    except (psutil.Error, OSError):
        return -1


# --- the main job -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_both_streams_end_to_end(src: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real SlowFast and a small CLIP over good and broken files; the second run is a no-op."""
    out, report = tmp_path / "c.zarr", tmp_path / "report.json"
    command = ("--src", src, "--out", out, *MODEL, "--max-rejects", "0.5", "--report", report)
    done = extract(*command)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "found      8 = 5 stored + 3 rejected: adds up" in done.stdout
    assert "RANDOM, not pretrained: clip (random (seed 0)), slowfast (random (seed 0))" in done.stdout
    for video_id, reason in BAD.items():
        assert f"{video_id}: {reason}" in done.stdout
    told = json.loads(report.read_text(encoding="utf-8"))
    assert told["stored"] == 5 and told["adds_up"] and told["weights"]["slowfast"] == "random (seed 0)"
    held = contents(out)
    assert set(held["videos"]) == set(GOOD) and held["rejects"].keys() == BAD.keys()
    with open_cache(out) as cache:
        assert {name: info.dim for name, info in cache.streams.items()} == {"clip": 24, "slowfast": 2304}
        assert {name: info.n_tokens for name, info in cache.streams.items()} == told["tokens"]
    capsys.readouterr()
    assert in_this_process(*command) == 0
    again = capsys.readouterr().out
    assert "nothing new to extract" in again
    assert "stored     5 (5 of them before this run)" in again
    assert "found      8 = 5 stored + 3 rejected: adds up" in again
    assert contents(out) == held


def test_the_installed_command_answers_at_once() -> None:
    command = Path(sys.executable).with_name("extract")
    if not command.exists():
        pytest.skip("the project is not installed here")
    before = os.times()
    done = subprocess.run([str(command), "--help"], capture_output=True, text=True, check=True)
    after = os.times()
    assert "--src" in done.stdout and "--max-rejects" in done.stdout
    # processor time of the command itself: the machine may be busy with other things
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 1.0


@pytest.mark.slow
def test_touched_changed_and_new_files(tmp_path: Path) -> None:
    src, out = make_tree(tmp_path / "data"), tmp_path / "c.h5"
    command = ("--src", src, "--out", out, *FAST, "--max-rejects", "1")
    assert in_this_process(*command) == 0
    before = contents(out)["videos"]
    os.utime(src / GOOD[0], (1, 1))
    write_video(src / GOOD[1], seconds=1.9, seed=50)
    write_video(src / "val/Fight/new.mp4", seconds=0.6, seed=51)
    done = extract(*command)
    assert done.returncode == 0
    assert "1 stored again because the file changed" in done.stdout
    assert "1 touched files with unchanged contents" in done.stdout
    assert "found      9 = 6 stored + 3 rejected: adds up" in done.stdout
    after = contents(out)["videos"]
    before = restamped({"videos": before}, 10**9, GOOD[0])["videos"]
    assert {k for k in after if after[k] != before.get(k)} == {GOOD[1], "val/Fight/new.mp4"}
    assert after[GOOD[1]][0].duration_seconds == pytest.approx(1.9)


# --- outputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param(">&-", marks=pytest.mark.slow),
        pytest.param("2>&-", marks=pytest.mark.slow),
        pytest.param("<&- >&- 2>&-", marks=pytest.mark.slow),
        pytest.param("| head -1", marks=pytest.mark.slow),
    ],
)
def test_closed_and_cut_outputs_end_nothing(streams: str, src: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    words = ("-m", "tests.cli_entry", "--src", src, "--out", out, *FAST, "--max-rejects", "1")
    line = shlex.join([sys.executable, *map(str, words)])
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} {streams}"],
        capture_output=True,
        cwd=REPOSITORY,
        check=False,
        timeout=180,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    held = contents(out)
    assert set(held["videos"]) == set(GOOD) and held["rejects"].keys() == BAD.keys()


# --- exit codes ---------------------------------------------------------------------------------------------


def call(arguments: Sequence[object], monkeypatch: pytest.MonkeyPatch) -> int:
    """The command in this process: the exit code."""
    monkeypatch.setattr(sys, "argv", ["extract", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def in_this_process(*arguments: object) -> int:
    """As `extract`, where the start of a process is not what is looked at: the exit code."""
    if "tiny-vit" in arguments:
        import open_clip

        open_clip.add_model_config(TINY_MODELS)
    with pytest.MonkeyPatch.context() as patch:
        return call(arguments, patch)


@pytest.mark.usefixtures("forked_workers")
def test_too_many_rejects_end_with_1(src: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_this_process("--src", src, "--out", tmp_path / "c.zarr", *FAST) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: 3 of 8 inputs were rejected (37.5%), over --max-rejects 0.1")
    assert said.count("\n") == 1
    assert len(contents(tmp_path / "c.zarr")["videos"]) == 5  # what was stored stays


# --- interruptions ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("whole") / "c.zarr"
    assert in_this_process("--src", many, "--out", out, *FAST) == 0
    held = contents(out)
    assert len(held["videos"]) == 24
    return held


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["zarr", pytest.param("h5", marks=every_kill)])
def test_kill_9_at_random_moments_then_resume(
    suffix: str,
    many: Path,
    uninterrupted: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The whole process group dies, twice; then the same command ends as if nothing had happened."""
    out = tmp_path / f"c.{suffix}"
    rng = random.Random(suffix)
    for _ in range(2):
        killed = start("--src", many, "--out", out, *FAST)
        kill_while_writing(killed, out, after_seconds=rng.uniform(0.0, 2.0))
        assert n_live(out) <= 24
        out.with_name(out.name + ".lock.json").unlink(missing_ok=True)
    assert in_this_process("--src", many, "--out", out, *FAST) == 0
    assert "= 24 stored + 0 rejected: adds up" in capsys.readouterr().out
    assert contents(out) == uninterrupted
    assert sorted(p.name for p in tmp_path.iterdir() if "lock" not in p.name) == [f"c.{suffix}"]


@pytest.mark.slow
def test_a_run_that_slept_too_long_leaves_its_cache_to_who_took_over(
    many: Path, uninterrupted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines on a share whose locks are local."""
    command = ("--src", many, "--out", tmp_path / "c.zarr", *FAST)
    monkeypatch.setenv("ONEPASS_TEST_MACHINE", "a")
    first = start(*command)
    try:
        wait_for(lambda: is_writing(tmp_path / "c.zarr") and n_decoding(first.pid))
        os.kill(first.pid, signal.SIGSTOP)
        monkeypatch.setenv("ONEPASS_TEST_MACHINE", "b")
        second = extract(*command)
        assert second.returncode == 0, second.stderr
        assert f"taken over, since process {first.pid} on a" in second.stderr
    finally:
        os.kill(first.pid, signal.SIGCONT)
    late = finish(first)
    assert late.returncode == 3 and late.stderr.count("error:") == 1
    assert "c.zarr was taken over while this run did not answer" in late.stderr
    assert contents(tmp_path / "c.zarr") == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=every_kill),
        pytest.param(signal.SIGHUP, marks=every_kill),
    ],
)
def test_ctrl_c_ends_with_130_and_resumes(
    number: signal.Signals, many: Path, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    """To the whole group, as a terminal sends it: workers must not die noisily of it."""
    out = tmp_path / "c.zarr"
    process = start("--src", many, "--out", out, *FAST, "--report", tmp_path / "r.json")
    wait_for(lambda: is_writing(out) or process.poll() is not None)
    time.sleep(0.7)
    os.killpg(process.pid, number)
    done = finish(process)
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith(
        "interrupted: what was whole is committed; run the same command again to resume\n"
    )
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["interrupted"] and told["adds_up"] and told["not_reached"] > 0
    assert told["rejected"] == 0 and told["worker_restarts"] == 0
    assert n_live(out) == told["stored"]
    wait_for(lambda: group_is_gone(process.pid), seconds=10)
    assert in_this_process("--src", many, "--out", out, *FAST) == 0
    assert contents(out) == uninterrupted


@pytest.mark.slow
def test_a_second_extract_at_once_is_told_who_is_writing(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    first = start("--src", many, "--out", out, *FAST)
    try:
        wait_for(lambda: is_writing(out) or first.poll() is not None)
        os.kill(first.pid, signal.SIGSTOP)
        second = extract("--src", many, "--out", out, *FAST)
        os.kill(first.pid, signal.SIGCONT)
        assert second.returncode == 3
        assert f"is being written by process {first.pid} on " in second.stderr
        assert "--src" in second.stderr and second.stderr.count("\n") == 1  # the command of the other one
    finally:
        done = finish(first)
    assert done.returncode == 0 and "= 24 stored" in done.stdout


def _worker_libraries(parent: int) -> set[str]:
    """Shared libraries of the decode workers; a child that is still the parent's twin, before its exec, is none."""
    names: set[str] = set()
    for child in psutil.Process(parent).children():
        try:
            if any("spawn_main" in part for part in child.cmdline()):
                names |= {Path(entry.path).name for entry in child.memory_maps()}
        except psutil.Error:
            continue
    return names


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_live_decode_workers_have_not_loaded_torch(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    process = start("--src", many, "--out", out, *CLIP)
    try:
        wait_for(lambda: is_writing(out) or process.poll() is not None)
        wait_for(lambda: any("libav" in name for name in _worker_libraries(process.pid)))
        assert not [name for name in _worker_libraries(process.pid) if "torch" in name]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# --- labels and names ---------------------------------------------------------


@pytest.mark.slow
def test_labels_join_by_file_name_and_the_same_video_has_one_id_in_every_locale(tmp_path: Path) -> None:
    src, table = tmp_path / "src", tmp_path / "labels.csv"
    names = ("1 é.mp4", "2.mp4", "3.mp4")
    for number, name in enumerate(names):
        write_video(src / name, seconds=0.5, seed=number)
    (src / "é").mkdir()
    (src / "é" / "sources.csv").write_text("path,source\n2.mp4,tape 2\n", encoding="utf-8")
    table.write_text(
        "id,filename,label\n2,3.mp4,Fight\n3,2.mp4,NonFight\n1,1 é.mp4,Fight\n", encoding="utf-8"
    )
    command = [sys.executable, "-m", "tests.cli_entry", "--src", src, "--out", tmp_path / "c.zarr"]
    command += ["--labels", table, *FAST]
    for locale in ({"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONUTF8": "1"}):
        environment = {**os.environ, **locale, "COLUMNS": "200"}
        done = subprocess.run(list(map(str, command)), capture_output=True, cwd=REPOSITORY, env=environment)
        printed = done.stdout.decode()
        assert done.returncode == 0, printed + done.stderr.decode()
        assert "joined by column 'filename': 3 by exact path; e.g. " in printed
        assert "sources: 1 of 3 videos have a source" in printed
    assert "stored     3 (3 of them before this run)" in printed
    with open_cache(tmp_path / "c.zarr") as cache:
        told = dict(zip(cache.videos.id, cache.videos.label_name, strict=True))
    assert told == {"1 é.mp4": "Fight", "2.mp4": "NonFight", "3.mp4": "Fight"}
