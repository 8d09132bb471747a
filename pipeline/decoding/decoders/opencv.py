"""OpenCV: the classic reader, for comparison with earlier models. As with decord, damage is only visible on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from pipeline.decoding.decoders.base import Declared, DecodeProblem, DecoderName, FrameRef
from pipeline.decoding.decoders.timeline import Timed, Timeline
from pipeline.decoding.frames import RgbFrame


class OpenCVFrames:
    """Frames of one video through OpenCV's FFmpeg backend, on one thread. Raises `DecodeProblem` on open.

    OpenCV tells a frame's time only once it stands on it, so every frame is fetched before the next is grabbed.
    """

    decoder: DecoderName = "opencv"

    def __init__(self, path: Path) -> None:
        str(path).encode()  # a name that is not UTF-8 raises here and would crash OpenCV
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._capture.isOpened():
            raise DecodeProblem("unreadable-container", "OpenCV cannot open it")
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        n_frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = fps if np.isfinite(fps) and fps > 0 else 0.0
        seconds = n_frames / fps if fps and n_frames > 0 else 0.0
        self.declared = Declared(max(0, n_frames), fps, seconds, longest_seconds=seconds)
        self.n_frames = 0
        self.n_errors = 0
        self.tail_seconds = 0.0
        self.first_seconds: float | None = None
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[FrameRef]:
        timeline = Timeline(declared_fps=self.declared.fps, declared_seconds=self.declared.longest_seconds)
        held: tuple[float, RgbFrame] | None = None
        for pts, picture in timeline.run(self._decode()):
            if held is not None:
                yield FrameRef(held[0], pts, _converter(held[1]))
            held = (pts, picture)
        self.n_errors += timeline.repairs
        if held is not None:
            # OpenCV does not say; the rate in the header is an average, far from any interval where frames come unevenly
            self.tail_seconds = timeline.tail(timeline.last_gap_seconds)
            yield FrameRef(held[0], None, _converter(held[1]))

    def _decode(self) -> Iterator[Timed[RgbFrame]]:
        while self._capture.grab():
            ok, bgr = self._capture.retrieve()
            if not ok or bgr is None:
                self.n_errors += 1
                continue
            self.n_frames += 1
            seconds = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
            yield Timed(np.asarray(bgr, dtype=np.uint8), seconds)

    def close(self) -> None:
        """Free the decoder."""
        self._capture.release()


def _converter(bgr: RgbFrame) -> Callable[[], RgbFrame]:
    def rgb() -> RgbFrame:
        if bgr.ndim == 2:
            return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    return rgb
