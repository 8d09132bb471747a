"""How long something was under way, where several things overlap."""

from __future__ import annotations

import heapq


class BusyTime:
    """Seconds during which at least one of several overlapping spans was open, by any one clock."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Over all spans that have ended and that no open one began before."""
        self._until = float("-inf")
        self._open: dict[int, float] = {}
        self._ended: list[tuple[float, float]] = []
        self._tickets = 0

    def begin(self, at_seconds: float) -> int:
        """Open a span; the ticket ends it."""
        self._tickets += 1
        self._open[self._tickets] = at_seconds
        return self._tickets

    def end(self, ticket: int, at_seconds: float) -> None:
        """Close a span. Spans may end in any order."""
        heapq.heappush(self._ended, (self._open.pop(ticket), at_seconds))
        oldest_open = min(self._open.values(), default=float("inf"))
        while self._ended and self._ended[0][0] <= oldest_open:
            began, ended = heapq.heappop(self._ended)
            self.seconds += max(0.0, ended - max(began, self._until))
            self._until = max(self._until, ended)
