"""`onepass verify`: are the stored features right? Videos are decoded again and run plainly, one window at a time.

The plain side shares nothing with the fast one: another decoder than the one on record reads the file frame by frame and must
see the same pictures at the same times, frames are chosen with a search over all timestamps, preprocessing is the model's own
on whole frames, the model is the published one in float32, eval mode, batch of one. A token must also not be another one's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import FingerprintMismatch
from cache.reader import Cache
from pipeline.backbones.base import MAX_RELATIVE_ERROR, MIN_COSINE, Backbone
from pipeline.backbones.plain_text import plain_text
from pipeline.backbones.text import TextBackbone
from pipeline.decoding.decoders.animation import is_animated_webp
from pipeline.decoding.decoders.base import DecodeProblem, DecoderName, checked_path, open_frames
from pipeline.decoding.decoders.streams import choose_stream, open_container
from pipeline.decoding.frames import Luma, RgbFrame
from pipeline.decoding.pictures import SAME_SECONDS, ImageFrames, frame_times, known_decoder, second_opinion
from pipeline.decoding.plain_sound import plain_windows
from pipeline.decoding.sampling import SLIVER_SECONDS, TIE_SECONDS, Sampling
from pipeline.decoding.words import Transcript
from pipeline.decoding.worker import file_digest

MIN_CENTRED_COSINE = 0.99
"""Bound once the stream's mean is taken off both sides. Tokens of a network with random weights are alike up to a cosine of
0.9974 (SlowFast), so that the plain bound alone hardly sees one that is another's."""
TELLING_SHARES = {"fp32": 0.01}
TELLING_SHARE = 0.05
"""A token's length without the mean, as a share of its length, from which on the centred cosine says something in its precision:
below, what rounding may change is as large as what is left. fp32 tokens are stored as float16, good to 3e-4; bf16 was seen at
1e-2 (docs/gpu.md)."""
TELLING_ROUNDINGS = 10
"""And from how many times the distance that half of the stream's tokens keep from their plain features (7.1 times is a centred
cosine of 0.99), up to twice that share: more is no rounding. mobilevit_xxs (random weights), whose tokens are alike, needs it."""
CENTRE_VIDEOS = 64
"""Stored videos whose mean is taken off."""
TOKENS_A_VIDEO = 12
MISPLACED_SHARE = 0.5
"""A token whose distance to another token's plain features is less than this share of the distance to its own is that other
one."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One stored token against the plain run."""

    video_id: str
    stream: str
    index: int
    cosine: float
    relative_error: float
    centred_cosine: float = math.nan
    centred_share: float = 0.0
    """Length without the stream's mean over length: where it is small, the cosine without the mean says nothing."""


@dataclass(frozen=True, slots=True)
class Verified:
    """One video: its tokens, the decoder that confirmed its frames ("" where none could), and a note on that."""

    comparisons: tuple[Comparison, ...]
    confirmed_by: str
    note: str
    misplaced: tuple[str, ...]
    """Tokens that hold another token's features, in words."""
    has_frames: bool = True
    """False where the file holds sound alone."""


@dataclass(frozen=True, slots=True)
class StreamVerdict:
    """Worst values of one stream and whether they are within the bound of its precision."""

    stream: str
    precision: str
    n_tokens: int
    worst_cosine: float
    worst_relative_error: float
    worst_centred_cosine: float = math.nan
    n_centred: int = 0

    @property
    def bound(self) -> str:
        """The bound in words."""
        both = f"cosine >= {MIN_COSINE}, without the mean >= {MIN_CENTRED_COSINE}"
        return f"relative error <= {MAX_RELATIVE_ERROR:g}, {both}" if self.precision == "fp32" else both

    def __str__(self) -> str:
        """One line for the terminal."""
        without = (
            f"without the mean {self.worst_centred_cosine:.4f}" if self.n_centred else "all like the mean"
        )
        told = f" ({self.n_centred} tokens that differ from it)" if 0 < self.n_centred < self.n_tokens else ""
        verdict = "ok" if self.ok else "BELOW THE BOUND"
        return (
            f"stream {self.stream} ({self.precision}): {self.n_tokens} tokens, worst cosine {self.worst_cosine:.6f}, "
            f"{without}{told}, worst relative error {self.worst_relative_error:.1e}; bound: {self.bound}: {verdict}"
        )

    @property
    def ok(self) -> bool:
        """Whether the worst token is within the bound."""
        within = self.precision != "fp32" or self.worst_relative_error <= MAX_RELATIVE_ERROR
        centred = not self.n_centred or self.worst_centred_cosine >= MIN_CENTRED_COSINE
        return self.n_tokens > 0 and self.worst_cosine >= MIN_COSINE and within and centred


