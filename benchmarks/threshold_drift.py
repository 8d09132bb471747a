"""How far the best threshold moves from one epoch to the next: the default recipe against the plain one, over several seeds.

    python benchmarks/threshold_drift.py --features CACHE [--seeds 10] [--epochs 20] [--models attention-pool fusion]

Both sides train the same model on the same split with the same learning rate and number of epochs; the plain recipe has a
constant rate without warm-up, no clipping and no averaged weights. The threshold is that of the best F1 on val after each
epoch, before calibration. Drift: mean absolute change from one epoch to the next. Range: highest minus lowest. Both are given
as the mean over seeds with the lowest and highest seed, for all epochs and for the second half alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cache.reader import open_cache
from heads.data.dataset import HeadDataset, load_dataset, weights_line
from heads.data.splits import Split, choose_split
from heads.training.batched import FitJob, fit_together
from heads.training.config import FINAL_MODEL_4, TrainConfig

PLAIN = {"schedule": "constant", "warmup_share": 0, "clip_norm": "off", "ema_decay": "off"}
PARTS = {
    "plain": PLAIN,
    "plain + averaged weights": {k: v for k, v in PLAIN.items() if k != "ema_decay"},
    "plain + schedule": {k: v for k, v in PLAIN.items() if k not in ("schedule", "warmup_share")},
    "default": {},
}


def thresholds(dataset: HeadDataset, split: Split, config: TrainConfig, seeds: int) -> np.ndarray:
    """The threshold after every epoch, float64 [seeds, epochs]."""
    jobs = [FitJob(config.updated({"seed": seed}), split.train, split.val) for seed in range(seeds)]
    found = []
    for start in range(0, seeds, 4):
        results = fit_together(
            dataset.tokens, dataset.labels, jobs[start : start + 4], stream_dims=dataset.stream_dims
        )
        for result in results:
            assert not isinstance(result, Exception), result
            found.append([row.threshold for row in result.history])
    return np.array(found)


def describe(values: np.ndarray) -> str:
    """Mean over seeds, with the lowest and the highest."""
    return f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"


def report(name: str, found: np.ndarray) -> None:
    """One line of the table."""
    late = found[:, found.shape[1] // 2 :]
    cells = []
    for part in (found, late):
        cells += [describe(np.abs(np.diff(part, axis=1)).mean(axis=1)), describe(np.ptp(part, axis=1))]
    print(f"{name:<40}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=["attention-pool", "fusion"])
    parser.add_argument("--earlier", action="store_true", help="also the preset final-model-4 (slow)")
    options = parser.parse_args()
    fixed = {"epochs": options.epochs, "patience": "off"}
    recipes = [
        (f"{model}, {name}", TrainConfig().updated({"model": model, **fixed, **settings}))
        for model in options.models
        for name, settings in PARTS.items()
    ]
    if options.earlier:
        recipes.append((f"final-model-4, {FINAL_MODEL_4.optim.epochs} epochs", FINAL_MODEL_4))
    with open_cache(options.features) as cache:
        print(f"{options.seeds} seeds, {options.epochs} epochs; threshold of the best F1 on val")
        columns = ("drift", "range", "drift, second half", "range, second half")
        print(f"{'recipe':<40}" + "".join(f"{column:>26}" for column in columns))
        for name, config in recipes:
            dataset = load_dataset(cache, separate_streams=config.model.separate_streams, config=config.data)
            split = choose_split(dataset.labels, dataset.splits, dataset.groups)
            report(name, thresholds(dataset, split, config, options.seeds))
        print(f"weights: {weights_line(dataset.streams)}; split {split}")


if __name__ == "__main__":
    main()
