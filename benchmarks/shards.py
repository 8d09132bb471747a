"""What dividing a source costs: one extraction of all against N shards, one after the other, and the merge.

    python benchmarks/shards.py --src DIR [--shards 3] [--rounds 3] [-- --streams image,motion]

Both sides by the same command, start-up aside: what a run's report calls so (imports, weights, the first workers), and the
imports of the merge. Every other round begins with the shards. At the end the two caches are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cache.check import values_digest
from cache.merge import merge
from cache.reader import Cache, open_cache
from pipeline.sources.tree import discover

SCRIPTS = Path(sys.executable).parent


def extracted(src: Path, out: Path, extra: Sequence[str]) -> float:
    """Seconds of one run after its start-up."""
    report = out.with_suffix(".json")
    command = [
        str(SCRIPTS / "extract"),
        "--src",
        str(src),
        "--out",
        str(out),
        "--report",
        str(report),
        *extra,
    ]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(report.read_text(encoding="utf-8"))
    return float(found["seconds"]) - float(found["setup_seconds"])


def in_shards(given: argparse.Namespace, parts: Path) -> list[float]:
    """Seconds of each shard after its start-up, one after the other."""
    return [
        extracted(
            given.src,
            parts / f"{n}.zarr",
            [*given.extra, "--shard", f"{n}/{given.shards}", "--max-rejects", "1"],
        )
        for n in range(1, given.shards + 1)
    ]


def contents(cache: Cache) -> tuple[object, ...]:
    """What two caches that are the same have alike."""
    return (
        [values_digest(cache, name) for name in sorted(cache.streams)],
        sorted((cache.videos.row(n) for n in range(len(cache))), key=lambda row: row.id),
        cache.rejects.counts(),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a round, and the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "extra", nargs="*", default=["--streams", "image,motion"], help="arguments of extract, after --"
    )
    given = parser.parse_args(arguments)
    whole, divided, merging = [], [], []
    for number in range(1, given.rounds + 1):
        with tempfile.TemporaryDirectory(prefix="onepass-shards-") as folder:
            one, parts, joined = (
                Path(folder) / "one.zarr",
                Path(folder) / "parts",
                Path(folder) / "joined.zarr",
            )
            parts.mkdir()
            if number % 2:
                whole.append(extracted(given.src, one, given.extra))
            shards = in_shards(given, parts)
            if not number % 2:
                whole.append(extracted(given.src, one, given.extra))
            divided.append(sum(shards))
            began = time.perf_counter()
            listed = [source.id for source in discover(given.src).sources]
            merge(sorted(parts.glob("*.zarr")), joined, listed=listed)
            merging.append(time.perf_counter() - began)
            with open_cache(one) as a, open_cache(joined) as b:
                same = contents(a) == contents(b)
                n_videos = len(a)
        print(
            f"round {number}: {n_videos} videos whole {whole[-1]:.1f} s; {given.shards} shards {divided[-1]:.1f} s "
            f"({', '.join(f'{s:.1f}' for s in shards)}), merge {merging[-1]:.1f} s; the same cache: {same}",
            flush=True,
        )
        if not same:
            sys.exit("the merged cache differs from the whole run's")
    ratio = statistics.median((d + m) / w for w, d, m in zip(whole, divided, merging, strict=True))
    print(
        f"shards and merge against one run, start-up aside: {ratio:.3f} (bar 1.05), median of {given.rounds}"
    )


if __name__ == "__main__":
    main()