def check_weights(cache: Cache, backbones: Mapping[str, Backbone]) -> None:
    """The plain models must have the weights the cache was made with. Raises FingerprintMismatch."""
    for name, backbone in backbones.items():
        stored, here = cache.streams[name].fingerprint["weights"], backbone.fingerprint()["weights"]
        if stored["digest"] != here["digest"]:
            raise FingerprintMismatch(
                f"stream {name}: the cache was made with weights {stored['digest'][:19]}..., these are "
                f"{here['digest'][:19]}...; give the same file with --weights-file {name}=FILE"
            )


def compare_video(
    cache: Cache,
    index: int,
    path: Path,
    backbones: Mapping[str, Backbone],
    *,
    rng: np.random.Generator,
    centres: Mapping[str, NDArray[np.float64]] | None = None,
    transcript: Transcript | None = None,
) -> Verified:
    """Compare up to TOKENS_A_VIDEO tokens of each stream of one video with the plain run.

    First another decoder than the one on record must see the same pictures at the same times; the plain run then works on its
    pictures (on those of the decoder on record where colours are converted with other roundings, and for luma). centres: what
    `stream_centres` gave, for many videos of one cache. transcript: its words, where a file holds them. Raises DecodeProblem
    where the file changed or can no longer be decoded, where tokens are missing or too many, and where another decoder disagrees
    on an undamaged file and none agrees.
    """
    row = cache.videos.row(index)
    try:
        digest = file_digest(str(path))
    except OSError as error:
        raise DecodeProblem("missing-file", f"cannot be read: {error.strerror or error}") from error
    if (
        row.digest and digest != row.digest
    ):  # an unknown digest says nothing; the tokens are compared all the same
        raise DecodeProblem("unreadable-container", f"the file changed since it was extracted ({digest} now)")
    centres = stream_centres(cache) if centres is None else centres
    if row.n_frames == 0 and any(backbone.plan.sound for backbone in backbones.values()):
        return _compare_sound_alone(cache, index, path, backbones, rng, centres, transcript)
    decoder = known_decoder(row.decoder)
    seen = frame_times(path, decoder)
    wanted: dict[str, dict[int, list[int]]] = {}
    sounds: dict[str, dict[int, NDArray[np.float32]]] = {}
    for name, backbone in backbones.items():
        if backbone.plan.sound is not None:
            sounds[name], _ = _plain_sound(cache, index, path, backbone, seen.duration_seconds, rng)
            continue
        if isinstance(backbone, TextBackbone):
            sounds[name] = _plain_text(cache, index, path, backbone, seen.duration_seconds, rng, transcript)
            continue
        stored = cache.tokens(name, index)
        expected = plain_token_count(seen.duration_seconds, backbone.plan.sampling)
        if len(stored.values) != expected:
            raise DecodeProblem(
                "decode-errors", f"{name}: {len(stored.values)} tokens are stored, {expected} were due"
            )
        wanted[name] = {
            token: plain_frame_indices(seen.times, seen.duration_seconds, token, backbone.plan.sampling)
            for token in choose_tokens(expected, rng)
        }
    numbers = {n for frames in wanted.values() for window in frames.values() for n in window}
    opinion, disagreed, said = second_opinion(path, decoder, numbers, still=len(seen.times) == 1)
    note = ""
    if opinion is None:
        note = f"frames confirmed by no other decoder: {said}"
        if disagreed and not seen.n_errors:
            raise DecodeProblem(
                "decode-errors", f"no other decoder agrees with {decoder} on its frames: {said}"
            )
    source = opinion.decoder if opinion is not None and opinion.equal else decoder
    found: list[Comparison] = []
    wrong: list[str] = []
    for name, backbone in backbones.items():
        if name in sounds:
            plain = sounds[name]
        else:
            grey = backbone.plan.frames.recipe == "grey"
            windows = _windows(path, decoder if grey else source, wanted[name], grey=grey)
            plain = {token: backbone.embed_plainly(frames) for token, frames in windows}
        compared, misplaced = _compared(cache, index, name, plain, centres[name])
        found += compared
        wrong += misplaced
    return Verified(tuple(found), opinion.decoder if opinion is not None else "", note, tuple(wrong))


