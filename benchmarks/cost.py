"""What a volume of video costs, from measured constants and the prices that you give.

    python benchmarks/cost.py [--hours 1000 100000 100000000] [--height 720] [--core-hour 0.04 --gpu-hour 2 --tb-month 20]

Measured (docs/performance.md, docs/gpu.md): frames decoded a core second by height, GPU windows a second, FLOPs, bytes.
Prices are parameters, not quotations: put in your own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

DECODE_FRAMES_PER_CORE_SECOND = {240: 1044.0, 360: 495.0, 720: 178.0, 1080: 91.0}
"""PyAV, H.264, both default streams prepared: docs/performance.md, Decoders (2 cores of Zen 3)."""


@dataclass(frozen=True, slots=True)
class Stream:
    """tokens_a_second of video, of `width` float16. gflop: a token. gpu_tokens_a_second: an H200, bf16 (docs/gpu.md)."""

    tokens_a_second: float
    width: int
    gflop: float
    gpu_tokens_a_second: float

    @property
    def bytes_a_second(self) -> float:
        """Values and spans (two float32 a token)."""
        return self.tokens_a_second * (2 * self.width + 8)


STREAMS = {
    "clip": Stream(2.0, 512, 8.8, 29_600),
    "slowfast": Stream(30 / 64, 2304, 131.4, 1_021),
}
CPU_GFLOPS_A_CORE = 52.0
"""float32, the median matrix rate of 2 cores (docs/performance.md: 72 to 154 GFLOP/s, here 105), halved."""
ROW_BYTES = 250
"""A video's row in a Zarr cache: 14 columns, an id of 40 letters."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one volume. decode_core_hours; model hours on GPUs or, without one, on cores; bytes of features."""

    decode_core_hours: float
    gpu_hours: float
    cpu_model_core_hours: float
    feature_bytes: float


def cost(
    hours: float, *, height: int, fps: float, streams: Sequence[str], useful: float, video_seconds: float
) -> Cost:
    """useful: share of node time that goes into stored videos (benchmarks/simulate_cluster.py)."""
    seconds = hours * 3600
    made = [STREAMS[name] for name in streams]
    return Cost(
        decode_core_hours=hours * fps / DECODE_FRAMES_PER_CORE_SECOND[height] / useful,
        gpu_hours=hours * sum(s.tokens_a_second / s.gpu_tokens_a_second for s in made),
        cpu_model_core_hours=hours
        * sum(s.tokens_a_second * s.gflop for s in made)
        / CPU_GFLOPS_A_CORE
        / useful,
        feature_bytes=seconds * sum(s.bytes_a_second for s in made) + seconds / video_seconds * ROW_BYTES,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, nargs="+", default=[1e3, 1e5, 1e8], help="of video")
    parser.add_argument("--height", type=int, default=720, choices=sorted(DECODE_FRAMES_PER_CORE_SECOND))
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--streams", nargs="+", default=list(STREAMS), choices=sorted(STREAMS))
    parser.add_argument("--video-seconds", type=float, default=300.0, help="mean length of a video")
    parser.add_argument("--days", type=float, nargs="+", default=[1, 7, 90], help="to finish each volume in")
    parser.add_argument("--useful", type=float, default=0.9, help="share of node time")
    parser.add_argument("--core-hour", type=float, default=0.04, help="price")
    parser.add_argument("--gpu-hour", type=float, default=2.0, help="price")
    parser.add_argument("--tb-month", type=float, default=20.0, help="price of 1e12 bytes for a month")
    given = parser.parse_args(arguments)
    if len(given.days) != len(given.hours):
        parser.error("--days: one for each of --hours")
    print(
        f"{given.height}p at {given.fps:g} fps, {', '.join(given.streams)}, {given.useful:.0%} useful; prices given: "
        f"{given.core_hour:g} a core hour, {given.gpu_hour:g} a GPU hour, {given.tb_month:g} a TB and month\n"
    )
    print("| hours of video | videos | core hours (decode) | GPU hours | or core hours instead of GPUs | features | "
          "in | cores | GPUs, busy | price: cores + GPUs | a month of storage |")  # fmt: skip
    print("|" + "---|" * 11)
    for hours, days in zip(given.hours, given.days, strict=True):
        found = cost(
            hours, height=given.height, fps=given.fps, streams=given.streams, useful=given.useful,
            video_seconds=given.video_seconds,
        )  # fmt: skip
        terabytes = found.feature_bytes / 1e12
        money = found.decode_core_hours * given.core_hour + found.gpu_hours * given.gpu_hour
        print(
            f"| {hours:,.0f} | {hours * 3600 / given.video_seconds:,.0f} | {found.decode_core_hours:,.0f} | "
            f"{found.gpu_hours:,.1f} | {found.cpu_model_core_hours:,.0f} | {terabytes:,.3g} TB | {days:g} days | "
            f"{found.decode_core_hours / days / 24:,.0f} | {found.gpu_hours / days / 24:,.2f} | {money:,.0f} | "
            f"{terabytes * given.tb_month:,.2f} |"
        )


if __name__ == "__main__":
    main()
