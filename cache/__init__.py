"""The feature store: what `extract` writes and every head reads. Needs neither torch nor the other
packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache.errors import OnepassError
    from cache.features import write_features
    from cache.reader import Cache, open_cache
    from cache.writer import CacheWriter

__all__ = ["Cache", "CacheWriter", "OnepassError", "open_cache", "write_features"]


def __getattr__(name: str) -> Any:
    if name in ("Cache", "open_cache"):
        from cache import reader

        return getattr(reader, name)
    if name == "write_features":
        from cache.features import write_features

        return write_features
    if name == "CacheWriter":
        from cache.writer import CacheWriter

        return CacheWriter
    if name == "OnepassError":
        from cache.errors import OnepassError

        return OnepassError
    raise AttributeError(f"module 'cache' has no attribute {name!r}")
