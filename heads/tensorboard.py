"""TensorBoard logging of a training, as an option: scalars by epoch, and the result with its figures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from cache.errors import InputError
from heads.fit import EpochRow
from heads.trained import TrainedHead

if TYPE_CHECKING:
    from heads.report_figures import ReportFigure

VAL_SCALARS = ("threshold", "precision", "recall", "f1", "auroc", "average_precision")


class TensorBoardLog:
    """A context manager over one folder of TensorBoard events.

    with TensorBoardLog(folder) as log:
        head = train_head(cache, config, on_epoch=log.epoch)
        log.result(head)

    Raises InputError when the package tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "TensorBoard logging needs the package tensorboard: pip install 'onepass[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def epoch(self, row: EpochRow) -> None:
        """Loss of train and val, learning rate, and the scores on val; an undefined score is left out."""
        scalars = {"loss/train": row.train_loss, "loss/val": row.val_loss, "lr": row.lr}
        found = {f"val/{name}": getattr(row, name) for name in VAL_SCALARS}
        for name, value in {**scalars, **found}.items():
            if value is not None:
                self._writer.add_scalar(name, value, row.epoch)

    def result(self, head: TrainedHead, figures: Sequence[ReportFigure] = ()) -> None:
        """Weights, threshold, notes and metrics as text, the metrics of every part as scalars, the figures."""
        info = head.info
        weights = f"RANDOM: {info.weights}" if info.random_weights else info.weights
        lines = [f"backbone weights {weights}", f"split {info.trained_on['split']}; val chose the model"]
        lines += [
            f"threshold {info.threshold.threshold:.4f} by {info.threshold.objective} on val",
            *info.notes,
        ]
        self._writer.add_text("head", "\n\n".join(lines))
        for part, metrics in info.metrics.items():
            for name in ("auroc", "average_precision", "f1", "accuracy", "brier", "ece"):
                if metrics[name] is not None:
                    self._writer.add_scalar(f"result-{part}/{name}", metrics[name], info.best_epoch)
        for figure in figures:
            name = Path(figure.file).stem
            self._writer.add_image(name, _pixels(figure.png), dataformats="HWC")


def _pixels(png: bytes) -> np.ndarray:
    """uint8 [H, W, 3]."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
