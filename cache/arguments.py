"""Arguments from Python that cannot be: one line that says what was given and what to give instead."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TypeGuard

from cache.errors import InputError


def require_open_cache(value: object, of: str) -> None:
    """Raise InputError unless `value` is an open cache. of: who takes it, such as "train_head"."""
    if not (hasattr(value, "videos") and hasattr(value, "streams") and hasattr(value, "paths")):
        raise InputError(f"{of} takes an open cache, not {shown(value)}; open it first: open_cache(PATH)")


def require_whole(name: str, value: object, low: int, high: int) -> None:
    """Raise InputError unless `value` is a whole number in [low, high]."""
    if not is_whole(value) or not low <= value <= high:
        raise InputError(f"{name} must be a whole number between {low:,} and {high:,}, got {shown(value)}")


def is_whole(value: object) -> TypeGuard[int]:
    """True for whole numbers, numpy's too; a truth value is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """True for whole and floating numbers, numpy's too; a truth value is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value on one line, with its type where that is not plain from it."""
    text = " ".join(repr(value).split())
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return short if isinstance(value, (str, int, float, type(None))) else f"{type(value).__name__} {short}"
