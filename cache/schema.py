"""What a cache holds: its columns and the small records that carry rows and tokens.

Every record checks itself on construction and raises `ValueError` with the offending value, so that nothing
that the format cannot express reaches a store.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache.arguments import shown

FORMAT_NAME = "onepass-features"
FORMAT_VERSIONS = (1, 2)
"""Versions that are read. Version 2 knows optional streams; a cache without one is written as version 1."""
UNKNOWN_LABEL = -1

TokenDtype = Literal["float16", "float32"]
ColumnKind = Literal["string", "int8", "int32", "int64", "float64"]

VIDEO_COLUMNS: Mapping[str, ColumnKind] = MappingProxyType(
    {
        "id": "string",
        "digest": "string",
        "size_bytes": "int64",
        "mtime_ns": "int64",
        "label": "int8",
        "label_name": "string",
        "split": "string",
        "source": "string",
        "duration_seconds": "float64",
        "fps": "float64",
        "width": "int32",
        "height": "int32",
        "n_frames": "int64",
        "decoder": "string",
    }
)
"""Columns of `videos/`, in `VideoRow` order."""

REJECT_COLUMNS: Mapping[str, ColumnKind] = MappingProxyType(
    {
        "id": "string",
        "reason": "string",
        "detail": "string",
        "digest": "string",
        "size_bytes": "int64",
        "mtime_ns": "int64",
    }
)
"""Columns of `rejects/`, in `Reject` order."""

RELABEL_COLUMNS = ("label", "label_name", "split", "source")
"""The columns that `CacheWriter.relabel` may change."""
CHANGEABLE_COLUMNS = (*RELABEL_COLUMNS, "mtime_ns")
"""The columns of a stored video that may change in place; the last one by `CacheWriter.restamp`."""

REJECT_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "unreadable-container": "no decoder can open the file",
        "no-video-stream": "the container opens but holds no video stream",
        "no-frames": "not one frame could be decoded",
        "decode-errors": "the share of damaged frames is over the limit",
        "deadline": "decoding did not finish within its deadline",
        "decoder-crash": "the decoder process died",
        "out-of-memory": "decoding needed more memory than allowed",
        "too-short": "shorter than the minimum duration asked for",
        "bad-label": "the label is not one of the two classes",
        "unlabelled": "no label was found and labels were required",
        "duplicate-content": "the same bytes are already stored under another id",
        "non-finite-features": "a backbone returned NaN, infinity, or what float16 cannot hold",
        "constant-features": "a backbone returned a constant vector",
        "missing-file": "the file is listed but does not exist",
        "unreadable-file": "the file could not be read: permission, I/O error, a lost mount",
        "changed-while-read": "the file changed while it was read",
        "empty-file": "the file has zero bytes",
        "missing-stream": "a stream that the run requires is not in the file",
        "unsupported-type": "the file is not a video or image type that is read",
        "unusable-array": "imported features whose type, shape, width or crops cannot be used",
    }
)
"""Reason code of a rejected input -> one line of meaning. The list is part of the format; it may grow, and a code that
a reader does not know is a verdict on contents to it.
"""

PASSING_REASONS = frozenset(
    {
        "missing-file",
        "unreadable-file",
        "changed-while-read",
        "deadline",
        "decoder-crash",
        "out-of-memory",
    }
)
"""Codes that speak of the surroundings of one run (a mount, a disk, the machine's load), not of the file's contents: such
an input is tried again at every run, and nothing that is stored is given up for it. All others are verdicts on contents.
"""


def is_passing(reason: str, digest: str) -> bool:
    """Whether a reject is passing trouble. digest: of the contents that were judged, "" where they could not be read:

    before `unreadable-file` existed, a file without permission was called `unreadable-container`.
    """
    return reason in PASSING_REASONS or (reason == "unreadable-container" and not digest)


MAX_DETAIL_CHARACTERS = 2000
"""`Reject.detail` is cut to this length: a decoder's noise must not fill the cache."""

STREAM_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def storable_text(text: str) -> str:
    """Return `text` with what neither format can hold (lone surrogates, NUL) written as backslash escapes.

    File names that are not valid UTF-8 reach Python with lone surrogates; everything else comes back
    unchanged.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def all_finite(values: NDArray[Any]) -> bool:
    """Whether no element of a float array is NaN or infinite. Fast for float16, which numpy tests one by
    one.
    """
    if values.dtype == np.float16:
        exponent = np.uint16(0x7C00)
        return not bool(((values.view(np.uint16) & exponent) == exponent).any())
    return bool(np.isfinite(values).all())


def _check_id(video_id: str) -> None:
    if not isinstance(video_id, str) or not video_id:
        raise ValueError(f"a video id must be a non-empty string, not {video_id!r}")
    _check_text("id", video_id)


def _check_text(name: str, value: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {value!r}")
    if value != storable_text(value):
        raise ValueError(f"{name} {value!r} is not UTF-8 text without NUL; pass it through storable_text()")


def _check_int64(name: str, value: int) -> None:
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must fit into 64 bits, not {value!r}")


def _check_at_least(name: str, value: float, minimum: float) -> None:
    if not math.isfinite(value) or value < minimum:
        raise ValueError(f"{name} must be finite and at least {minimum}, not {value!r}")


@dataclass(frozen=True, slots=True)
class VideoLabel:
    """A label to put on a video.

    label: 1 positive, 0 negative, -1 unknown. label_name: the class as the data set calls it, "" when
    unknown. split, source: "" means "no statement": `CacheWriter.relabel` then keeps what is stored.
    """

    label: int
    label_name: str
    split: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.label not in (UNKNOWN_LABEL, 0, 1):
            raise ValueError(f"label must be 1, 0 or {UNKNOWN_LABEL}, not {self.label!r}")
        for name in ("label_name", "split", "source"):
            _check_text(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class VideoRow:
    """One stored video: one row of `videos/<column>`, the field names being the column names.

    id: path relative to the source root, with "/". digest: "blake2b:<hex>" of the file's bytes, "" where it is
    unknown (and then equal to no other). size_bytes and mtime_ns: for quick change detection. label: 1 positive,
    0 negative, -1 unknown; label_name "" when unknown. split: "train", "val", "test" or "". source: the recording it
    was cut from, "" when unknown. duration_seconds, fps (average), width, height (pixels, as decoded) and n_frames
    describe what was decoded, not what the header says. decoder: the decoder that produced the stored features.
    """

    id: str
    digest: str
    size_bytes: int
    mtime_ns: int
    label: int
    label_name: str
    split: str
    source: str
    duration_seconds: float
    fps: float
    width: int
    height: int
    n_frames: int
    decoder: str

    def __post_init__(self) -> None:
        _check_id(self.id)
        if self.label not in (UNKNOWN_LABEL, 0, 1):
            raise ValueError(f"{self.id}: label must be 1, 0 or {UNKNOWN_LABEL}, not {self.label!r}")
        for name in ("digest", "label_name", "split", "source", "decoder"):
            _check_text(f"{self.id}: {name}", getattr(self, name))
        for name in ("size_bytes", "duration_seconds", "fps", "width", "height", "n_frames"):
            _check_at_least(f"{self.id}: {name}", getattr(self, name), 0)
        for name in ("size_bytes", "mtime_ns", "n_frames"):
            _check_int64(f"{self.id}: {name}", getattr(self, name))


@dataclass(frozen=True, slots=True)
class Reject:
    """One input that could not be stored: one row of `rejects/<column>`.

    reason: a code of `REJECT_REASONS`. detail: free text, made storable and cut to `MAX_DETAIL_CHARACTERS`
    here. digest "", size_bytes 0 and mtime_ns 0 when the file could not be read at all.
    """

    id: str
    reason: str
    detail: str
    digest: str
    size_bytes: int
    mtime_ns: int

    def __post_init__(self) -> None:
        _check_id(self.id)
        if self.reason not in REJECT_REASONS:
            raise ValueError(
                f"{self.id}: {self.reason!r} is no reject reason; known: {', '.join(REJECT_REASONS)}"
            )
        _check_text(f"{self.id}: digest", self.digest)
        _check_at_least(f"{self.id}: size_bytes", self.size_bytes, 0)
        for name in ("size_bytes", "mtime_ns"):
            _check_int64(f"{self.id}: {name}", getattr(self, name))
        object.__setattr__(self, "detail", storable_text(self.detail)[:MAX_DETAIL_CHARACTERS])


def _as_array(name: str, value: Any) -> NDArray[Any]:
    """An array as it is, a list of numbers as float32. Raises ValueError for anything else."""
    if isinstance(value, np.ndarray):
        return value
    try:
        if isinstance(value, (list, tuple)):
            return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{name} must be an array or a list of numbers, not {shown(value)}")


@dataclass(frozen=True, slots=True, eq=False)
class StreamTokens:
    """The tokens of one video in one stream.

    values: float16 or float32 [T, D], finite. spans: float32 [T, 2], start and end of each token in seconds,
    start <= end. Lists of numbers become float32 arrays. T is 0 where a stream is absent from a video, and only there.
    """

    values: NDArray[Any]
    spans: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("values", "spans"):
            object.__setattr__(self, name, _as_array(f"token {name}", getattr(self, name)))
        values, spans = self.values, self.spans
        if values.ndim != 2 or values.shape[1] < 1:
            raise ValueError(f"token values must be [T, D] with D >= 1, not {values.shape}")
        if values.dtype not in (np.float16, np.float32):
            raise ValueError(f"token values must be float16 or float32, not {values.dtype}")
        if spans.shape != (len(values), 2) or spans.dtype != np.float32:
            raise ValueError(
                f"token spans must be float32 [{len(values)}, 2] beside values {values.shape}, "
                f"not {spans.dtype} {spans.shape}"
            )
        if not all_finite(values):
            raise ValueError(f"token values {values.shape} hold NaN or infinity")
        if not all_finite(spans) or bool((spans[:, 0] > spans[:, 1]).any()):
            raise ValueError("token spans must be finite, with start <= end")

    def __repr__(self) -> str:
        if not len(self.values):
            return f"StreamTokens(values {self.values.dtype} {list(self.values.shape)}, absent)"
        first, last = float(self.spans[0, 0]), float(self.spans[-1, 1])
        shape = list(self.values.shape)
        return f"StreamTokens(values {self.values.dtype} {shape}, spans {first:.3f} to {last:.3f} s)"


@dataclass(frozen=True, slots=True, eq=False)
class VideoFeatures:
    """A video ready to be stored: its row and its tokens by stream name.

    absent: of optional streams that the video does not have, the reason: what it is, then ": " and what goes with this video
    ("no audio stream", "audio could not be decoded: ..."), made storable and cut to `MAX_DETAIL_CHARACTERS` here.
    """

    row: VideoRow
    tokens: Mapping[str, StreamTokens]
    absent: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if both := sorted(self.tokens.keys() & self.absent.keys()):
            raise ValueError(f"{self.row.id}: stream {both[0]} has tokens and is absent")
        if empty := sorted(name for name, tokens in self.tokens.items() if not len(tokens.values)):
            raise ValueError(
                f"{self.row.id}: stream {empty[0]} has no token; an absent stream needs a reason"
            )
        if bare := sorted(name for name, why in self.absent.items() if not why):
            raise ValueError(f"{self.row.id}: stream {bare[0]} is absent without a reason")
        cut = {name: storable_text(why)[:MAX_DETAIL_CHARACTERS] for name, why in self.absent.items()}
        object.__setattr__(self, "absent", cut)

    def __repr__(self) -> str:
        return f"VideoFeatures({self.row.id!r}, {dict(self.tokens)!r})"


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A stream that a writer fills: name, width of a token, stored dtype and how the features are made.

    fingerprint: a nested dict of JSON values (see cache/fingerprint.py); tuples become lists. optional: a stored video may lack
    it, with a reason.
    """

    name: str
    dim: int
    dtype: TokenDtype
    fingerprint: Mapping[str, Any]
    optional: bool = False

    def __post_init__(self) -> None:
        if not STREAM_NAME.fullmatch(self.name):
            raise ValueError(f"stream name {self.name!r} must be lower-case letters, digits, '-' or '_'")
        if self.dim < 1:
            raise ValueError(f"stream {self.name}: dim must be at least 1, not {self.dim}")
        if self.dtype not in ("float16", "float32"):
            raise ValueError(f"stream {self.name}: dtype must be float16 or float32, not {self.dtype!r}")
        try:
            plain = json.loads(json.dumps(dict(self.fingerprint), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"stream {self.name}: the fingerprint is not plain JSON: {error}") from error
        object.__setattr__(self, "fingerprint", plain)


@dataclass(frozen=True, slots=True)
class KnownInput:
    """A live input of a cache, stored or rejected; `reason` and `detail` are "" for a stored one."""

    id: str
    state: Literal["stored", "rejected"]
    digest: str
    size_bytes: int
    mtime_ns: int
    reason: str = ""
    detail: str = ""

    @property
    def passing(self) -> bool:
        """Whether it was rejected for passing trouble."""
        return self.state == "rejected" and is_passing(self.reason, self.digest)


assert tuple(VIDEO_COLUMNS) == tuple(each.name for each in fields(VideoRow))
assert tuple(REJECT_COLUMNS) == tuple(each.name for each in fields(Reject))
