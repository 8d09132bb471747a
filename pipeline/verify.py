"""`onepass verify`: are the stored features right? Videos are decoded again and run plainly, one window at a time.

The plain side shares nothing with the fast one but the decoder that each video was stored with: frames are chosen with a
search over all timestamps, preprocessing is the model's own on whole frames, the model is the published one in float32, eval
mode, batch of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from cache.errors import FingerprintMismatch
from cache.reader import Cache
from cache.schema import VideoRow
from pipeline.backbones.base import Backbone
from pipeline.decoders.base import DecodeProblem, DecoderName, open_frames
from pipeline.frames import RgbFrame
from pipeline.sampling import TIE_SECONDS, Sampling
from pipeline.worker import file_digest

MAX_RELATIVE_ERROR = 1e-3
"""Bound for `--precision fp32`: largest absolute difference over the largest absolute value of the token."""
MIN_COSINE = 0.999
"""Bound for every precision."""
TOKENS_A_VIDEO = 4


@dataclass(frozen=True, slots=True)
class Comparison:
    """One stored token against the plain run."""

    video_id: str
    stream: str
    index: int
    cosine: float
    relative_error: float


@dataclass(frozen=True, slots=True)
class StreamVerdict:
    """Worst values of one stream and whether they are within the bound of its precision."""

    stream: str
    precision: str
    n_tokens: int
    worst_cosine: float
    worst_relative_error: float

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.precision == "fp32":
            return f"relative error <= {MAX_RELATIVE_ERROR:g}, cosine >= {MIN_COSINE}"
        return f"cosine >= {MIN_COSINE}"

    @property
    def ok(self) -> bool:
        """Whether the worst token is within the bound."""
        within = self.precision != "fp32" or self.worst_relative_error <= MAX_RELATIVE_ERROR
        return self.n_tokens > 0 and self.worst_cosine >= MIN_COSINE and within


def check_weights(cache: Cache, backbones: Mapping[str, Backbone]) -> None:
    """The plain models must have the weights the cache was made with. Raises FingerprintMismatch."""
    for name, backbone in backbones.items():
        stored, here = cache.streams[name].fingerprint["weights"], backbone.fingerprint()["weights"]
        if stored["digest"] != here["digest"]:
            raise FingerprintMismatch(
                f"stream {name}: the cache was made with weights {stored['digest'][:19]}..., these are "
                f"{here['digest'][:19]}...; give the same file with --{name}-weights"
            )


def compare_video(
    cache: Cache, index: int, path: Path, backbones: Mapping[str, Backbone], *, rng: np.random.Generator
) -> Iterator[Comparison]:
    """Compare up to TOKENS_A_VIDEO tokens of each stream of one video with the plain run.

    Raises DecodeProblem where the file changed or can no longer be decoded, or where tokens are missing or too many.
    """
    row = cache.videos.row(index)
    try:
        digest = file_digest(str(path))
    except OSError as error:
        raise DecodeProblem("missing-file", f"cannot be read: {error.strerror or error}") from error
    if digest != row.digest:
        raise DecodeProblem("unreadable-container", f"the file changed since it was extracted ({digest} now)")
    times, duration = _frame_times(path, row)
    for name, backbone in backbones.items():
        stored = cache.tokens(name, index)
        expected = plain_token_count(duration, backbone.plan.sampling)
        if len(stored.values) != expected:
            raise DecodeProblem(
                "decode-errors", f"{name}: {len(stored.values)} tokens are stored, {expected} were due"
            )
        chosen = np.arange(len(stored.values))
        if len(chosen) > TOKENS_A_VIDEO:
            chosen = np.sort(rng.choice(chosen, TOKENS_A_VIDEO, replace=False))
        wanted = {
            int(token): plain_frame_indices(times, duration, int(token), backbone.plan.sampling)
            for token in chosen
        }
        for token, frames in _windows(path, row, wanted):
            plain = backbone.embed_plainly(frames)
            yield _compare(row.id, name, token, stored.values[token], plain)


def plain_token_count(duration: float, sampling: Sampling) -> int:
    """Number of tokens, straight from the definition: windows until one reaches the end."""
    last = max(0, len(_grid(duration, sampling)) - sampling.window)
    return -(-last // sampling.stride) + 1


def _grid(duration: float, sampling: Sampling) -> NDArray[np.float64]:
    return np.arange(0, max(1, int(np.ceil((duration - TIE_SECONDS) * sampling.fps)))) / sampling.fps


def plain_frame_indices(
    times: NDArray[np.float64], duration: float, token: int, sampling: Sampling
) -> list[int]:
    """Frames behind a token, straight from the definition: nearest frame to each of the window's grid points."""
    grid = _grid(duration, sampling)
    first = token * sampling.stride
    if first + sampling.window > len(grid):
        first = max(0, len(grid) - sampling.window)
    samples = grid[first : first + sampling.window]
    distances = [np.abs(times - t) for t in samples]
    # the earlier frame wins a tie
    nearest = [int(np.argmax(away <= away.min() + 2 * TIE_SECONDS)) for away in distances]
    return nearest + [nearest[-1]] * (sampling.window - len(nearest))


def _frame_times(path: Path, row: VideoRow) -> tuple[NDArray[np.float64], float]:
    source = open_frames(path, _decoder(row))
    try:
        times = [frame.pts_seconds for frame in source]
    finally:
        source.close()
    return np.asarray(times), times[-1] + source.tail_seconds


def _windows(
    path: Path, row: VideoRow, wanted: Mapping[int, list[int]]
) -> Iterator[tuple[int, list[RgbFrame]]]:
    """Decode once more and give each wanted token its frames at their own size, keeping no more than it must."""
    kept: dict[int, RgbFrame] = {}
    due = sorted(wanted.items(), key=lambda item: item[1][-1])
    source = open_frames(path, _decoder(row))
    try:
        for index, frame in enumerate(source):
            if any(index in frames for _, frames in due):
                kept[index] = frame.rgb()
            while due and due[0][1][-1] <= index:
                token, frames = due.pop(0)
                yield token, [kept[i] for i in frames]
                needed = {i for _, later in due for i in later}
                kept = {i: pixels for i, pixels in kept.items() if i in needed}
            if not due:
                return
    finally:
        source.close()


def _decoder(row: VideoRow) -> DecoderName:
    for known in get_args(DecoderName):
        if known == row.decoder:
            decoder: DecoderName = known
            return decoder
    raise DecodeProblem(
        "unreadable-container", f"stored with decoder {row.decoder!r}, which this version does not know"
    )


def _compare(
    video_id: str, stream: str, index: int, stored: NDArray[Any], plain: NDArray[np.float32]
) -> Comparison:
    a, b = stored.astype(np.float64), plain.astype(np.float64)
    cosine = float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30))
    relative = float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30))
    return Comparison(video_id, stream, index, cosine, relative)


def verdicts(cache: Cache, comparisons: list[Comparison]) -> list[StreamVerdict]:
    """Worst values by stream."""
    found = []
    for name, info in cache.streams.items():
        mine = [c for c in comparisons if c.stream == name]
        # NaN is worse than any number, also where min() would pass over it
        worst_cosine = float(np.min([c.cosine for c in mine])) if mine else float("nan")
        worst_error = float(np.max([c.relative_error for c in mine])) if mine else float("nan")
        found.append(
            StreamVerdict(name, str(info.fingerprint["precision"]), len(mine), worst_cosine, worst_error)
        )
    return found
