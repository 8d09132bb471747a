"""Trial: `kill -9` of a whole extraction at random moments, then the same command again, until it is done.

    python benchmarks/kill_extract.py --src DIR --format zarr --rounds 20 --reference UNINTERRUPTED.zarr

After every kill the cache must open and hold only whole videos that the reference holds too; at the end it must equal the
reference: same ids, same digests, same tokens bit for bit, same rejects. Prints a line a round, exits 1 at the first difference.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from cache.errors import CacheNotFound
from cache.reader import Cache, open_cache


def same_videos(part: Cache, whole: Cache) -> list[str]:
    """Differences between what `part` holds and the same videos of `whole`."""
    place = {video_id: index for index, video_id in enumerate(whole.videos.id)}
    problems = []
    if len(set(part.videos.id)) != len(part):
        problems.append("an id stands twice")
    for index, video_id in enumerate(part.videos.id):
        if video_id not in place:
            problems.append(f"{video_id} is not in the reference")
            continue
        if part.videos.row(index) != whole.videos.row(place[video_id]):
            problems.append(f"{video_id}: row differs")
        for stream in whole.streams:
            mine, theirs = part.tokens(stream, index), whole.tokens(stream, place[video_id])
            if not (np.array_equal(mine.values, theirs.values) and np.array_equal(mine.spans, theirs.spans)):
                problems.append(f"{video_id}: {stream} tokens differ")
    return problems


def n_committed(target: Path) -> int:
    """Videos that the cache holds, 0 where there is none yet."""
    try:
        with open_cache(target) as part:
            return len(part)
    except CacheNotFound:
        return 0


def main() -> None:
    """Run the trial."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--src", type=Path, required=True)
    parser.add_argument("--format", choices=["zarr", "h5"], default="zarr")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--reference", type=Path, required=True, help="cache of an uninterrupted run of the same command"
    )
    parser.add_argument("--out", type=Path, default=Path("bench-out/kill"))
    parser.add_argument(
        "--longest", type=float, default=20.0, help="latest moment of a kill, seconds after the start"
    )
    parser.add_argument(
        "--after-commit",
        action="store_true",
        help="count from the first commit of a round, so that no kill falls into start-up",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("extra", nargs="*", help="further arguments of extract, after --")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    target = arguments.out / f"killed.{arguments.format}"
    extract = str(Path(sys.executable).with_name("extract"))
    command = [
        extract,
        "--src",
        str(arguments.src),
        "--out",
        str(target),
        "--weights",
        "random",
        *arguments.extra,
    ]
    rng = random.Random(arguments.seed)
    with open_cache(arguments.reference) as whole, (arguments.out / "log.txt").open("w") as log:
        for number in range(1, arguments.rounds + 1):
            delay = rng.uniform(0.5, arguments.longest)
            before = n_committed(target)
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            while arguments.after_commit and process.poll() is None and n_committed(target) == before:
                time.sleep(0.1)
            time.sleep(delay)
            done = process.poll() is not None
            if not done:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            try:
                with open_cache(target) as part:
                    held, problems = len(part), same_videos(part, whole)
            except CacheNotFound:
                held, problems = 0, []  # killed before the first commit: nothing was promised yet
            print(
                f"round {number:>2}: {'done' if done else 'killed'} after {delay:4.1f} s, "
                f"{held} of {len(whole)} videos committed",
                flush=True,
            )
            if problems:
                sys.exit(f"FAILED: {problems[:3]}")
        began = time.monotonic()
        code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        with open_cache(target) as final:
            problems = same_videos(final, whole)
            if len(final) != len(whole) or final.rejects.counts() != whole.rejects.counts():
                problems.append(
                    f"{len(final)} videos, {final.rejects.counts()} against {len(whole)}, {whole.rejects.counts()}"
                )
        print(
            f"last run: exit {code} after {time.monotonic() - began:.0f} s; {len(problems)} differences",
            flush=True,
        )
        if problems or code:
            sys.exit(f"FAILED: {problems[:3]}")
    leftovers = sorted(path.name for path in arguments.out.iterdir() if path.name != "log.txt")
    print(f"equal to the uninterrupted run bit for bit; files beside it: {leftovers}")


if __name__ == "__main__":
    main()
