"""How long commands take to begin: --help, the first step of train-head, inspect of a large cache.

    python benchmarks/startup.py [--rounds 5] [--videos 100000]

Whole processes by the wall clock, medians of several rounds after one that warms the file cache. The caches are made up: 2,000
videos of 8 to 12 tokens, 2,816 wide, for train-head; --videos of 10 tokens, 8 wide, for inspect.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cache_read import make_cache as make_many
from sweep import make_cache

from cache.schema import StreamSpec

COMMANDS = ("extract", "train-head", "audit", "ablate", "threshold", "export-onnx", "inspect", "verify", "convert",
            "predict", "demo")  # fmt: skip
BARS = {"help": 0.5, "first step": 5.0, "inspect": 2.0}
FIRST_STEP = """
import os, sys, time
def first_step(*_):
    os.write(2, b"first step\\n")
    os._exit(0)
sys.argv = ["train-head", "--features", sys.argv[1], "--out", sys.argv[2]]
from heads.training import adamw
from heads.cli import train as cli
from heads.models import regression
adamw.AdamW.step = regression._Path.fit = first_step
cli.main()
"""
"""train-head as its entry point runs it, ended where its first fit or optimiser step would be."""

LIBRARIES = "import torch, sklearn.linear_model, sklearn.model_selection, sklearn.metrics"
"""What training cannot begin without."""


def seconds(command: list[str], *, says: str = "") -> float:
    """Wall seconds of a process; exits unless it succeeds and its output holds `says`."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - began
    if done.returncode or says not in done.stdout + done.stderr:
        sys.exit(f"{' '.join(command[:4])} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    return wall


def median(command: list[str], rounds: int, *, says: str = "") -> float:
    """Median of `rounds`, after one that does not count."""
    seconds(command, says=says)
    return statistics.median(seconds(command, says=says) for _ in range(rounds))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--videos", type=int, default=100_000)
    options = parser.parse_args()
    scripts = Path(sys.executable).parent
    helps = {
        name: median([str(scripts / name), "--help"], options.rounds) for name in ("extract", "train-head")
    }
    for name in ("", *COMMANDS):
        command = [str(scripts / "onepass"), *([name] if name else []), "--help"]
        helps[f"onepass {name}".strip()] = median(command, options.rounds)
    for name, value in helps.items():
        print(f"{name + ' --help':<28}{value:>7.2f} s")
    slowest = max(helps.values())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_cache(folder / "rwf.zarr")
        command = [sys.executable, "-c", FIRST_STEP, str(folder / "rwf.zarr"), str(folder / "head")]
        imports = median([sys.executable, "-c", LIBRARIES], options.rounds)
        first = median(command, options.rounds, says="first step")
        narrow = StreamSpec("slowfast", 8, "float16", {"stream": "slowfast", "weights": {"tag": "made up"}})
        make_many(folder / "many.zarr", options.videos, narrow)
        inspect = median([str(scripts / "onepass"), "inspect", str(folder / "many.zarr")], options.rounds)
    print(f"slowest --help              {slowest:>7.2f} s (bar {BARS['help']})")
    print(f"train-head, 2,000 videos    {first:>7.2f} s to its first step (bar {BARS['first step']:g})")
    print(f"  torch and scikit-learn    {imports:>7.2f} s of it, imported alone")
    print(f"inspect, {options.videos:,} videos     {inspect:>7.2f} s (bar {BARS['inspect']:g})")


if __name__ == "__main__":
    main()
