"""What is said while a store does not answer: which one, for how long, after how many tries. Seldom, whoever asks it."""

from __future__ import annotations

import math
import sys
import threading
import time

FIRST_SECONDS = 10.0
"""A silence shorter than this is not worth a line; from then on there is one whenever it has doubled."""
PAUSE_SECONDS = 60.0
"""Between the first lines of two silences."""


class Silence:
    """Of one store, from the first request in vain to the next answer; threads share it. Its lines go to stderr."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._since, self._n_tries, self._told_at = 0.0, 0, -math.inf
        self._next_seconds = FIRST_SECONDS

    def goes_on(self, why: str, asked_at: float) -> None:
        """A request made at `asked_at` (time.monotonic) was in vain."""
        with self._lock:
            now = time.monotonic()
            self._since = self._since or asked_at
            self._n_tries += 1
            seconds = now - self._since
            untold = self._next_seconds == FIRST_SECONDS
            if seconds < self._next_seconds or (untold and now - self._told_at < PAUSE_SECONDS):
                return
            self._next_seconds, self._told_at = 2 * seconds, now
            tries = "1 try" if self._n_tries == 1 else f"{self._n_tries} tries"
            self._say(f"waiting for {self._url} for {seconds:.0f} s by now, {tries} in vain: {why}")

    def ended(self) -> None:
        """An answer came."""
        with self._lock:
            if self._next_seconds != FIRST_SECONDS:
                self._say(f"{self._url} answers again, after {time.monotonic() - self._since:.0f} s")
            self._since, self._n_tries, self._next_seconds = 0.0, 0, FIRST_SECONDS

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