def _compare_sound_alone(
    cache: Cache,
    index: int,
    path: Path,
    backbones: Mapping[str, Backbone],
    rng: np.random.Generator,
    centres: Mapping[str, NDArray[np.float64]],
    transcript: Transcript | None,
) -> Verified:
    """A video that was stored without pictures must have none, and end where its sound does. Raises DecodeProblem."""
    with open_container(checked_path(path)) as container:
        try:
            choose_stream(container, path)
        except DecodeProblem as problem:
            if problem.reason != "no-video-stream":
                raise
        else:
            raise DecodeProblem("decode-errors", "it is stored without pictures, and has a video stream")
    row, end = cache.videos.row(index), 0.0
    found: list[Comparison] = []
    wrong: list[str] = []
    for name, backbone in backbones.items():
        if isinstance(backbone, TextBackbone):
            plain, ends = (
                _plain_text(cache, index, path, backbone, row.duration_seconds, rng, transcript),
                0.0,
            )
        elif backbone.plan.sound is None:
            if n_stored := len(cache.tokens(name, index).values):
                raise DecodeProblem("decode-errors", f"{name}: {n_stored} tokens are stored, none was due")
            continue
        else:
            plain, ends = _plain_sound(cache, index, path, backbone, None, rng)
        compared, misplaced = _compared(cache, index, name, plain, centres[name])
        found += compared
        wrong += misplaced
        end = max(end, ends)
    if abs(end - row.duration_seconds) > SAME_SECONDS:
        raise DecodeProblem(
            "decode-errors", f"the sound ends at {end:.3f} s, stored are {row.duration_seconds:.3f} s"
        )
    return Verified(tuple(found), "", "sound alone", tuple(wrong), has_frames=False)


def _compared(
    cache: Cache, index: int, name: str, plain: Mapping[int, NDArray[np.float32]], centre: NDArray[np.float64]
) -> tuple[list[Comparison], list[str]]:
    """Tokens of one stream of one video against their plain features, and what is misplaced in words."""
    stored, video_id = cache.tokens(name, index), cache.videos.row(index).id
    found = []
    for token, vector in sorted(plain.items()):
        one = _compare(video_id, name, token, stored.values[token], vector)
        centred, share = _centred(stored.values[token], vector, centre)
        found.append(replace(one, centred_cosine=centred, centred_share=share))
    misplaced = misplaced_tokens(stored.values, plain)
    return found, [f"{name}: {misplaced}"] if misplaced else []


