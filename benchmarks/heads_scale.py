"""Heads on large caches: seconds and peak memory of each step by number of videos, each step a process of its own.

    python benchmarks/heads_scale.py --videos 10000 100000 1000000 [--steps open split audit train score] [--limit 600]

Made caches: two tokens of 16 numbers a video (64 bytes), the class in their mean; what is measured is what grows with videos.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from cache.reader import open_cache
from cache.schema import StreamSpec, StreamTokens, VideoFeatures, VideoRow
from cache.stores import files
from cache.writer import CacheWriter

SPEC = StreamSpec("clip", 16, "float16", {"stream": "clip", "weights": {"tag": "made up"}})
SPANS = np.array([[0, 1], [1, 2]], np.float32)
COMMIT = 20_000


def make(path: Path, count: int) -> None:
    """Write the cache."""
    rng = np.random.default_rng(0)
    with (
        mock.patch.object(files, "sync"),
        CacheWriter.open(
            path, streams=[SPEC], dataset="scale", label_names=("no", "yes"), provenance={}
        ) as writer,
    ):
        for first in range(0, count, COMMIT):
            size = min(COMMIT, count - first)
            values = rng.normal(size=(size, 2, SPEC.dim)).astype(np.float16)
            batch = []
            for place in range(size):
                number = first + place
                label = number % 2
                values[place, :, 0] += np.float16(label)
                row = VideoRow(f"d/v{number:07d}.mp4", f"blake2b:{number:032x}", 10_000, number, label,
                               ("no", "yes")[label], ("train", "train", "train", "val")[number // 3 % 4],
                               f"s{number // 3}", 2.0 + number % 7, 25.0, 640, 360, 50, "pyav")  # fmt: skip
                batch.append(VideoFeatures(row, {"clip": StreamTokens(values[place], SPANS)}))
            writer.commit(batch, [])


def step_open(path: Path, head: Path) -> None:
    """Every column a head asks for."""
    with open_cache(path) as cache:
        for name in ("id", "digest", "label", "split", "source", "duration_seconds"):
            cache.videos.column(name)


def step_split(path: Path, head: Path) -> None:
    """The data set of a head, and folds by source group."""
    from heads.data.dataset import load_dataset
    from heads.data.splits import fold_splits

    with open_cache(path) as cache:
        dataset = load_dataset(cache, separate_streams=False)
        fold_splits(dataset.labels, dataset.groups)


def step_audit(path: Path, head: Path) -> None:
    """All that `onepass audit` looks for."""
    from heads import audit_cache

    with open_cache(path) as cache:
        audit_cache(cache)


def step_train(path: Path, head: Path) -> None:
    """One regression on statistics, out of five folds."""
    from heads import TrainConfig, train_head
    from heads.models.model import ModelConfig

    with open_cache(path) as cache:
        config = TrainConfig(model=ModelConfig(architecture="logistic"), n_resamples=0)
        train_head(cache, config).save(head)


def step_score(path: Path, head: Path) -> None:
    """The stored head over all videos."""
    from heads import TrainedHead

    with open_cache(path) as cache:
        assert len(TrainedHead.load(head).predict(cache)) == len(cache)


STEPS: dict[str, Callable[[Path, Path], None]] = {
    "open": step_open,
    "split": step_split,
    "audit": step_audit,
    "train": step_train,
    "score": step_score,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a step may take")
    parser.add_argument("--one", nargs=3, metavar=("STEP", "CACHE", "HEAD"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        began = time.perf_counter()
        STEPS[given.one[0]](Path(given.one[1]), Path(given.one[2]))
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(
            f"{time.perf_counter() - began:8.1f} s {used.ru_utime + used.ru_stime:8.1f} processor s "
            f"{used.ru_maxrss / 1024:8.0f} MiB"
        )
        return
    for count in given.videos:
        with tempfile.TemporaryDirectory(prefix="onepass-heads-") as folder:
            path, head = Path(folder) / "c.zarr", Path(folder) / "head"
            began = time.perf_counter()
            make(path, count)
            print(f"{count:9,d} videos made in {time.perf_counter() - began:.0f} s", flush=True)
            for step in given.steps:
                command = [sys.executable, __file__, "--one", step, str(path), str(head)]
                try:
                    done = subprocess.run(
                        command, capture_output=True, text=True, timeout=given.limit, check=False
                    )
                    said = done.stdout.rstrip() if not done.returncode else done.stderr.strip()[-300:]
                except subprocess.TimeoutExpired:
                    said = f"not done after {given.limit:.0f} s"
                print(f"{count:9,d} {step:6s} {said}", flush=True)


if __name__ == "__main__":
    main()
