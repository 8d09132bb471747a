"""Values read from JSON held against the types that a dataclass declares: a head.json that was edited is one sentence."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, Literal

from cache.arguments import shown
from cache.errors import HeadError


def require_types(values: Any, cls: type, *, name: str = "", skip: Collection[str] = ()) -> None:
    """Raise HeadError unless `values` is a mapping whose entries are of the types of `cls`'s fields; those with a default may be
    left out. skip: fields that are read elsewhere.
    """
    if not isinstance(values, Mapping):
        raise HeadError(f"head.json: {name or 'a head'} is a mapping, not {shown(values)}")
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key = f"{name}.{field.name}" if name else field.name
        if field.name in skip:
            continue
        if field.name not in values:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise HeadError(f"head.json: {key} is missing")
            continue
        if not fits(values[field.name], hints[field.name]):
            raise HeadError(f"head.json: {key} cannot be {shown(values[field.name])}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value can be what a hint says; numbers are finite, a whole one may stand for another."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments and not isinstance(value, (list, dict))
    if origin is tuple:
        if not isinstance(value, list):
            return False
        if arguments[1:] == (Ellipsis,):
            return all(fits(one, arguments[0]) for one in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(one, arguments[1]) for one in value.values())
    if dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping)
    if hint in (int, float):
        number = isinstance(value, hint) or (hint is float and isinstance(value, int))
        return number and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint)
