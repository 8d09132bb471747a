"""How long `--model auto` takes on 2,000 videos of two streams, in seconds of wall and processor time.

    python benchmarks/auto.py [--videos 2000] [--threads 2]

Made-up features, 512 and 2,304 wide, 10 and 5 tokens a video: the label is in the standard deviation over time of a few
columns. Time is that of the comparison, of deciding out of fold with the floors, and of the stored head.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from cache.tables import TokenArray
from heads.data.dataset import HeadDataset, StreamInput, in_memory
from heads.data.splits import Split
from heads.train import train_auto
from heads.training.config import TrainConfig

STREAMS = {"clip": (512, 10), "slowfast": (2304, 5)}


def made_up(n: int) -> HeadDataset:
    """n videos from n / 4 source groups, as many positive as negative."""
    rng = np.random.default_rng(0)
    labels = (np.arange(n) // 4 % 2).astype(np.int8)
    ragged = {}
    for name, (dim, length) in STREAMS.items():
        values = rng.standard_normal((n, length, dim), dtype=np.float32)
        values[:, :, :8] *= 1 + 0.3 * labels[:, None, None]
        values += rng.standard_normal((n, 1, dim), dtype=np.float32)  # the scene
        starts = np.tile(np.arange(length, dtype=np.float32), n)
        ragged[name] = TokenArray(
            values.reshape(-1, dim).astype(np.float16),
            np.stack([starts, starts + 1], axis=1),
            np.arange(n + 1, dtype=np.int64) * length,
        )
    seconds = np.full(n, 5.0)
    return HeadDataset(
        ids=tuple(f"v{i:05d}" for i in range(n)),
        digests=("",) * n,
        labels=labels,
        splits=("",) * n,
        sources=tuple(f"s{i // 4}" for i in range(n)),
        groups=tuple(f"s{i // 4}" for i in range(n)),
        durations=seconds,
        metadata=np.stack([seconds] * 4, axis=1),
        streams=tuple(StreamInput(name, dim, {}) for name, (dim, _) in STREAMS.items()),
        tokens=in_memory(ragged, separate_streams=True),
        grid="slowfast",
        label_names=("no", "yes"),
        cache_name="made-up",
        cache_digest="",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = made_up(arguments.videos)
    rows = np.arange(len(dataset))
    split = Split(rows[:-1], rows[-1:], rows[:0], "made-up")
    wall, processor = time.perf_counter(), time.process_time()
    last = [wall, processor]

    def on_row(name: str, auroc: float) -> None:
        now = [time.perf_counter(), time.process_time()]
        print(
            f"{name:<28} AUROC {auroc:.3f}  {now[0] - last[0]:6.1f} s wall  {now[1] - last[1]:6.1f} s cpu",
            flush=True,
        )
        last[:] = now

    head = train_auto(dataset, split, TrainConfig(), on_row=on_row, device="cpu")
    for row in head.info.portfolio:
        if row["note"]:
            print(f"{row['name']:<28} {row['note']}")
    print("taken:", next(row["name"] for row in head.info.portfolio if row["taken"]))
    print(
        "seconds by step:",
        {name: round(value, 1) for name, value in (head.training.seconds if head.training else {}).items()},
    )
    print(f"all: {time.perf_counter() - wall:.1f} s wall, {time.process_time() - processor:.1f} s cpu")


if __name__ == "__main__":
    main()
