"""Every model of `--model auto` beside floors and plain scikit-learn, on videos that nothing of it has seen.

    python benchmarks/models.py --features CACHE --seeds 5 [--only logistic] [--hold-out val] [--keep DIR]

Outer folds by source group, drawn again for every seed; of each, all but one fold are what `train-head` gets: it makes
folds of its own, chooses threshold and temperature out of fold and stores a head, which then scores the outer fold at
the stored threshold. Nothing of an outer fold is looked at before. With --hold-out, the outer fold is a stored split.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cache.reader import open_cache
from heads.data.dataset import HeadDataset, load_dataset
from heads.data.splits import FoldConfig, fold_rows, holdout
from heads.scoring.bootstrap import bootstrap_samples
from heads.scoring.calibration import probabilities
from heads.scoring.cuts import ResampledScores
from heads.scoring.floors import floor_probabilities, floors_out_of_fold, token_statistics
from heads.scoring.metrics import auroc
from heads.scoring.thresholds import choose_threshold
from heads.training.config import TrainConfig
from heads.training.cross_validation import folds_of
from heads.training.decide import decide
from heads.training.fit import fit, predict_logits
from heads.training.out_of_fold import FoldHeads, fit_fold_heads, mean_of_folds, refit
from heads.training.portfolio import candidates, judge

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
QUICK = TrainConfig(n_resamples=0)


class Scores:
    """Of one model: probabilities and thresholds of every video, one row a seed."""

    def __init__(self, n: int) -> None:
        self.probabilities: list[Float] = []
        self.thresholds: list[Float] = []
        self._n = n

    def put(self, seed: int, rows: Int, found: Float, threshold: float) -> None:
        while len(self.probabilities) <= seed:
            self.probabilities.append(np.full(self._n, np.nan))
            self.thresholds.append(np.full(self._n, np.nan))
        self.probabilities[seed][rows] = found
        self.thresholds[seed][rows] = threshold


def plain_scikit_learn(
    dataset: HeadDataset, table: Float, rest: Int, fold: Int, seed: int
) -> tuple[Float, float]:
    """Nested logistic regression written without this package: probabilities of `fold`, and a threshold out of fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y, groups = dataset.labels, np.array(dataset.groups)
    strengths = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    inner = [
        (rest[a], rest[b])
        for a, b in StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(
            rest[:, None], y[rest], groups[rest]
        )
    ]
    held = np.zeros((len(strengths), len(y)))
    for c, strength in enumerate(strengths):
        for a, b in inner:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
            held[c, b] = model.fit(table[a], y[a]).predict_proba(table[b])[:, 1]
    losses = [log_loss(y[rest], scores[rest], labels=[0, 1]) for scores in held]
    best = int(np.argmin(losses))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strengths[best], max_iter=5000))
    threshold = choose_threshold(y[rest], held[best][rest]).threshold
    return model.fit(table[rest], y[rest]).predict_proba(table[fold])[:, 1], threshold


def stored(dataset: HeadDataset, heads: FoldHeads, fold: Int, *, ensemble: str) -> tuple[Float, float]:
    """What `train-head` would store of these fold heads, on `fold`: probabilities and threshold."""
    rows = heads.rows
    decision = decide(heads.logits[rows], dataset.labels[rows], heads.config, dataset=dataset, rows=rows)
    model = mean_of_folds(dataset, heads) if ensemble == "folds" else refit(dataset, heads)
    return decision.probabilities(predict_logits(model, dataset.tokens, fold)), decision.choice.threshold


def outer_folds(dataset: HeadDataset, seed: int, hold_out: str | None) -> Iterator[tuple[Int, Int]]:
    if hold_out is not None:
        held = np.array(dataset.splits) == hold_out
        yield np.flatnonzero(~held), np.flatnonzero(held)
        return
    rows = np.arange(len(dataset))
    yield from fold_rows(dataset.labels, dataset.groups, rows, config=FoldConfig(k=5), seed=1000 + seed)


