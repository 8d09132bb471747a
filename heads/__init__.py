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
    from cache.tables import TokenArray as TokenArray
    from heads.ablation.grid import make_cells as make_cells
    from heads.ablation.grid import read_axes as read_axes
    from heads.ablation.sweep import Sweep as Sweep
    from heads.audit.audit import audit_cache as audit_cache
    from heads.audit.probe import probe_cache as probe_cache
    from heads.data.dataset import load_dataset as load_dataset
    from heads.data.grid import join_streams as join_streams
    from heads.data.videos import cached_videos as cached_videos
    from heads.estimator import HeadClassifier as HeadClassifier
    from heads.estimator import MeanTokens as MeanTokens
    from heads.report.outputs import write_training as write_training
    from heads.report.tensorboard import TensorBoardLog as TensorBoardLog
    from heads.train import train_head as train_head
    from heads.trained.evaluation import evaluate_head as evaluate_head
    from heads.trained.export import compare_with_torch as compare_with_torch
    from heads.trained.export import export_onnx as export_onnx
    from heads.trained.head import Predictions as Predictions
    from heads.trained.head import TrainedHead as TrainedHead
    from heads.trained.timeline import score_over_time as score_over_time
    from heads.training.config import TrainConfig as TrainConfig
    from heads.training.cross_validation import cross_validate as cross_validate

_HOMES = {
    "TrainConfig": "heads.training.config",
    "train_head": "heads.train",
    "TrainedHead": "heads.trained.head",
    "Predictions": "heads.trained.head",
    "HeadClassifier": "heads.estimator",
    "MeanTokens": "heads.estimator",
    "cached_videos": "heads.data.videos",
    "load_dataset": "heads.data.dataset",
    "TokenArray": "cache.tables",
    "join_streams": "heads.data.grid",
    "evaluate_head": "heads.trained.evaluation",
    "probe_cache": "heads.audit.probe",
    "export_onnx": "heads.trained.export",
    "compare_with_torch": "heads.trained.export",
    "score_over_time": "heads.trained.timeline",
    "write_training": "heads.report.outputs",
    "TensorBoardLog": "heads.report.tensorboard",
    "Sweep": "heads.ablation.sweep",
    "make_cells": "heads.ablation.grid",
    "read_axes": "heads.ablation.grid",
    "audit_cache": "heads.audit.audit",
    "cross_validate": "heads.training.cross_validation",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'heads' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
