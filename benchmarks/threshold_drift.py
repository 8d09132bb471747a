"""How far the best threshold moves from one epoch to the next: the default recipe against the plain one, over several seeds.

    python benchmarks/threshold_drift.py --features CACHE [--seeds 10] [--epochs 20] [--models attention-pool fusion]

Both sides train the same model on the same split with the same learning rate and number of epochs; the plain recipe has a
constant rate without warm-up, no clipping and no averaged weights. The threshold is that of the best F1 on val after each
epoch, before calibration. Drift: mean absolute change from one epoch to the next. Range: highest minus lowest. Both are given
as the mean over seeds with the lowest and highest seed, for all epochs and for the second half alone.

    python benchmarks/threshold_drift.py --features CACHE --transfer [--seeds 5] [--streams image,motion]

How well a threshold transfers: outer folds by source group, drawn again for every seed; of each, `--model logistic` is trained on
all but one fold, its threshold chosen out of fold (`train-head`) or on a val of a fifth (`--no-cv`), and the outer fold is scored
at it. The best threshold of the outer fold itself, which nobody can know, stands beside.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cache.reader import open_cache
from heads.data.dataset import HeadDataset, load_dataset, weights_line
from heads.data.splits import FoldConfig, Split, choose_split, fold_rows, holdout
from heads.scoring.thresholds import choose_threshold
from heads.training.batched import FitJob, fit_together
from heads.training.config import FINAL_MODEL_4, TrainConfig
from heads.training.cross_validation import folds_of
from heads.training.decide import decide
from heads.training.fit import fit, predict_logits
from heads.training.out_of_fold import fit_fold_heads, mean_of_folds

Rows = npt.NDArray[np.int64]

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


def transfer(dataset: HeadDataset, config: TrainConfig, seeds: int) -> None:
    """A line each for out-of-fold and val: the threshold with its SD, F1 on the outer folds at it, and at the best one."""
    names = ("out of fold", "val of a fifth")
    thresholds: dict[str, list[float]] = {name: [] for name in names}
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    rows = np.arange(len(dataset))
    for seed in range(seeds):
        own = config.updated({"seed": seed})
        flagged = {name: np.zeros(len(dataset), dtype=bool) for name in names}
        best = {name: np.zeros(len(dataset), dtype=bool) for name in names}
        for rest, fold in fold_rows(
            dataset.labels, dataset.groups, rows, config=FoldConfig(k=5), seed=1000 + seed
        ):
            for name, (found, threshold) in zip(
                names, (by_folds(dataset, own, rest, fold), by_val(dataset, own, rest, fold)), strict=True
            ):
                thresholds[name].append(threshold)
                flagged[name][fold] = found >= threshold
                best[name][fold] = found >= choose_threshold(dataset.labels[fold], found).threshold
        for name in names:
            scores[name].append((f1(dataset.labels, flagged[name]), f1(dataset.labels, best[name])))
    everything = f1(dataset.labels, np.ones(len(dataset), dtype=bool))
    print(
        f"{'threshold from':<18}{'threshold (SD)':>18}{'lowest, highest':>20}{'F1 (SD)':>18}{'at each best':>14}"
    )
    for name in names:
        at, (own_f1, best_f1) = np.array(thresholds[name]), np.array(scores[name]).T
        print(
            f"{name:<18}{at.mean():>10.3f} ({at.std():.3f}){at.min():>12.3f}, {at.max():.3f}"
            f"{own_f1.mean():>11.3f} ({own_f1.std():.3f}){best_f1.mean():>14.3f}",
            flush=True,
        )
    print(f"all-positive F1 {everything:.3f}; {seeds} seeds, {len(thresholds[names[0]])} trainings each")


def by_folds(dataset: HeadDataset, config: TrainConfig, rest: Rows, fold: Rows) -> tuple[np.ndarray, float]:
    """Probabilities of `fold` and the threshold, as train-head trains on `rest`."""
    heads = fit_fold_heads(dataset, config, folds_of(dataset, config, k=5, rows=rest)[0])
    chosen = decide(heads.logits[rest], dataset.labels[rest], config, dataset=dataset, rows=rest)
    logits = predict_logits(mean_of_folds(dataset, heads), dataset.tokens, fold)
    return chosen.probabilities(logits), chosen.choice.threshold


def by_val(dataset: HeadDataset, config: TrainConfig, rest: Rows, fold: Rows) -> tuple[np.ndarray, float]:
    """The same as train-head --no-cv does."""
    train, val = (
        np.sort(part)
        for part in holdout(dataset.labels, dataset.groups, rest, val_share=0.2, seed=config.seed)
    )
    result = fit(
        dataset.tokens,
        dataset.labels,
        train=train,
        val=val,
        stream_dims=dataset.stream_dims,
        config=config,
        groups=dataset.groups,
    )
    logits = predict_logits(result.model, dataset.tokens, val)
    chosen = decide(logits, dataset.labels[val], config, dataset=dataset, rows=val)
    return chosen.probabilities(predict_logits(result.model, dataset.tokens, fold)), chosen.choice.threshold


def f1(labels: np.ndarray, flagged: np.ndarray) -> float:
    """2 hits / (flagged + positives)."""
    return 2 * float((flagged & (labels == 1)).sum()) / float(flagged.sum() + (labels == 1).sum())


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
    parser.add_argument("--streams", default=None)
    parser.add_argument("--transfer", action="store_true", help="of the logistic head instead")
    options = parser.parse_args()
    streams = {"streams": options.streams} if options.streams else {}
    if options.transfer:
        torch.set_num_threads(1)
        config = TrainConfig().updated({"model": "logistic", "n_resamples": 0, **streams})
        with open_cache(options.features) as cache:
            dataset = load_dataset(cache, separate_streams=True, config=config.data)
        transfer(dataset, config, options.seeds)
        print(f"weights: {weights_line(dataset.streams)}")
        return
    fixed = {"epochs": options.epochs, "patience": "off"}
    recipes = [
        (f"{model}, {name}", TrainConfig().updated({"model": model, **fixed, **streams, **settings}))
        for model in options.models
        for name, settings in PARTS.items()
    ]
    if options.earlier:
        recipes.append(
            (f"final-model-4, {FINAL_MODEL_4.optim.epochs} epochs", FINAL_MODEL_4.updated(streams))
        )
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
