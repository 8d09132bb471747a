"""Score over time as a file: one CSV row a window, or one JSON object that says what its numbers mean."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from cache.errors import InputError
from cache.process.outputs import write_output
from heads.trained.head import TrainedHead
from heads.trained.timeline import MEANING, Method, Timeline, check_request, score_over_time

if TYPE_CHECKING:
    from cache.reader import Cache

SUFFIXES = (".csv", ".json")
MEANING_SUFFIX = ".txt"
COLUMNS = (
    "id",
    "start_seconds",
    "end_seconds",
    "score",
    "method",
    "video_probability",
    "threshold",
    "grid",
    "weights",
    "path",
)
"""Of the CSV file. What a method's scores mean is in a text file beside it, FILE.csv.txt.
path is the argument of predict that the video came from: ids are unique within one only.
"""


@dataclass(frozen=True, slots=True)
class TimelineRequest:
    """What `predict --timeline` was asked for. Raises InputError unless the path ends in .csv or .json.

    window_seconds: width of a sliding window; None is one token of the grid.
    """

    path: Path
    method: Method = "sliding"
    window_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.path.suffix not in SUFFIXES:
            raise InputError(f"--timeline {self.path}: scores over time are written as .csv or .json")

    def check(self, head: TrainedHead) -> None:
        """Raise InputError when the request does not fit the head."""
        check_request(head, self.method, self.window_seconds)

    def timelines(
        self, head: TrainedHead, cache: Cache, *, ignore_libraries: bool = False
    ) -> Iterator[Timeline]:
        """All videos of a cache, as `score_over_time`."""
        return score_over_time(
            head,
            cache,
            method=self.method,
            window_seconds=self.window_seconds,
            ignore_libraries=ignore_libraries,
        )


class OverTime:
    """Timelines of cache after cache, written at the end. Raises InputError for a request that does not fit the head."""

    def __init__(self, request: TimelineRequest, head: TrainedHead) -> None:
        request.check(head)
        self._request, self._head = request, head
        self._found: list[Timeline] = []

    def add(self, cache: Cache, path: str, *, ignore_libraries: bool) -> None:
        """All videos of a cache. path: the argument that they came from."""
        found = self._request.timelines(self._head, cache, ignore_libraries=ignore_libraries)
        self._found += [replace(timeline, path=path) for timeline in found]

    def write(self) -> str:
        """Write the file; returns a line that says what is in it."""
        n_windows = write_timelines(self._request, self._found, self._head)
        meaning = f"{self._request.method}: {MEANING[self._request.method]}"
        return f"timeline   {self._request.path}: {n_windows} windows of {len(self._found)} videos; {meaning}"


def write_timelines(request: TimelineRequest, timelines: Iterable[Timeline], head: TrainedHead) -> int:
    """Write all timelines in one step (into a device or a pipe: straight); returns how many windows there were.

    A CSV file gets the meaning of its scores in a text file beside it; a device or a pipe does not.

    Raises InputError when the request does not fit the head, InputError or StorageFull when the file cannot
    be written.
    """
    request.check(head)
    file = io.StringIO(newline="")
    if request.path.suffix == ".csv":
        n_windows = _write_csv(file, timelines, head, request.method)
    else:
        n_windows = _write_json(file, timelines, head, request.method, request.window_seconds)
    write_output("--timeline", request.path, file.getvalue().encode("utf-8", "surrogateescape"))
    if request.path.suffix == ".csv" and request.path.is_file():
        beside = request.path.with_name(request.path.name + MEANING_SUFFIX)
        write_output(
            "--timeline", beside, f"score, by {request.method}: {MEANING[request.method]}\n".encode()
        )
    return n_windows


def _write_csv(file: TextIO, timelines: Iterable[Timeline], head: TrainedHead, method: Method) -> int:
    info = head.info
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    n_windows = 0
    for timeline in timelines:
        whole = (method, timeline.probability, info.threshold.threshold, info.grid, info.weights)
        for start, end, score in _windows(timeline):
            writer.writerow((timeline.id, start, end, score, *whole, timeline.path))
        n_windows += len(timeline)
    return n_windows


def _write_json(
    file: TextIO,
    timelines: Iterable[Timeline],
    head: TrainedHead,
    method: Method,
    window_seconds: float | None,
) -> int:
    info = head.info
    n_windows = 0
    videos = []
    for timeline in timelines:
        n_windows += len(timeline)
        windows = [
            {"start_seconds": start, "end_seconds": end, "score": score}
            for start, end, score in _windows(timeline)
        ]
        videos.append(
            {
                "id": timeline.id,
                "path": timeline.path,
                "probability": timeline.probability,
                "windows": windows,
            }
        )
    values = {
        "method": method,
        "meaning": MEANING[method],
        "grid": info.grid,
        "window": "one token of the grid"
        if window_seconds is None
        else f"{window_seconds:g} s around a token",
        "threshold": info.threshold.threshold,
        "label_names": list(info.label_names),
        "weights": info.weights,
        "random_weights": info.random_weights,
        "videos": videos,
    }
    json.dump(values, file, indent=1, allow_nan=False)
    file.write("\n")
    return n_windows


def _windows(timeline: Timeline) -> Iterator[tuple[float, float, float]]:
    """Start and end in seconds, to 0.1 ms, and the score."""
    spans = timeline.spans.astype(np.float64).round(4)
    yield from zip(spans[:, 0].tolist(), spans[:, 1].tolist(), timeline.scores.tolist(), strict=True)