def _plain_sound(
    cache: Cache,
    index: int,
    path: Path,
    backbone: Backbone,
    duration: float | None,
    rng: np.random.Generator,
) -> tuple[dict[int, NDArray[np.float32]], float]:
    """Plain features of chosen tokens of sound, and where it ends. Raises DecodeProblem where tokens are missing, too many, or

    not absent.
    """
    plan = backbone.plan
    assert plan.sound is not None
    due, windows, end = plain_windows(
        path,
        plan.sound,
        plan.sampling,
        duration_seconds=duration,
        choose=lambda count: choose_tokens(count, rng),
    )
    stored, why = cache.tokens(backbone.name, index), cache.absent(backbone.name)[index]
    if len(stored.values) != due:
        said = f"it is said to be absent ({why})" if why else f"{len(stored.values)} tokens are stored"
        raise DecodeProblem("decode-errors", f"{backbone.name}: {said}, {due} were due")
    plain = {}
    for token, samples in windows.items():
        given: Any = samples  # where pictures have frames
        plain[token] = backbone.embed_plainly([given])
    return plain, end


def _plain_text(
    cache: Cache,
    index: int,
    path: Path,
    backbone: TextBackbone,
    duration: float,
    rng: np.random.Generator,
    transcript: Transcript | None,
) -> dict[int, NDArray[np.float32]]:
    """Plain features of chosen tokens of words. Raises DecodeProblem."""
    stored, why = cache.tokens(backbone.name, index), str(cache.absent(backbone.name)[index])
    choose = partial(choose_tokens, rng=rng)
    return plain_text(backbone, stored, why, path, transcript, duration_seconds=duration, choose=choose)


def stream_centres(cache: Cache) -> dict[str, NDArray[np.float64]]:
    """Mean of the stored tokens of each stream, float64 [D], over videos spread evenly through the cache."""
    places = np.unique(np.linspace(0, len(cache) - 1, min(len(cache), CENTRE_VIDEOS)).astype(int))
    found = {}
    for name in cache.streams:
        values = [cache.tokens(name, int(place)).values.astype(np.float64) for place in places]
        joined = np.concatenate(values)
        found[name] = joined.mean(axis=0) if len(joined) else np.zeros(joined.shape[1])
    return found


def _centred(
    stored: NDArray[Any], plain: NDArray[np.float32], centre: NDArray[np.float64]
) -> tuple[float, float]:
    """Cosine without the mean, and the share of the token's length that is left."""
    a, b = stored.astype(np.float64) - centre, plain.astype(np.float64) - centre
    length, whole = float(np.linalg.norm(b)), float(np.linalg.norm(plain.astype(np.float64)))
    return float(a @ b / max(float(np.linalg.norm(a)) * length, 1e-30)), length / max(whole, 1e-30)


