"""One head as a plain loop trains it: a Dataset that reads every item from HDF5, a DataLoader, float32, one at a time.

    python benchmarks/plain_sweep.py CACHE.h5 --set model=mlp --set lr=1e-3 [--workers 0|2]

It is the other side of benchmarks/sweep.py. The head, its loss and its recipe (AdamW, cosine schedule, clipping,
averaged weights, standardised inputs, best epoch by val AUROC, exact threshold) are those of the project, so that
scores can be compared; what is plain is how items get to it. All streams of the cache must share one time grid, as
they do in the made-up cache of benchmarks/sweep.py: then joining them is a concatenation.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from heads.models.model import HeadModel
from heads.training.config import TrainConfig
from heads.training.losses import HeadLoss
from heads.training.optim import lr_factor

Item = tuple[Tensor, float]
Batch = tuple[Tensor, Tensor, Tensor]


class ClipDataset(Dataset[Item]):
    """Features are read when an item is asked for; labels and offsets are held. One open file a process."""

    def __init__(self, path: Path, rows: Sequence[int], streams: Sequence[str]) -> None:
        self.path, self.rows, self.streams = path, list(rows), list(streams)
        self.file: h5py.File | None = None
        with h5py.File(path, "r") as file:
            self.labels = file["videos/label"][:].astype(float)
            self.offsets = {name: file["streams"][name]["offsets"][:] for name in streams}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Item:
        if self.file is None:
            self.file = h5py.File(self.path, "r")
        row = self.rows[place]
        parts = []
        for name in self.streams:
            first, last = self.offsets[name][row : row + 2]
            parts.append(self.file["streams"][name]["values"][first:last].astype(np.float32))
        return torch.from_numpy(np.concatenate(parts, axis=1)), float(self.labels[row])


def collate(items: list[Item]) -> Batch:
    values = nn.utils.rnn.pad_sequence([tokens for tokens, _ in items], batch_first=True)
    lengths = torch.tensor([len(tokens) for tokens, _ in items])
    mask = torch.arange(values.shape[1]) < lengths[:, None]
    return values, mask, torch.tensor([label for _, label in items])


@dataclass(frozen=True)
class PlainResult:
    """val AUROC and F1 of the best epoch, its threshold, and wall and processor seconds of the training."""

    auroc: float
    f1: float
    threshold: float
    seconds: float
    processor_seconds: float
    epochs: int


def train_plain(
    path: Path, config: TrainConfig, *, workers: int = 0, epochs: int | None = None
) -> PlainResult:
    """Train one head; the best epoch by AUROC on val."""
    optim = config.optim
    epochs = epochs or optim.epochs
    torch.manual_seed(config.seed)
    with h5py.File(path, "r") as file:
        splits = file["videos/split"].asstr()[:]
        labels = file["videos/label"][:]
        streams = sorted(config.data.streams or file["streams"])
        dims = tuple(int(file["streams"][name]["values"].shape[1]) for name in streams)
    rows = {part: np.flatnonzero(splits == part).tolist() for part in ("train", "val")}
    options: dict[str, Any] = {
        "batch_size": optim.batch_size,
        "collate_fn": collate,
        "num_workers": workers,
        "persistent_workers": workers > 0,
    }
    started, processor = time.perf_counter(), _processor_seconds()
    train = DataLoader(ClipDataset(path, rows["train"], streams), shuffle=True, **options)
    val = DataLoader(ClipDataset(path, rows["val"], streams), **options)
    model = HeadModel(config.model, dims)
    _fit_scaling(model, train)
    n_positive = int(labels[rows["train"]].sum())
    loss = HeadLoss(config.loss, pos_weight=(len(rows["train"]) - n_positive) / n_positive)
    optimizer = torch.optim.AdamW(model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay)
    n_steps = optim.epochs * len(train)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(min(step, n_steps - 1), n_steps=n_steps, config=optim)
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(optim.ema_decay or 0.0))
    best = (-1.0, 0.0, 0.0)
    for _ in range(epochs):
        model.train()
        for values, mask, targets in train:
            optimizer.zero_grad()
            times = torch.arange(values.shape[1]).expand(mask.shape).float()
            loss(model([values], [mask], [times]), targets.float()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm or 1e9)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
        best = max(best, _score(average.module, val))
    return PlainResult(*best, time.perf_counter() - started, _processor_seconds() - processor, epochs)


def _fit_scaling(model: HeadModel, train: DataLoader[Item]) -> None:
    real = torch.cat([values[mask] for values, mask, _ in train])
    (scaling,) = model.input_scalings()
    scaling.mean.copy_(real.mean(dim=0))
    scaling.std.copy_(real.std(dim=0, correction=0).clamp(min=1e-6))


@torch.no_grad()
def _score(model: nn.Module, val: DataLoader[Item]) -> tuple[float, float, float]:
    model.eval()
    scores, labels = [], []
    for values, mask, targets in val:
        times = torch.arange(values.shape[1]).expand(mask.shape).float()
        scores.append(torch.sigmoid(model([values], [mask], [times])))
        labels.append(targets)
    truth, probability = torch.cat(labels).numpy(), torch.cat(scores).numpy()
    precision, recall, cuts = precision_recall_curve(truth, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    threshold = float(cuts[int(f1[:-1].argmax())])
    auroc = float(roc_auc_score(truth, probability))
    return auroc, float(f1_score(truth, probability >= threshold)), threshold


def _processor_seconds() -> float:
    import psutil

    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cache", type=Path, help="an .h5 cache")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the train config")
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers")
    parser.add_argument("--epochs", type=int, help="stop after so many (the schedule stays)")
    options = parser.parse_args()
    config = TrainConfig().updated(dict(setting.split("=", 1) for setting in options.set))
    found = train_plain(options.cache, config, workers=options.workers, epochs=options.epochs)
    print(
        f"val AUROC {found.auroc:.4f}, F1 {found.f1:.4f} at {found.threshold:.4f}; {found.epochs} epochs in "
        f"{found.seconds:.1f} s, {found.processor_seconds:.1f} s of processor time"
    )


if __name__ == "__main__":
    main()
