from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import heads


def test_public_names() -> None:
    assert heads.__all__ == [
        "HeadClassifier",
        "MeanTokens",
        "Predictions",
        "Sweep",
        "TensorBoardLog",
        "TokenArray",
        "TrainConfig",
        "TrainedHead",
        "audit_cache",
        "cached_videos",
        "compare_with_torch",
        "cross_validate",
        "evaluate_head",
        "export_onnx",
        "join_streams",
        "load_dataset",
        "make_cells",
        "probe_cache",
        "read_axes",
        "score_over_time",
        "train_head",
        "write_training",
    ]
    for name in heads.__all__:
        assert getattr(heads, name).__name__ == name
    with pytest.raises(AttributeError):
        heads.nothing  # type: ignore[attr-defined]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, heads; assert 'torch' not in sys.modules; assert 'TrainConfig' in dir(heads)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
