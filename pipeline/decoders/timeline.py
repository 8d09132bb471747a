"""Turns raw presentation times into a timeline that starts at 0 and always moves forward.

Damaged files carry missing, repeated, backward and absurd timestamps. Frames without a usable time are placed one nominal
interval after the frame before; a jump that neither the header nor patience explains is closed up. Each repair is counted.
"""

from __future__ import annotations

MAX_GAP_SECONDS = 60.0
"""A gap longer than this that ends beyond the declared duration is a broken timestamp, not a still picture."""
FALLBACK_INTERVAL_SECONDS = 1 / 25
"""Frame interval where neither the header nor earlier frames give one: PAL's 25 frames per second."""


class Timeline:
    """Feed `place` the raw time of every decoded frame (seconds or None), in order; get seconds since the first frame."""

    def __init__(self, *, declared_fps: float, declared_seconds: float) -> None:
        self._nominal = 1.0 / declared_fps if declared_fps > 0 else FALLBACK_INTERVAL_SECONDS
        self._declared_seconds = declared_seconds
        self._origin: float | None = None
        self._last: float | None = None
        self._n_intervals = 0
        self.repairs = 0

    @property
    def nominal_seconds(self) -> float:
        """The declared frame interval, or the mean of the intervals seen where nothing was declared."""
        return self._nominal

    def place(self, raw_seconds: float | None) -> float:
        """Time of this frame in seconds since the first frame; strictly later than the frame before."""
        if self._last is None:
            self._origin = raw_seconds if raw_seconds is not None else 0.0
            self._last = 0.0
            return 0.0
        assert self._origin is not None
        if raw_seconds is None:
            time = self._last + self._nominal
        else:
            time = raw_seconds - self._origin
            gap = time - self._last
            too_far = gap > MAX_GAP_SECONDS and time > self._declared_seconds + MAX_GAP_SECONDS
            if gap <= 0 or too_far:
                self.repairs += 1
                time = self._last + self._nominal
                self._origin = raw_seconds - time
        self._last = time
        return time
