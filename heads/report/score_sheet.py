"""What `onepass predict` gives: scores of cache after cache, written at the end, and the lines that go with them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cache.objects.address import shown
from cache.reader import open_cache
from heads.report.score_file import Row, agreement_lines, score_lines, score_rows, write_scores

if TYPE_CHECKING:
    from rich.console import Console

    from heads.report.timeline_file import OverTime
    from heads.trained.head import TrainedHead


class ScoreSheet:
    """Rows of everything that was scored. over_time: gets the same caches, and is written beside."""

    def __init__(
        self,
        head: TrainedHead,
        out: Path,
        console: Console,
        over_time: OverTime | None,
        *,
        ignore_libraries: bool,
    ) -> None:
        self._head, self.out, self._console, self._over_time = head, out, console, over_time
        self._ignore_libraries = ignore_libraries
        self.rows: list[Row] = []

    def require_fits(self, paths: Iterable[Path]) -> None:
        """Raise what scoring them would raise for a cache that is none or does not fit the head."""
        for path in paths:
            with open_cache(path) as cache:
                self._head.require_fits(cache, ignore_libraries=self._ignore_libraries)

    def add(self, path: Path, given: Path | str) -> None:
        """Score a cache. given: the argument that its videos came from."""
        name = os.fsencode(shown(given)).decode("utf-8", "backslashreplace")
        with open_cache(path) as cache:
            predictions = self._head.predict(cache, ignore_libraries=self._ignore_libraries)
            agreement = agreement_lines(predictions, cache, self._head)
            if self._over_time is not None:
                self._over_time.add(cache, name, ignore_libraries=self._ignore_libraries)
            self.rows += score_rows(predictions, cache, path=name)
        for stream, count in predictions.lacking.items():
            self._console.print(f"{count} of {len(predictions)} videos lack stream {stream}", markup=False)
        for line in agreement:
            self._console.print(line)

    def write(self) -> None:
        """Write all files, and say what is in them."""
        write_scores(self.out, self.rows)
        for line in score_lines(self.rows, self._head):
            self._console.print(line)
        self._console.print(f"scores     {self.out}")
        if self._over_time is not None:
            self._console.print(self._over_time.write())
