"""Stage 1: videos to features, each decoded once. Names are imported on first use; decode workers need none of them.

import pipeline

report = pipeline.extract("RWF-2000", "cache/v1.zarr", weights="random", on_line=print)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import extract as extract
    from pipeline.api import run_config as run_config
    from pipeline.backbones.load import BackboneConfig as BackboneConfig
    from pipeline.config import ExtractConfig as ExtractConfig
    from pipeline.reporting.report import ExtractReport as ExtractReport

_HOMES = {
    "extract": "pipeline.api",
    "run_config": "pipeline.api",
    "ExtractConfig": "pipeline.config",
    "BackboneConfig": "pipeline.backbones.load",
    "ExtractReport": "pipeline.reporting.report",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
