"""Turns raw presentation times into a timeline that starts at 0 and always moves forward.

Damaged files carry missing, repeated, backward and absurd timestamps. Frames without a usable time are placed one nominal
interval after the frame before; a jump that neither the header nor patience explains is closed up. Each repair is counted.
"""

from __future__ import annotations

MAX_GAP_SECONDS = 60.0
"""A gap longer than this that ends beyond the declared duration is a broken timestamp, not a still picture."""
MAX_STILL_SECONDS = 600.0
"""No gap longer than this is believed, whatever the header says: a broken one would cost hours of repeated frames."""
MAX_NOMINAL_SECONDS = 10.0
"""Frames without a usable time are placed no further apart than this, whatever rate the header declares."""
MAX_SINGLE_SECONDS = 1.0
"""How long a lone frame is shown at most: nothing but the header says how long, and all its tokens would be equal."""
ROUNDING_SECONDS = 0.002
"""Intervals of one frame rate differ by this much where a container rounds times to milliseconds."""
FALLBACK_INTERVAL_SECONDS = 1 / 25
"""Frame interval where neither the header nor earlier frames give one: PAL's 25 frames per second."""


class Timeline:
    """Feed `place` the raw time of every decoded frame (seconds or None), in order; get seconds since the first frame."""

    def __init__(self, *, declared_fps: float, declared_seconds: float) -> None:
        declared_interval = 1.0 / declared_fps if declared_fps > 0 else FALLBACK_INTERVAL_SECONDS
        self._nominal = min(declared_interval, MAX_NOMINAL_SECONDS)
        self._declared_seconds = declared_seconds
        self._origin: float | None = None
        self._last: float | None = None
        self._longest = 0.0
        self.repairs = 0

    def place(self, raw_seconds: float | None) -> float:
        """Time of this frame in seconds since the first frame; strictly later than the frame before."""
        if self._last is None:
            self._origin = raw_seconds
            self._last = 0.0
            return 0.0
        if raw_seconds is None:
            time = self._last + self._nominal
        elif self._origin is None:  # the first frame that has a time
            time = self._last + self._nominal
            self._origin = raw_seconds - time
        else:
            time = raw_seconds - self._origin
            gap = time - self._last
            too_far = gap > MAX_GAP_SECONDS and time > self._declared_seconds + MAX_GAP_SECONDS
            if gap <= 0 or too_far or gap > MAX_STILL_SECONDS:
                self.repairs += 1
                time = self._last + self._nominal
                self._origin = raw_seconds - time
            else:
                self._longest = max(self._longest, gap)
        self._last = time
        return time

    def tail(self, shown_seconds: float) -> float:
        """How long the last frame is shown, given what the container says (0: nothing).

        The end of the last frame often comes from the header, so it is believed only up to the longest interval that was seen
        between frames, or up to MAX_SINGLE_SECONDS where there is one frame only.
        """
        shown = shown_seconds if shown_seconds > 0 else self._nominal
        limit = self._longest or MAX_SINGLE_SECONDS
        return shown if shown <= limit + ROUNDING_SECONDS else limit
