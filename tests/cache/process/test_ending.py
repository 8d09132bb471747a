"""How commands end: closed and cut outputs, other encodings, signals, limits; in processes of their own where it needs one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from cache.process.ending import expand_home, in_one_line, run_app
from cache.process.os_errors import explain

REPOSITORY = Path(__file__).parents[3]
COMMAND = """
import sys, time
from pathlib import Path
import typer
from cache.process.ending import run_app
from cache.process.terminal import make_console

def command(text: str, done: Path, seconds: float = 0.0, lines: int = 2000) -> None:
    console = make_console()
    console.print(text)
    console.rule(text)
    typer.echo(text)
    for _ in range(lines):
        print(text)
    print(text, file=sys.stderr)
    try:
        done.with_suffix(".begun").touch()
        time.sleep(seconds)
        done.touch()
    finally:
        done.with_suffix(".left").touch()

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run_app(app)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "command.py"
    path.write_text(COMMAND, encoding="utf-8")
    return path


def shell(
    line: str, script: Path, text: str = "text", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """`line` with $RUN for the command, which makes `done` when its work is done."""
    run = f"{sys.executable} {script} '{text}' {script.with_name('done')}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line.replace('$RUN', run)}"],
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_end_nothing(closed: str, script: Path) -> None:
    ended = shell(f"$RUN {closed}", script)
    assert ended.returncode == 0, ended.stderr
    assert script.with_name("done").exists()
    assert b"Traceback" not in ended.stderr and b"Exception" not in ended.stderr


def test_a_reader_that_leaves_ends_nothing(script: Path) -> None:
    ended = shell("$RUN --seconds 0.5 | head -1", script)
    assert ended.returncode == 0
    assert (ended.stdout, ended.stderr) == (b"text\n", b"text\n")
    assert script.with_name("done").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_a_full_disk_lost_is_told_after_the_work(script: Path) -> None:
    ended = shell("$RUN > /dev/full", script)
    assert ended.returncode == 5
    assert script.with_name("done").exists()
    assert ended.stderr == b"text\nerror: what was printed could not be written: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_the_encoding_lacks_are_escaped(encoding: str, script: Path) -> None:
    ended = shell(
        "$RUN --lines 1", script, "é\u4e2d[x]a[/y] :fire:", PYTHONUTF8="1", PYTHONIOENCODING=encoding
    )
    assert ended.returncode == 0, ended.stderr
    shown = "é\u4e2d[x]a[/y] :fire:".encode(encoding, "backslashreplace")
    assert ended.stdout.count(shown) >= 3 and ended.stderr.count(shown) == 1


def signalled(script: Path, number: int, before: list[str]) -> tuple[int, bytes]:
    done = script.with_name("done")
    process = subprocess.Popen(
        [*before, sys.executable, str(script), "x", str(done), "--seconds", "3"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    limit = time.monotonic() + 60
    while not done.with_suffix(".begun").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_unwinds(number: signal.Signals, script: Path) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # else ignored under nohup, as by what starts there
    try:
        code, said = signalled(script, number, [])
    finally:
        signal.signal(number, before)
    assert code == 130 and b"Traceback" not in said
    assert said.splitlines()[-1] == b"error: interrupted"
    assert script.with_name("done.left").exists() and not script.with_name("done").exists()


def test_a_hang_up_that_is_ignored_on_entry_stays_ignored(script: Path) -> None:
    code, _ = signalled(script, signal.SIGHUP, ["nohup"])
    assert code == 0 and script.with_name("done").exists()


def test_lines_of_a_message_do_not_run_together() -> None:
    said = "no label matched\n  videos without a label: a,\n  b\n\nlabels  without a video: c.\nGive another file"
    assert in_one_line(said) == (
        "no label matched; videos without a label: a, b; labels without a video: c. Give another file"
    )


def test_home_is_expanded_in_every_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home("~/x.zarr") == "/home/me/x.zarr"
    assert expand_home("--out=~/x.zarr") == "--out=/home/me/x.zarr"
    for word in ("x~/y", "./~/x", "--set", "lr=~", "~nobody-of-this-name/x", "a=~/b"):
        assert expand_home(word) == word


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), 5, "ulimit -n"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), 5, "memory"),
        (MemoryError(), 5, "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 5, "memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 5, "ulimit -v"),
        (RuntimeError("can't start new thread"), 5, "ulimit -u"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), 5, "ulimit -u"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), 5, "a/b"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG), "a/b"), 5, "ulimit -f"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/x']"), 2, "TMPDIR"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "a/b"), 2, "a/b"),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "a/b"), 2, "a/b"),
        (NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "a/b"), 2, "a/b"),
    ],
)
def test_what_the_system_refuses_is_one_line(error: BaseException, code: int, words: str) -> None:
    explained = explain(error)
    assert explained is not None
    assert explained[1] == code and words in explained[0] and "\n" not in explained[0]


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2"), FileNotFoundError(2, "x", "y"), ImportError("no av")]
)
def test_our_own_faults_keep_their_traceback(error: Any) -> None:
    assert explain(error) is None


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([""], "the first argument: is empty"),
        (["a", "--src", ""], "what follows --src: is empty"),
        (["a", "--src="], "--src: is empty"),
    ],
)
def test_an_empty_argument_is_no_path(
    words: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`extract --src "$UNSET"` read the folder that it stood in: an empty path is that one."""
    taken: list[Path] = []
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def command(path: Path, src: Path = Path("here")) -> None:
        taken.extend((path, src))

    with pytest.raises(SystemExit) as ended:
        run_app(app, args=words)
    assert (ended.value.code, taken) == (2, [])
    assert capsys.readouterr().err.startswith(f"error: {what}")
    with pytest.raises(SystemExit) as ended:
        run_app(app, args=["a", "--src", "x="])
    assert (ended.value.code, taken) == (0, [Path("a"), Path("x=")])