def choose_tokens(n_tokens: int, rng: np.random.Generator) -> list[int]:
    """All tokens of a short video, else pairs of neighbours, so that a shift shows."""
    if n_tokens <= TOKENS_A_VIDEO:
        return list(range(n_tokens))
    starts = rng.choice(n_tokens - 1, TOKENS_A_VIDEO // 2, replace=False)
    return sorted({int(token) for start in starts for token in (start, start + 1)})


def misplaced_tokens(stored: NDArray[Any], plain: Mapping[int, NDArray[np.float32]]) -> str:
    """The first token that clearly is another one's: much nearer to another token's plain features than to its own; "" for
    none."""
    for token in plain:
        values = stored[token].astype(np.float64)
        own = float(np.linalg.norm(values - plain[token]))
        for other in plain:
            if float(np.linalg.norm(values - plain[other])) < MISPLACED_SHARE * own:
                return f"token {token} holds the features of token {other}"
    return ""


def plain_token_count(duration: float, sampling: Sampling) -> int:
    """Number of tokens, straight from the definition: windows until one reaches the end."""
    last = max(0, len(_grid(duration, sampling)) - sampling.window)
    return -(-last // sampling.stride) + 1


def _grid(duration: float, sampling: Sampling) -> NDArray[np.float64]:
    return np.arange(0, max(1, int(np.ceil((duration - SLIVER_SECONDS) * sampling.fps)))) / sampling.fps


def plain_frame_indices(
    times: NDArray[np.float64], duration: float, token: int, sampling: Sampling
) -> list[int]:
    """Frames behind a token, straight from the definition: nearest frame to each of the window's grid points.

    Less than SLIVER_SECONDS before a frame, the point is that frame's (it only matters beyond 500 frames a second).
    """
    grid = _grid(duration, sampling)
    first = token * sampling.stride
    if first + sampling.window > len(grid):
        first = max(0, len(grid) - sampling.window)
    samples = grid[first : first + sampling.window]
    distances = [np.abs(times - t) for t in samples]
    # the earlier frame wins a tie
    nearest = [int(np.argmax(away <= away.min() + 2 * TIE_SECONDS)) for away in distances]
    at_once = [int((times[1:] - SLIVER_SECONDS <= t).sum()) if t > 0 else 0 for t in samples]
    nearest = [max(pair) for pair in zip(nearest, at_once, strict=True)]
    return nearest + [nearest[-1]] * (sampling.window - len(nearest))


def _windows(
    path: Path, decoder: DecoderName, wanted: Mapping[int, list[int]], *, grey: bool = False
) -> Iterator[tuple[int, list[Any]]]:
    """Decode once more and give each wanted token its frames at their own size, keeping no more than it must.

    grey: the luma where the decoder gives it.
    """
    kept: dict[int, RgbFrame | Luma] = {}
    due = sorted(wanted.items(), key=lambda item: item[1][-1])
    last = {n: max(window[-1] for window in wanted.values() if n in window) for n in _numbers(wanted)}
    source = (
        ImageFrames(checked_path(path))
        if decoder == "pillow" and _is_still(path)
        else open_frames(path, decoder)
    )
    with closing(source):
        for index, frame in enumerate(source):
            if index in last:
                luma = frame.luma() if grey else None
                kept[index] = frame.rgb() if luma is None else luma.kept()
            while due and due[0][1][-1] <= index:
                token, frames = due.pop(0)
                yield token, [kept[i] for i in frames]
            kept = {i: pixels for i, pixels in kept.items() if last[i] > index}
            if not due:
                return


def _numbers(wanted: Mapping[int, list[int]]) -> set[int]:
    return {n for window in wanted.values() for n in window}


def _is_still(path: Path) -> bool:
    return not is_animated_webp(checked_path(path))


def _compare(
    video_id: str, stream: str, index: int, stored: NDArray[Any], plain: NDArray[np.float32]
) -> Comparison:
    a, b = stored.astype(np.float64), plain.astype(np.float64)
    cosine = float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30))
    relative = float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30))
    return Comparison(video_id, stream, index, cosine, relative)


def verdicts(cache: Cache, comparisons: list[Comparison]) -> list[StreamVerdict]:
    """Worst values by stream; an optional one that no video looked at has is left out."""
    found = []
    for name, info in cache.streams.items():
        mine = [c for c in comparisons if c.stream == name]
        if info.optional and not mine:
            continue
        # NaN is worse than any number, also where min() would pass over it
        worst_cosine = float(np.min([c.cosine for c in mine])) if mine else float("nan")
        worst_error = float(np.max([c.relative_error for c in mine])) if mine else float("nan")
        precision = str(info.fingerprint.get("precision", "unknown"))
        telling = _telling_share(precision, mine)
        centred = [c.centred_cosine for c in mine if c.centred_share >= telling]
        worst_centred = min(centred, default=math.nan)
        found.append(
            StreamVerdict(name, precision, len(mine), worst_cosine, worst_error, worst_centred, len(centred))
        )
    return found


def _telling_share(precision: str, compared: list[Comparison]) -> float:
    least = TELLING_SHARES.get(precision, TELLING_SHARE)
    apart = [math.sqrt(max(0.0, 2 - 2 * one.cosine)) for one in compared] or [0.0]
    return min(max(least, TELLING_ROUNDINGS * float(np.median(apart))), 2 * least)
