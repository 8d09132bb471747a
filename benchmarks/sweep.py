"""48 heads trained by `onepass ablate` against the same heads trained one after another by a plain loop.

    python benchmarks/sweep.py                 # both sides, and the ratio
    python benchmarks/sweep.py --kill          # the sweep alone, killed twice with kill -9 and resumed
    python benchmarks/sweep.py --kill --epochs 5   # the same in a quarter of the time
    python benchmarks/sweep.py --plain-cells 48   # the plain side whole instead of a twelfth

The cache is made up: 2,000 videos (1,600 train, 400 val) of 8 to 12 tokens, clip 512 and slowfast 2,304 wide, noise
with a planted signal along one direction of each stream, weaker in clip than in slowfast. So the ranking is known:
both streams, then slowfast, then clip. The 48 cells are what one sweeps on a working day: 3 choices of streams, the
default head (attention-pool) and an mlp, two learning rates, two losses, two dropouts; 20 epochs each at batch 32.

The plain side (benchmarks/plain_sweep.py) trains some of the cells for all 20 epochs, half of them before the sweep
and half after it; its time for all 48 is extrapolated from the cells of the same streams and model, whose cost is the
same whatever the learning rate, loss and dropout are. The machine's matrix-product rate for these shapes is measured
beside both, and the sweep's time is also given as a multiple of its floating-point work at that rate.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from plain_sweep import PlainResult, train_plain

from cache.convert import convert
from cache.schema import StreamSpec, StreamTokens, VideoFeatures, VideoRow
from cache.writer import CacheWriter
from heads.ablation.grid import Cell, make_cells, read_axes
from heads.training.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = {"clip": 512, "slowfast": 2304}
SIGNAL = {"clip": 0.48, "slowfast": 0.74}
LEVELS = ("clip", "slowfast", "clip+slowfast")
MODELS = ("attention-pool", "mlp")
N_TRAIN, N_VAL = 1600, 400
FIXED = ["patience=off"]
GRID = [
    f"streams={','.join(LEVELS)}",
    f"model={','.join(MODELS)}",
    "lr=3e-4,1e-3",
    "loss=bce,focal",
    "dropout=0.1,0.3",
]
BAR = 4.0


def make_cache(path: Path, *, seed: int = 0, n_train: int = N_TRAIN, n_val: int = N_VAL) -> None:
    rng = np.random.default_rng(seed)
    directions = {name: rng.standard_normal(width) for name, width in WIDTHS.items()}
    specs = [
        StreamSpec(
            name, width, "float16", {"stream": name, "weights": {"tag": "made up, with a planted signal"}}
        )
        for name, width in WIDTHS.items()
    ]
    videos = []
    for index in range(n_train + n_val):
        label, n_tokens = (index // 2) % 2, int(rng.integers(8, 13))
        edges = np.linspace(0, 0.5 * n_tokens, n_tokens + 1, dtype=np.float32)
        tokens = {}
        for name, width in WIDTHS.items():
            values = rng.standard_normal((n_tokens, width), dtype=np.float32)
            values += label * SIGNAL[name] * directions[name] / np.linalg.norm(directions[name])
            tokens[name] = StreamTokens(values.astype(np.float16), np.stack([edges[:-1], edges[1:]], axis=1))
        split = "train" if index < n_train else "val"
        name = ("NonFight", "Fight")[label]
        row = VideoRow(
            id=f"{split}/{name}/s{index // 2:04d}_{index % 2}.avi",
            digest=f"blake2b:{index:016x}", size_bytes=1, mtime_ns=1, label=label, label_name=name, split=split,
            source="", duration_seconds=0.5 * n_tokens, fps=30.0, width=320, height=240,
            n_frames=15 * n_tokens, decoder="none",
        )  # fmt: skip
        videos.append(VideoFeatures(row, tokens))
    with CacheWriter.open(
        path, streams=specs, dataset="planted", label_names=("NonFight", "Fight"), provenance={}
    ) as writer:
        writer.commit(videos, [])


@dataclass(frozen=True)
class Ceiling:
    """GFLOP/s of the best of several runs on all cores, for a batch of 32 x 10 tokens times a first layer."""

    float32: float
    bfloat16: float


def measure_ceiling(*, rounds: int = 30) -> Ceiling:
    rates = []
    for dtype in (torch.float32, torch.bfloat16):
        tokens, weights = torch.randn(320, 2816).to(dtype), torch.randn(256, 2816).to(dtype)
        best = min(_seconds(lambda x=tokens, w=weights: x @ w.T) for _ in range(rounds))  # type: ignore[misc]
        rates.append(2 * 320 * 2816 * 256 / best / 1e9)
    return Ceiling(*rates)


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def sweep_gflop(cells: list[Cell]) -> tuple[float, float]:
    """Matrix products of the whole sweep in GFLOP: (training, which may run in bf16, scoring in float32).

    Only what touches tokens: a first layer of 256 columns (attention's value and gate, or the mlp), forward and
    weight gradient. Classifier and pool are left out, so the multiple that is printed is an upper bound.
    """
    train = score = 0.0
    for cell in cells:
        width = sum(WIDTHS[name] for name in cell.config.data.streams or ())
        layer = 2 * width * 256 * 10 / 1e9
        train += cell.config.optim.epochs * N_TRAIN * 2 * layer
        score += cell.config.optim.epochs * N_VAL * layer
    return train, score


@dataclass(frozen=True)
class SweepTime:
    """wall: seconds of the command or commands; processor: of it and its processes."""

    wall: float
    processor: float


def run_sweep(
    cache: Path, out: Path, *, jobs: int, fixed: list[str], kills: tuple[int, ...] = ()
) -> SweepTime:
    """`onepass ablate` as a user runs it; killed each time that so many cells have finished, then run again."""
    command = [sys.executable, "-m", "onepass", "ablate", "--features", str(cache), "--out", str(out)]
    command += ["--seeds", "1"]  # as the plain loop trains
    command += ["--jobs", str(jobs)]
    for setting in (*GRID, *fixed):
        command += ["--set", setting]
    wall = processor = 0.0
    for limit in (*kills, None):
        before = {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}
        started, used = time.perf_counter(), os.times()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL if limit else None)
        while limit is not None and len(list((out / "cells").glob("*.json"))) < limit:
            if process.poll() is not None:
                sys.exit("the sweep ended before it could be killed")
            time.sleep(0.2)
        if limit is not None:
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGKILL)
            psutil.wait_procs(children, timeout=30)
        if process.wait() not in (0, -signal.SIGKILL):
            sys.exit(f"onepass ablate failed with {process.returncode}")
        wall += time.perf_counter() - started
        now = os.times()
        processor += now.children_user + now.children_system - used.children_user - used.children_system
        after = {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}
        kept = sum(after.get(name) == written for name, written in before.items())
        print(
            f"{'killed' if limit else 'ended'} after {time.perf_counter() - started:.1f} s: {len(after)} files of "
            f"finished runs and floors, {kept} of the {len(before)} from before untouched",
            flush=True,
        )
        if kept != len(before):
            sys.exit("a finished cell was trained again")
    return SweepTime(wall, processor)


def read_board(out: Path) -> dict[str, dict[str, str]]:
    with (out / "leaderboard.csv").open(encoding="utf-8") as file:
        return {row["label"]: row for row in csv.DictReader(file) if row["kind"] == "cell"}


def report_ranking(board: dict[str, dict[str, str]]) -> bool:
    """How the leaderboard's order agrees with the planted one."""
    from scipy.stats import kendalltau

    rows = sorted(board.values(), key=lambda row: int(row["rank"]))
    levels = [LEVELS.index(row["setting:data.streams"]) for row in rows]
    scores = [float(row["auroc"]) for row in rows]
    for level, name in reversed(list(enumerate(LEVELS))):
        own = [score for score, found in zip(scores, levels, strict=True) if found == level]
        ranks = [place for place, found in enumerate(levels, start=1) if found == level]
        print(
            f"  streams {name:<14} AUROC {min(own):.3f} to {max(own):.3f}, mean {np.mean(own):.3f}; "
            f"ranks {min(ranks)} to {max(ranks)}"
        )
    others = {label.split(" ", 1)[1] for label in board}
    triples = [[float(board[f"streams={level} {other}"]["auroc"]) for level in LEVELS] for other in others]
    in_order = sum(a < b < c for a, b, c in triples)
    tau = kendalltau(levels, scores).statistic
    print(
        f"  planted order clip < slowfast < both holds in {in_order} of {len(triples)} triples; Kendall tau-b {tau:.3f}"
    )
    return in_order == len(triples)


def run_plain(h5: Path, cell: Cell, *, workers: int) -> PlainResult:
    found = train_plain(h5, cell.config, workers=workers)
    print(
        f"plain   {cell.label}: AUROC {found.auroc:.3f}, {found.seconds:.1f} s wall, "
        f"{found.processor_seconds:.1f} s of processor time",
        flush=True,
    )
    return found


def plain_choice(cells: list[Cell], n: int) -> list[Cell]:
    """Cells spread over every pair of streams and model, as evenly as n allows."""
    by_kind: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        by_kind.setdefault(tuple(value for _, value in cell.settings[:2]), []).append(cell)
    kinds = list(by_kind.values())
    return [kinds[i % len(kinds)][(5 * (i // len(kinds)) + i) % 8] for i in range(n)]


def compare(
    cells: list[Cell], plain: dict[str, PlainResult], sweep: SweepTime, board: dict[str, dict[str, str]]
) -> bool:
    def kind(label: str) -> str:
        return " ".join(label.split(" ")[:2])

    wall: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}
    for label, found in plain.items():
        wall.setdefault(kind(label), []).append(found.seconds)
        processor.setdefault(kind(label), []).append(found.processor_seconds)
    plain_wall = sum(float(np.mean(wall[kind(cell.label)])) for cell in cells)
    plain_processor = sum(float(np.mean(processor[kind(cell.label)])) for cell in cells)
    print(f"\n{'streams, model':<40}{'plain, s a cell':>16}{'sweep, s a cell':>16}")
    for name, seconds in wall.items():
        own = [float(row["seconds"]) for label, row in board.items() if kind(label) == name]
        print(f"{name:<40}{np.mean(seconds):>16.1f}{np.mean(own):>16.1f}  (of two processes side by side)")
    differences = []
    for label, result in plain.items():
        row = board[label]
        differences.append(float(row["auroc"]) - result.auroc)
        print(
            f"AUROC {label}: plain {result.auroc:.3f}, sweep {float(row['auroc']):.3f} "
            f"(interval {float(row['low']):.3f} to {float(row['high']):.3f}), difference {differences[-1]:+.3f}"
        )
    print(f"mean difference of AUROC {np.mean(differences):+.4f}, largest {np.abs(differences).max():.3f}")
    how = "" if len(plain) == len(cells) else f" (extrapolated from {len(plain)} cells)"
    ratio = plain_wall / sweep.wall
    print(f"plain   {plain_wall:,.0f} s wall{how}, {plain_processor:,.0f} s of processor time")
    print(
        f"sweep   {sweep.wall:,.0f} s wall, start-up, floors and leaderboard included; {sweep.processor:,.0f} s of processor time"
    )
    print(
        f"ratio   {ratio:.1f} in wall time (bar {BAR:g}), {plain_processor / sweep.processor:.1f} in processor time",
    )
    return ratio >= BAR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--kill", action="store_true", help="only the sweep, killed twice and resumed")
    parser.add_argument(
        "--plain-cells", type=int, default=6, help="cells that the plain side trains, 6 to 48"
    )
    parser.add_argument("--epochs", type=int, default=20, help="of every cell")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    fixed = [f"epochs={options.epochs}", *FIXED]
    base = TrainConfig().updated(dict(setting.split("=") for setting in fixed))
    cells, _ = make_cells(base, read_axes(GRID))
    assert len(cells) == len(list(product(*(axis.split(",") for axis in GRID))))
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        cache, h5, out = folder / "planted.zarr", folder / "planted.h5", folder / "sweep"
        if not cache.exists():
            make_cache(cache)
        if not h5.exists():
            convert(cache, h5)
        if options.kill:
            time_used = run_sweep(cache, folder / "killed", jobs=options.jobs, fixed=fixed, kills=(12, 30))
            print(
                f"{len(cells)} cells, killed twice and resumed: {time_used.wall:.0f} s in all, lost work included"
            )
            sys.exit(0 if report_ranking(read_board(folder / "killed")) else 1)
        print(
            f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores before the start"
        )
        ceiling = measure_ceiling()
        chosen = plain_choice(cells, max(6, options.plain_cells))
        trial = {w: train_plain(h5, chosen[-1].config, workers=w, epochs=1).seconds for w in (0, 2)}
        workers = min(trial, key=lambda w: trial[w])
        print(
            f"plain   one epoch with 0 workers {trial[0]:.1f} s, with 2 workers {trial[2]:.1f} s: {workers} it is"
        )
        half = len(chosen) // 2
        plain = {cell.label: run_plain(h5, cell, workers=workers) for cell in chosen[:half]}
        sweep = run_sweep(cache, out, jobs=options.jobs, fixed=fixed)
        plain |= {cell.label: run_plain(h5, cell, workers=workers) for cell in chosen[half:]}
        again = measure_ceiling()
        rate = Ceiling(max(ceiling.float32, again.float32), max(ceiling.bfloat16, again.bfloat16))
        board = read_board(out)
        met = compare(cells, plain, sweep, board)
        training, scoring = sweep_gflop(cells)
        least = training / max(rate.bfloat16, rate.float32) + scoring / rate.float32
        print(
            f"ceiling {rate.float32:.0f} GFLOP/s float32, {rate.bfloat16:.0f} bf16, [320, 2816] x [2816, 256]"
        )
        print(
            f"        {training + scoring:,.0f} GFLOP of token products need {least:.0f} s at that rate; the sweep "
            f"took {sweep.wall / least:.1f} times that"
        )
        print("ranking")
        ranked = report_ranking(board)
        sys.exit(0 if met and ranked else 1)


if __name__ == "__main__":
    main()
