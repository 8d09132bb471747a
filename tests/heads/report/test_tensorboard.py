from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from cache.errors import InputError
from cache.reader import Cache
from heads.report.outputs import write_training
from heads.report.tensorboard import TensorBoardLog
from heads.train import train_head
from heads.training.config import TrainConfig

pytest.importorskip("tensorboard")


def test_epochs_and_the_result_are_logged(toy_cache: Cache, quick: TrainConfig, tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path / "runs") as log:
        head = train_head(toy_cache, quick, on_epoch=log.epoch)
        written = write_training(head, tmp_path / "head")
        log.result(head, [path for path in written.values() if path.suffix == ".png"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(tmp_path / "runs")).Reload()
    assert head.training is not None
    losses = found.Scalars("loss/val")
    assert [event.step for event in losses] == [1, 2, 3, 4]
    assert losses[-1].value == pytest.approx(head.training.history[-1].val_loss, rel=1e-5)
    assert {"loss/train", "lr", "val/threshold", "val/auroc", "result-val/f1"} <= set(found.Tags()["scalars"])
    assert set(found.Tags()["images"]) == {
        *("confusion_matrix", "threshold_curve", "pr_curve", "roc_curve", "reliability", "history"),
    }
    text = found.Tensors("head/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "RANDOM backbone weights (clip" in text
    assert "selection: val chose" in text


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"onepass\[tensorboard\]"):
        TensorBoardLog(tmp_path)
