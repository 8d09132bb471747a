"""A live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.reporting import progress
from pipeline.reporting.progress import ExtractProgress


def run(console: Console) -> None:
    with ExtractProgress(3, console=console) as bar:
        bar.tokens(5)
        bar.video(rejected=False)
        bar.video(rejected=True)
        bar.video(rejected=False)


def test_a_log_gets_one_plain_line_at_the_end() -> None:
    out = io.StringIO()
    run(Console(file=out, width=200))
    lines = out.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("3/3 videos, ") and "tokens/s, 1 rejected" in lines[0]
    assert "\x1b" not in out.getvalue()


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    out = io.StringIO()
    run(Console(file=out, width=200))
    assert [line.split(" ")[0] for line in out.getvalue().splitlines()] == ["1/3", "2/3", "3/3"]


def test_a_terminal_gets_a_bar() -> None:
    out = io.StringIO()
    run(Console(file=out, force_terminal=True, width=120))
    assert "3/3" in out.getvalue() and "1 rejected" in out.getvalue() and "tokens/s" in out.getvalue()


def test_nothing_to_do_is_fine() -> None:
    with ExtractProgress(0, console=Console(file=io.StringIO())):
        pass
