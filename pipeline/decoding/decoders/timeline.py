"""Turns the times that a container gives its frames into a timeline that starts at 0 and always moves forward.

Damaged files carry missing, repeated, backward and absurd times. A frame is placed with a look at the few that follow, so that
what is wrong with one frame's time stays with that frame: it is put between its neighbours, and the next good time counts as it
is (repairs never add up). Only where the clock itself was set anew (nothing that follows fits what came before) later times
keep their distances. Every repair is counted.

Some containers know decoding times only, and what then passes for presentation times is made up and steps back at every B-frame.
There the decoder's own order with the decoding times is the truth, as in FFmpeg's best-effort timestamps (libavcodec/decode.c:
`guess_correct_pts`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

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
LOOKAHEAD_FRAMES = 4
"""Frames that are looked at before one is placed; each is a decoded frame that waits."""
STEPS_BACK = 3
"""Presentation times that stepped back this often beside flawless decoding times are made up."""
SAME_SECONDS = 1e-6
"""Times closer than this are the same."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """A decoded frame in the decoder's order, with what the container says of its time, in seconds; None or 0: nothing."""

    item: T
    pts_seconds: float | None
    dts_seconds: float | None = None
    duration_seconds: float = 0.0


class Timeline:
    """`run` gives every frame with its time in seconds since the first one, strictly later than the frame before.

    declared_fps, declared_seconds: what the header says, 0 for nothing. decode_times: the container knows decoding times only.
    """

    def __init__(self, *, declared_fps: float, declared_seconds: float, decode_times: bool = False) -> None:
        declared_interval = 1.0 / declared_fps if declared_fps > 0 else FALLBACK_INTERVAL_SECONDS
        self._nominal = min(declared_interval, MAX_NOMINAL_SECONDS)
        self._declared_seconds = declared_seconds
        self._decode_times = decode_times
        self._offset = 0.0  # decoding time minus the clock in use
        self._first_dts = 0.0
        self._previous_dts: float | None = None
        self._dts_faults = 0
        self._steps_back = 0
        self._origin: float | None = None
        self.first_seconds: float | None = None
        """The first frame's time on the container's clock, where it had one."""
        self._last: float | None = None
        self._longest = 0.0
        self._shortest = float("inf")
        self._gap = 0.0
        self.repairs = 0
        """Frames whose time could not be right."""
        self.n_untimed = 0
        """Frames that carried no time at all."""
        self.switched = False
        """Whether presentation times turned out to be made up, and decoding times were taken."""

    def run(self, frames: Iterable[Timed[T]]) -> Iterator[tuple[float, T]]:
        """Place every frame, holding LOOKAHEAD_FRAMES back."""
        held: deque[Timed[T]] = deque()
        for frame in frames:
            held.append(frame)
            if len(held) > LOOKAHEAD_FRAMES:
                yield self._place_first(held), held.popleft().item
        while held:
            yield self._place_first(held), held.popleft().item

    def place_all(self, frames: Iterable[Timed[T]]) -> list[float]:
        """The times of all frames."""
        return [time for time, _ in self.run(frames)]

    def _place_first(self, held: Sequence[Timed[T]]) -> float:
        frame = held[0]
        self.n_untimed += frame.pts_seconds is None and frame.dts_seconds is None
        clock = [self._clock(item) for item in held]
        time = self._place(clock[0], clock[1:], self._step(frame))
        dts = frame.dts_seconds
        if dts is not None:
            before = self._previous_dts
            self._dts_faults += before is not None and dts <= before
            self._first_dts = dts if before is None else self._first_dts
            self._previous_dts = dts
            if self._steps_back >= STEPS_BACK and not self._dts_faults and not self._decode_times:
                self._decode_times = self.switched = True
                self._offset = self._first_dts - (self._origin or 0.0)
                self.repairs -= self._steps_back  # nothing is broken
        self._last = time
        return time

    def _clock(self, frame: Timed[T]) -> float | None:
        """The frame's time on the clock in use."""
        if self._decode_times:
            return None if frame.dts_seconds is None else frame.dts_seconds - self._offset
        return frame.dts_seconds if frame.pts_seconds is None else frame.pts_seconds

    def _step(self, frame: Timed[T]) -> float:
        """Where the frame after the last one is put if its time says nothing."""
        # where decoding times are used, a packet's duration is a tick of the container's clock, whatever the frames' rate
        said = (self._gap if self._decode_times else 0.0) or frame.duration_seconds
        return min(said, MAX_NOMINAL_SECONDS) if said > 0 else self._nominal

    def _place(self, raw: float | None, later: Sequence[float | None], step: float) -> float:
        if self._last is None:
            self._origin = self.first_seconds = raw
            return 0.0
        last = self._last
        if self._origin is None:  # no frame so far had a time
            if raw is not None:
                self._origin = raw - (last + step)
            return last + step
        follows = [
            (n, time - self._origin)
            for n, time in enumerate(later, start=2)
            if time is not None and self._believable(time - self._origin - last, time - self._origin)
        ]
        if raw is None:
            return self._between(last, follows[:1], step)
        time = raw - self._origin
        gap = time - last
        sooner = [(n, after) for n, after in follows if after < time - SAME_SECONDS]
        outlier = len(sooner) > len(follows) / 2  # most of what follows contradicts it
        if self._believable(gap, time) and not outlier:
            self._gap, self._longest, self._shortest = gap, max(self._longest, gap), min(self._shortest, gap)
            return time
        self.repairs += 1
        self._steps_back += gap <= SAME_SECONDS or outlier
        if follows:
            return self._between(last, (sooner if outlier else follows)[:1], step)
        self._origin = raw - (last + step)  # the clock was set anew
        return last + step

    def _believable(self, gap: float, time: float) -> bool:
        too_far = gap > MAX_GAP_SECONDS and time > self._declared_seconds + MAX_GAP_SECONDS
        return gap > SAME_SECONDS and not too_far and gap <= MAX_STILL_SECONDS

    @property
    def last_gap_seconds(self) -> float:
        """The last interval between two frames that could be right; 0 where there was none."""
        return self._gap

    @property
    def uneven(self) -> bool:
        """Whether frames followed each other at an uneven rate."""
        return self._longest - self._shortest > 2 * ROUNDING_SECONDS

    @staticmethod
    def _between(last: float, following: Sequence[tuple[int, float]], step: float) -> float:
        """An even share of the way to the next good time, `step` at most."""
        shares = [(time - last) / n for n, time in following]
        return last + min([step, *shares])

    def tail(self, shown_seconds: float) -> float:
        """How long the last frame is shown, given what the container says (0: nothing).

        The end of the last frame often comes from the header, so it is believed only between the shortest and the longest
        interval that were seen between frames, or up to MAX_SINGLE_SECONDS where there is one frame only.
        """
        shown = shown_seconds if shown_seconds > 0 else self._nominal
        limit = self._longest or MAX_SINGLE_SECONDS
        if self._longest and shown < self._shortest - ROUNDING_SECONDS:
            shown = self._shortest
        return shown if shown <= limit + ROUNDING_SECONDS else limit
