"""A live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOG_SECONDS = 15.0


class ExtractProgress:
    """Context manager that shows videos done, tokens per second, time left and rejects."""

    def __init__(self, total: int, *, console: Console, done_text: str = "videos") -> None:
        self._console = console
        self._total = total
        self._began = time.monotonic()
        self._last_line = self._began
        self._done = 0
        self._rejects = 0
        self._tokens = 0
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{done_text}  {{task.fields[rate]}}", markup=False),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[rejects]} rejected", markup=False),
                console=console,
            )
            self._task = self._bar.add_task("extract", total=total, rate="", rejects=0)

    def __enter__(self) -> ExtractProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def tokens(self, count: int) -> None:
        """That many tokens more."""
        self._tokens += count
        if self._bar:
            self._bar.update(self._task, rate=f"{self._rate():.1f} tokens/s")

    def video(self, *, rejected: bool) -> None:
        """One video more has ended."""
        self._done += 1
        self._rejects += rejected
        if self._bar:
            self._bar.update(self._task, completed=self._done, rejects=self._rejects)
        elif time.monotonic() - self._last_line >= LOG_SECONDS or self._done == self._total:
            self._last_line = time.monotonic()
            elapsed = self._last_line - self._began
            left = elapsed / self._done * (self._total - self._done)
            self._console.print(
                f"{self._done}/{self._total} videos, {self._rate():.1f} tokens/s, {self._rejects} rejected, "
                f"{elapsed:.0f} s, about {left:.0f} s left",
                highlight=False,
            )

    def _rate(self) -> float:
        return self._tokens / max(time.monotonic() - self._began, 1e-9)
