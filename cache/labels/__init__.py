"""Labels and names: which file name says what, and which video a name means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache.labels.join import label_videos

__all__ = ["label_videos"]


def __getattr__(name: str) -> Any:
    if name == "label_videos":
        from cache.labels.join import label_videos

        return label_videos
    raise AttributeError(f"module 'cache.labels' has no attribute {name!r}")
