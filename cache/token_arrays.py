"""Arrays as the tokens of one video: when they are, and what cannot be stored."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache.arguments import is_number, is_whole, shown
from cache.check import constant_rows
from cache.errors import InputError
from cache.schema import TokenDtype, all_finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Spans = NDArray[np.float32]


class UnusableFeatures(Exception):
    """Features of one video that cannot be stored. reason: a code of `REJECT_REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Timing:
    """When tokens are: token i from `i * stride_seconds`, `window_seconds` long. Raises InputError for what is no time."""

    stride_seconds: float
    window_seconds: float

    def __post_init__(self) -> None:
        for name in ("stride_seconds", "window_seconds"):
            value = getattr(self, name)
            if not is_number(value) or not math.isfinite(value) or not value > 0:
                raise InputError(f"{name} must be a positive number of seconds, not {shown(value)}")

    def spans(self, n_tokens: int) -> Spans:
        """float32 [n_tokens, 2], seconds."""
        starts = np.arange(n_tokens) * self.stride_seconds
        return np.stack([starts, starts + self.window_seconds], axis=1).astype(np.float32)

    def as_fields(self) -> dict[str, Any]:
        """For the fingerprint."""
        return {"stride_seconds": self.stride_seconds, "window_seconds": self.window_seconds}


def timing(
    *,
    fps: float | None = None,
    snippet: int = 1,
    stride_seconds: float | None = None,
    window_seconds: float | None = None,
) -> Timing | None:
    """The time grid that is said, None where nothing is. fps: frames a second, `snippet` of them a token. Raises InputError."""
    if fps is not None:
        if stride_seconds is not None or window_seconds is not None:
            raise InputError("give fps or stride_seconds, not both")
        if not is_number(fps) or not 0 < fps <= 1000:
            raise InputError(f"fps must be above 0 and at most 1000, not {shown(fps)}")
        if not is_whole(snippet) or snippet < 1:
            raise InputError(f"snippet must be a whole number of frames, at least 1, not {shown(snippet)}")
        return Timing(snippet / fps, snippet / fps)
    if snippet != 1:
        raise InputError(f"snippet {snippet}: frames a token say nothing without fps, the frames a second")
    if stride_seconds is None:
        if window_seconds is not None:
            raise InputError("window_seconds says nothing without stride_seconds")
        return None
    return Timing(stride_seconds, stride_seconds if window_seconds is None else window_seconds)


def token_values(array: ArrayLike, *, dim: int, dtype: TokenDtype) -> NDArray[Any]:
    """The tokens [T, D] of [T, D] or [D], as they will be stored. Raises UnusableFeatures."""
    values = np.asarray(array)
    if values.dtype.kind not in "fiu":
        raise UnusableFeatures(
            "unusable-array", f"holds {values.dtype}, not numbers; save a plain float array"
        )
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise UnusableFeatures("unusable-array", f"has the shape {list(values.shape)}, not [T, D] or [D]")
    if not values.size:
        raise UnusableFeatures("unusable-array", f"is empty: {list(values.shape)}")
    if values.shape[1] != dim:
        raise UnusableFeatures("unusable-array", f"is {values.shape[1]} wide, the others are {dim}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnusableFeatures("non-finite-features", "holds NaN or infinity")
    with np.errstate(over="ignore"):
        values = values.astype(dtype, copy=False)
    if not all_finite(values):
        raise UnusableFeatures("non-finite-features", f"has values that {dtype} cannot hold")
    if dim > 1 and (constant := np.flatnonzero(constant_rows(np.ascontiguousarray(values)))).size:
        raise UnusableFeatures(
            "constant-features",
            f"{len(constant)} of {len(values)} tokens hold one number throughout, such as token {constant[0]}",
        )
    return values


def token_spans(n_tokens: int, said: Timing | None, given: ArrayLike | None) -> Spans:
    """Spans of a video's tokens, float32 [T, 2]. Raises UnusableFeatures where none are known or they do not fit."""
    if given is not None:
        try:
            spans = np.asarray(given, dtype=np.float32)
        except (TypeError, ValueError):
            raise UnusableFeatures("unusable-array", "its spans are not numbers") from None
        if spans.shape != (n_tokens, 2):
            raise UnusableFeatures(
                "unusable-array", f"has {n_tokens} tokens and spans of the shape {list(spans.shape)}"
            )
        if not all_finite(spans) or bool((spans[:, 0] > spans[:, 1]).any()) or bool((spans < 0).any()):
            raise UnusableFeatures("unusable-array", "spans must be seconds from 0 on, with start <= end")
        if bool((np.diff(spans[:, 0]) < 0).any()):
            raise UnusableFeatures("unusable-array", "spans are out of order")
        return spans
    if said is not None:
        return said.spans(n_tokens)
    if n_tokens == 1:
        return np.zeros((1, 2), np.float32)
    raise UnusableFeatures(
        "unusable-array", f"when its {n_tokens} tokens are is not said; give fps, stride_seconds or spans"
    )


def stored_dtype(dtypes: Iterable[np.dtype[Any]]) -> TokenDtype:
    """What loses nothing: float16 where all is, else float32 (which float64 is rounded to)."""
    return "float16" if all(dtype == np.float16 for dtype in dtypes) else "float32"
