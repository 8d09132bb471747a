"""A thousand nodes on paper: how much of their time is useful, by the number of shards and how videos are put into them.

    python benchmarks/simulate_cluster.py [--seed 0]                # minutes
    python benchmarks/simulate_cluster.py --nodes 100 --hours 150000 # as much work a node, in half a minute

What is simulated: heavy-tailed durations (log-normal), one core a video as in the decode pool, list scheduling inside a node,
nodes of unequal speed, stragglers, preemptions that lose what was not committed and send the rest of the shard elsewhere, and
the start-up of every attempt. Useful is core time that went into videos that were stored by it. What is not: the file system,
the network, and the merge.
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from cost import DECODE_FRAMES_PER_CORE_SECOND
from numpy.typing import NDArray

from pipeline.sources.shards import balanced, hashed_shard

Work = NDArray[np.float64]
"""Core seconds of each video of a shard, in the order in which they are decoded."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """speeds: of each node, 1 is as measured. task_cores: what a shard runs on; a node runs cores / task_cores of them at a time.

    start_seconds: of an attempt, until its first frame. back_seconds: until a preempted node is there again.
    """

    speeds: Sequence[float]
    cores: int = 16
    task_cores: int = 16
    start_seconds: float = 20.0
    back_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """hours: until the last shard ended. useful: share of all core time while it ran. attempts: starts of shards; lost: those

    that a preemption cut off.
    """

    hours: float
    useful: float
    attempts: int
    lost: int


def finishes(work: Work, cores: int) -> Work:
    """When each video is done, in seconds from the first frame: each goes to the core that is free first."""
    if cores == 1:
        return np.cumsum(work)
    free = work[:cores].tolist()
    done = free.copy()
    heapq.heapify(free)
    for seconds in work[cores:].tolist():
        end = free[0] + seconds
        heapq.heapreplace(free, end)
        done.append(end)
    return np.array(done)


class Losses:
    """When nodes are preempted. lives: of each node, the seconds that it is there each time."""

    def __init__(self, lives: Sequence[Iterator[float]], back_seconds: float) -> None:
        self._lives, self._back = lives, back_seconds
        self._next = [next(each) for each in lives]

    def after(self, node: int, now: float) -> tuple[float, float]:
        """From when on the node is there (`now`, or later), and when it is lost after that. Asked in order of time."""
        while self._next[node] + self._back <= now:
            self._next[node] += self._back + next(self._lives[node])
        gone = self._next[node]
        if gone > now:
            return now, gone
        back = gone + self._back
        self._next[node] = back + next(self._lives[node])
        return back, self._next[node]


def preempted(up_seconds: float, rng: np.random.Generator) -> Iterator[float]:
    """Lives of a node with this mean; 0: it is never lost."""
    while True:
        yield float(rng.exponential(up_seconds)) if up_seconds else float("inf")


def simulate(shards: Sequence[Work], cluster: Cluster, lives: Sequence[Iterator[float]]) -> Outcome:
    """Free places take shards in order; what a lost node had not stored is taken next, by whichever is free."""
    queue = deque(work for work in shards if len(work))
    whole = sum(float(work.sum()) for work in queue)
    losses = Losses(lives, cluster.back_seconds)
    places = [
        (0.0, node) for node in range(len(cluster.speeds)) for _ in range(cluster.cores // cluster.task_cores)
    ]
    rests: list[tuple[float, int, Work]] = []  # of shards, from when their node was lost
    spent = stored = last = 0.0
    attempts = lost = 0
    while queue or rests:
        now, node = heapq.heappop(places)
        there, gone = losses.after(node, now)
        if there > now or (not queue and rests[0][0] > now):
            heapq.heappush(places, (there if there > now else rests[0][0], node))
            continue
        work = heapq.heappop(rests)[2] if rests and rests[0][0] <= now else queue.popleft()
        attempts += 1
        done = now + cluster.start_seconds + finishes(work, cluster.task_cores) / cluster.speeds[node]
        kept = done <= gone
        stored += float(work[kept].sum())
        spent += float(work[kept].sum()) / cluster.speeds[node]
        if kept.all():
            last = max(last, float(done.max()))
            heapq.heappush(places, (float(done.max()), node))
        else:
            lost += 1
            heapq.heappush(rests, (gone, attempts, work[~kept]))
            heapq.heappush(places, (gone, node))
    assert abs(stored - whole) <= 1e-6 * whole, "work was lost or done twice"
    return Outcome(last / 3600, spent / (last * cluster.cores * len(cluster.speeds)), attempts, lost)


def durations(hours: float, rng: np.random.Generator, *, median: float, sigma: float, longest: float) -> Work:
    """Log-normal seconds of videos, as many as make `hours`; none longer than `longest` seconds."""
    mean = median * float(np.exp(sigma**2 / 2))
    drawn = np.minimum(rng.lognormal(np.log(median), sigma, max(1, int(2.5 * hours * 3600 / mean))), longest)
    return drawn[: int(np.searchsorted(np.cumsum(drawn), hours * 3600)) + 1]


def divided(work: Work, of: int, *, planned: bool, taper: float = 0.0) -> list[Work]:
    """The shards, by the project's own functions."""
    ids = [f"v{number:09d}.mp4" for number in range(len(work))]
    if planned:
        placed = balanced(dict(zip(ids, work.tolist(), strict=True)), of, taper=taper)
    else:
        placed = {video_id: hashed_shard(video_id, of) for video_id in ids}
    members: dict[int, list[float]] = defaultdict(list)
    for video_id, seconds in zip(ids, work.tolist(), strict=True):
        members[placed[video_id]].append(seconds)
    shards = [np.array(members[place]) for place in range(1, of + 1) if place in members]
    return [np.sort(shard)[::-1] for shard in shards] if planned else shards


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of shard counts, balancing and orders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--cores", type=int, default=16)
    parser.add_argument("--hours", type=float, default=1_500_000, help="of video")
    parser.add_argument("--height", type=int, default=1080, choices=sorted(DECODE_FRAMES_PER_CORE_SECOND))
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--median-seconds", type=float, default=600.0)
    parser.add_argument("--sigma", type=float, default=1.2, help="of the log-normal durations")
    parser.add_argument("--longest-hours", type=float, default=4.0)
    parser.add_argument("--stragglers", type=float, default=0.05, help="share of nodes at 0.4 of the speed")
    parser.add_argument("--up-hours", type=float, default=6.0, help="mean time between preemptions of a node")
    parser.add_argument("--start-seconds", type=float, default=20.0)
    parser.add_argument("--per-node", type=int, nargs="+", default=[16, 96])
    parser.add_argument("--task-cores", type=int, nargs="+", default=[16, 4])
    parser.add_argument("--taper", type=float, default=0.0, help="of planned shards, as onepass plan --taper")
    parser.add_argument("--put-in", nargs="+", default=["hash", "plan"], choices=("hash", "plan"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    rng = np.random.default_rng(given.seed)
    seconds = durations(
        given.hours, rng, median=given.median_seconds, sigma=given.sigma, longest=given.longest_hours * 3600
    )
    work = seconds * given.fps / DECODE_FRAMES_PER_CORE_SECOND[given.height]
    speeds = np.exp(rng.normal(0, 0.08, given.nodes))
    speeds[: int(given.stragglers * given.nodes)] *= 0.4
    rng.shuffle(speeds)
    print(
        f"{len(work):,} videos, {seconds.sum() / 3600:,.0f} h at {given.height}p, the longest {seconds.max() / 3600:.1f} h "
        f"({work.max():,.0f} core seconds); {given.nodes} nodes of {given.cores} cores, {given.stragglers:.0%} at 0.4 of the "
        f"speed, each lost every {given.up_hours:g} h; {work.sum() / 3600 / given.nodes / given.cores:.2f} h if nothing went "
        f"wrong; seed {given.seed}"
    )
    print("shards a node  cores a shard  put in by   hours  useful  starts a shard  cut off")
    for per_node in given.per_node:
        for planned in (way == "plan" for way in given.put_in):
            shards = divided(work, per_node * given.nodes, planned=planned, taper=given.taper)
            for task_cores in given.task_cores:
                cluster = Cluster(speeds.tolist(), given.cores, task_cores, given.start_seconds)
                lives = [
                    preempted(given.up_hours * 3600, each)
                    for each in np.random.default_rng(given.seed + 1).spawn(given.nodes)
                ]
                found = simulate(shards, cluster, lives)
                print(
                    f"{per_node:13d}  {task_cores:13d}  {'plan' if planned else 'hash':9s} {found.hours:6.2f} "
                    f"{found.useful:7.1%} {found.attempts / len(shards):15.2f} {found.lost:8d}",
                    flush=True,
                )


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"{time.perf_counter() - began:.0f} s")
