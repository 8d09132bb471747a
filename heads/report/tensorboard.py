"""TensorBoard logging of a training, as an option: scalars by epoch, and the result with its figures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from cache.errors import InputError
from heads.report import words
from heads.trained.head import TrainedHead
from heads.training.fit import EpochRow

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

    def result(self, head: TrainedHead, figures: Iterable[Path] = ()) -> None:
        """Weights, threshold and notes as text, the metrics of every part as scalars, PNG files as images."""
        info = head.info
        facts = words.data_facts(head)
        if head.training is not None:
            facts += words.result_facts(head, head.training)
        weights = info.random_note or f"backbone weights {info.weights}"
        lines = [weights, *(f"{name}: {value}" for name, value in facts), *info.notes]
        self._writer.add_text("head", "\n\n".join(lines))
        for part, metrics in info.metrics.items():
            for name in ("auroc", "average_precision", "f1", "accuracy", "brier", "ece"):
                if metrics[name] is not None:
                    self._writer.add_scalar(f"result-{part}/{name}", metrics[name], info.best_epoch)
        for path in figures:
            self._writer.add_image(path.stem, _pixels(path), dataformats="HWC")


def _pixels(path: Path) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3]."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
