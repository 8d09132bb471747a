"""Stage 2: small heads trained from a feature cache. Names are imported on first use, as torch takes seconds.

from cache import open_cache
from heads import TrainConfig, train_head

head = train_head(open_cache("cache/v1.zarr"), TrainConfig(seed=1))
head.save("heads-out/first")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heads.ablate import Sweep as Sweep
    from heads.ablate_grid import make_cells as make_cells
    from heads.ablate_grid import read_axes as read_axes
    from heads.audit import audit_cache as audit_cache
    from heads.config import TrainConfig as TrainConfig
    from heads.cross_validation import cross_validate as cross_validate
    from heads.estimator import HeadClassifier as HeadClassifier
    from heads.estimator import MeanTokens as MeanTokens
    from heads.estimator_data import cached_videos as cached_videos
    from heads.export import export_onnx as export_onnx
    from heads.head_evaluation import evaluate_head as evaluate_head
    from heads.outputs import write_training as write_training
    from heads.probe import probe_cache as probe_cache
    from heads.timeline import score_over_time as score_over_time
    from heads.train import train_head as train_head
    from heads.trained import Predictions as Predictions
    from heads.trained import TrainedHead as TrainedHead

_HOMES = {
    "TrainConfig": "heads.config",
    "train_head": "heads.train",
    "TrainedHead": "heads.trained",
    "Predictions": "heads.trained",
    "HeadClassifier": "heads.estimator",
    "MeanTokens": "heads.estimator",
    "cached_videos": "heads.estimator_data",
    "evaluate_head": "heads.head_evaluation",
    "export_onnx": "heads.export",
    "probe_cache": "heads.probe",
    "score_over_time": "heads.timeline",
    "write_training": "heads.outputs",
    "Sweep": "heads.ablate",
    "make_cells": "heads.ablate_grid",
    "read_axes": "heads.ablate_grid",
    "audit_cache": "heads.audit",
    "cross_validate": "heads.cross_validation",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'heads' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
