"""An epoch of head training against the matrix products it consists of, measured in the same run at the same shapes.

    python benchmarks/head_epoch.py [--features CACHE] [--models attention-pool mlp ...] [--epochs 8]

Without --features the cache is made up as in benchmarks/sweep.py: 2,000 videos (1,600 train, 400 val) of 8 to 12 tokens, 2,816
wide. Every matrix product of one epoch (forward, backward, and scoring val) is recorded with its shapes, layout and type, then
run alone on random numbers right after each epoch; the sum of these times is the epoch's limit. An epoch is what `train-head`
does in it: drawing batches, training, averaging weights, scoring val and its threshold. Prints epoch / limit (bar 1.25).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sweep import make_cache

from cache.reader import open_cache
from heads.data.dataset import load_dataset
from heads.data.splits import choose_split
from heads.training.batched import FitJob, fit_together
from heads.training.config import TrainConfig
from heads.training.epochs import EpochRow

BAR = 1.25
MODELS: dict[str, dict[str, Any]] = {
    "attention-pool": {},
    "mlp": {"model": "mlp"},
    "linear": {"model": "linear"},
    "fusion": {"model": "fusion"},
    "transformer-256": {"model": "transformer", "width": 256},
    "transformer": {"model": "transformer", "batch_size": 64},
}
aten = torch.ops.aten
Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


@dataclass(frozen=True)
class Product:
    """A product of two operands, each by shape, strides and type."""

    a: Layout
    b: Layout

    @property
    def gflop(self) -> float:
        (*batch, rows, inner), columns = self.a[0], self.b[0][-1]
        count = 1
        for size in batch:
            count *= size
        return 2 * count * rows * inner * columns / 1e9


class Recorder(TorchDispatchMode):
    """Counts the matrix products that run while it is entered; attention counts as the products it is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = func.overloadpacket
        if packet in (aten.mm, aten.bmm):
            self._add(args[0], args[1])
        elif packet in (aten.addmm, aten.baddbmm):
            self._add(args[1], args[2])
        elif packet is aten.linear:
            self._add(args[0].flatten(0, -2), args[1].t())
        elif packet is aten._scaled_dot_product_flash_attention_for_cpu:
            query, key, value = args[:3]
            self._add(query, key.transpose(-1, -2))
            self._add(query.new_empty(*query.shape[:-1], key.shape[-2]), value)
        elif packet is aten._scaled_dot_product_flash_attention_for_cpu_backward:
            query, key = args[1], args[2]
            scores = query.new_empty(*query.shape[:-1], key.shape[-2])
            for _ in range(2):  # the scores again, and the gradient of the weights
                self._add(query, key.transpose(-1, -2))
            for _ in range(3):  # the gradients of query, key and value
                self._add(scores, key)
        elif "mm" in str(packet).split(".")[-1] or "attention" in str(packet):
            raise RuntimeError(f"{packet} is a product that this benchmark does not know")
        return func(*args, **(kwargs or {}))

    def _add(self, a: torch.Tensor, b: torch.Tensor) -> None:
        a, b = (x.detach() if x.dim() <= 3 else x.detach().reshape(-1, *x.shape[-2:]) for x in (a, b))
        self.products[Product(*((tuple(x.shape), x.stride(), x.dtype) for x in (a, b)))] += 1


def product_seconds(product: Product) -> float:
    """Seconds of one product alone, over at least 20 ms after a first one."""
    a, b = (_operand(*layout) for layout in (product.a, product.b))
    a @ b
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < 0.02:
        a @ b
        count += 1
    return (time.perf_counter() - began) / count


def _operand(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    size = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    return torch.randn(size).to(dtype).as_strided(shape, strides)


@dataclass(frozen=True)
class Measured:
    """One epoch and the products of an epoch run right after it, in seconds; work in GFLOP."""

    epoch: float
    limit: float
    gflop: float
    precision: str

    @property
    def ratio(self) -> float:
        """How many times the limit the epoch took."""
        return self.epoch / self.limit


def measure(features: Path, settings: dict[str, Any], *, epochs: int) -> list[Measured]:
    """Train so many epochs after two: the first warms up, the products of the second are recorded."""
    config = TrainConfig(n_resamples=0).updated({"epochs": epochs + 2, "patience": "off", **settings})
    recorder = Recorder()
    found: list[tuple[float, float]] = []
    began = 0.0

    def on_epoch(_: int, row: EpochRow) -> None:
        nonlocal began
        epoch = time.perf_counter() - began
        if row.epoch == 1:
            recorder.__enter__()
        elif row.epoch == 2:
            recorder.__exit__(None, None, None)
        else:
            limit = sum(count * product_seconds(product) for product, count in recorder.products.items())
            found.append((epoch, limit))
        began = time.perf_counter()

    with open_cache(features) as cache:
        dataset = load_dataset(cache, separate_streams=config.model.separate_streams, config=config.data)
        split = choose_split(dataset.labels, dataset.splits, dataset.groups)
        job = FitJob(config, split.train, split.val)
        (result,) = fit_together(
            dataset.tokens, dataset.labels, [job], stream_dims=dataset.stream_dims, on_epoch=on_epoch
        )
    assert not isinstance(result, Exception), result
    gflop = sum(count * product.gflop for product, count in recorder.products.items())
    return [Measured(epoch, limit, gflop, result.precision) for epoch, limit in found]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--epochs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        features = options.features or Path(folder) / "planted.zarr"
        if not features.exists():
            make_cache(features)
        print(
            f"{'model':<16}{'type':>6}{'epoch, s':>10}{'limit, s':>10}{'GFLOP':>9}{'GFLOP/s':>9}{'epoch / limit':>15}"
        )
        for name in options.models:
            found = sorted(measure(features, MODELS[name], epochs=options.epochs), key=lambda one: one.ratio)
            middle = found[len(found) // 2]
            print(
                f"{name:<16}{middle.precision:>6}{middle.epoch:>10.3f}{middle.limit:>10.3f}{middle.gflop:>9.0f}"
                f"{middle.gflop / middle.limit:>9.0f}{middle.ratio:>15.2f}   (bar {BAR}; {len(found)} epochs, "
                f"{found[0].ratio:.2f} to {found[-1].ratio:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