def earlier_default(joined: HeadDataset, rest: Int, fold: Int, seed: int) -> tuple[Float, float]:
    """attention-pool as `train-head --no-cv` trains it: val is a fifth of what it gets."""
    config = TrainConfig(seed=seed, n_resamples=0)
    train, val = holdout(joined.labels, joined.groups, rest, val_share=0.2, seed=seed)
    result = fit(
        joined.tokens,
        joined.labels,
        train=train,
        val=np.sort(val),
        stream_dims=joined.stream_dims,
        config=config,
    )
    scores = probabilities(predict_logits(result.model, joined.tokens, np.sort(val)))
    threshold = choose_threshold(joined.labels[np.sort(val)], scores).threshold
    return probabilities(predict_logits(result.model, joined.tokens, fold)), threshold


def fold_scores(
    dataset: HeadDataset, joined: HeadDataset | None, config: TrainConfig, rest: Int, fold: Int, *, only: str
) -> tuple[dict[str, tuple[Float, float]], str]:
    """Of every model: probabilities of `fold` and the stored threshold. And the candidate that auto takes, or "".

    joined: the dataset of the earlier default, or None to leave that out.
    """
    table = token_statistics(dataset.tokens)
    folds, _ = folds_of(dataset, config, k=5, rows=rest)
    thresholds = floors_out_of_fold(dataset, folds, config=config.threshold)
    found = {"constant": (np.full(len(fold), float(dataset.labels[rest].mean())), 0.5)}
    for name, scores in floor_probabilities(dataset, rest, pooled=table).items():
        found[f"floor: {name}"] = scores[fold], thresholds[name].threshold
    std = np.split(table, 2, axis=1)[1]
    for name, numbers in (("mean and std", table), ("std", std)):
        found[f"scikit-learn, nested, {name}"] = plain_scikit_learn(dataset, numbers, rest, fold, config.seed)
    trained: dict[str, FoldHeads] = {}
    recipes = {name: own for name, own in candidates(config).items() if only in name}
    for name, own in recipes.items():
        trained[name] = fit_fold_heads(dataset, own, folds, known=tuple(trained.values()))
        found[f"{name}, folds"] = stored(dataset, trained[name], fold, ensemble="folds")
        if own.model.architecture == "logistic":  # by gradient it takes as long as a fold head and a quarter
            found[f"{name}, refit"] = stored(dataset, trained[name], fold, ensemble="refit")
    taken = ""
    if not only:
        _, taken = judge(dataset, recipes, trained, {})
        found["auto"] = found[f"{taken}, folds"]  # what train-head stores where nothing else is asked for
    if joined is not None:
        found["earlier default"] = earlier_default(joined, rest, fold, config.seed)
    return found, taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="candidates whose name holds this")
    parser.add_argument("--hold-out", default=None, help="a stored split instead of outer folds")
    parser.add_argument("--streams", default=None)
    parser.add_argument("--earlier", action="store_true", help="the earlier default as well")
    parser.add_argument(
        "--keep", type=Path, help="folder of this run's folds; what is there is not done again"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = QUICK.updated({"streams": arguments.streams}).data if arguments.streams else QUICK.data
    joined = None
    with open_cache(arguments.features) as cache:
        dataset = load_dataset(cache, separate_streams=True, config=data)
        if arguments.earlier:
            joined = load_dataset(cache, separate_streams=False, config=data)
    found: dict[str, Scores] = {}
    scored = np.zeros(len(dataset), dtype=bool)
    taken: list[str] = []
    by_fold: dict[str, list[tuple[float, float]]] = {}
    for seed in range(arguments.seeds):
        started = time.perf_counter()
        config = TrainConfig(data=data, seed=seed, n_resamples=0)
        for number, (rest, fold) in enumerate(outer_folds(dataset, seed, arguments.hold_out)):
            scored[fold] = True
            kept = arguments.keep and arguments.keep / f"seed{seed}-fold{number}.json"
            if kept and kept.exists():
                own, name = json.loads(kept.read_text())
            else:
                own, name = fold_scores(dataset, joined, config, rest, fold, only=arguments.only)
            if kept and not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                values = {model: [list(scores), threshold] for model, (scores, threshold) in own.items()}
                kept.write_text(json.dumps([values, name]))
            taken += [name] * bool(name)
            for model, (scores, threshold) in own.items():
                rows = found.setdefault(model, Scores(len(dataset)))
                rows.put(seed, fold, np.asarray(scores), threshold)
                labels, found_here = dataset.labels[fold], np.asarray(scores)
                own_f1 = f1_at(labels, found_here >= threshold)
                by_fold.setdefault(model, []).append((auroc(labels, found_here) or 0.5, own_f1))
        print(f"seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
        report(dataset, found, np.flatnonzero(scored))
        print("auto took", {name: taken.count(name) for name in dict.fromkeys(taken)}, flush=True)
    report_folds(by_fold)


def report(dataset: HeadDataset, found: dict[str, Scores], rows: Int) -> None:
    """A row a model: AUROC (mean over seeds) with its interval, the paired difference to mean-pooled, F1, thresholds."""
    labels, groups = dataset.labels[rows], [dataset.groups[i] for i in rows]

    def resampled(name: str) -> Float:
        each = [ResampledScores(labels, scores[rows]) for scores in found[name].probabilities]

        def statistic(weights: Float) -> Float:
            return np.stack([one.auroc(weights) for one in each], axis=1)

        return bootstrap_samples(groups, statistic, n_resamples=1000).mean(axis=1)

    floor = resampled("floor: mean-pooled")
    print(f"{'model':<38} {'AUROC':<20} {'less mean-pooled':<22} {'F1 (SD of seeds)':<17} threshold (SD)")
    for name, scores in found.items():
        own = resampled(name)
        low, high = np.nanpercentile(own, [2.5, 97.5])
        d_low, d_high = np.nanpercentile(own - floor, [2.5, 97.5])
        values = [auroc(labels, one[rows]) or 0.5 for one in scores.probabilities]
        against = [auroc(labels, one[rows]) or 0.5 for one in found["floor: mean-pooled"].probabilities]
        f1 = []
        for one, threshold in zip(scores.probabilities, scores.thresholds, strict=True):
            flagged = one[rows] >= threshold[rows]
            f1.append(f1_at(labels, flagged))
        each = [np.unique(threshold[rows]) for threshold in scores.thresholds]
        drift = np.concatenate(each)
        print(
            f"{name:<38} {np.mean(values):.3f} [{low:.2f}, {high:.2f}]   "
            f"{np.mean(values) - np.mean(against):+.3f} [{d_low:+.3f}, {d_high:+.3f}]  "
            f"{np.mean(f1):.3f} ({np.std(f1):.3f})    {drift.mean():.3f} ({drift.std():.3f})",
            flush=True,
        )


def f1_at(labels: npt.NDArray[np.int8], flagged: npt.NDArray[np.bool_]) -> float:
    """F1 of decisions, 0 where nothing is flagged."""
    return 2 * float((flagged & (labels == 1)).sum()) / float(flagged.sum() + (labels == 1).sum())


def report_folds(by_fold: dict[str, list[tuple[float, float]]]) -> None:
    """A row a model: lowest, quartiles and highest of AUROC and F1 over outer folds, and where it is above mean-pooled."""
    floor = np.array(by_fold["floor: mean-pooled"])[:, 0]
    print(f"{'by outer fold':<38} {'AUROC, lowest to highest':<38} {'F1':<38} above mean-pooled")
    for name, values in by_fold.items():
        table = np.array(values)
        spread = np.percentile(table, [0, 25, 50, 75, 100], axis=0)
        words = [" ".join(f"{value:.3f}" for value in column) for column in spread.T]
        print(f"{name:<38} {words[0]:<38} {words[1]:<38} {(table[:, 0] > floor).sum()} of {len(floor)}")


if __name__ == "__main__":
    main()
