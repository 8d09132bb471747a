"""Everything worth knowing of the CUDA path, in one run of at most eight minutes.

    python benchmarks/gpu_day.py --out DIR [--src CLIPS] [--steps engines,nvdec] [--seconds 440] [--device cuda] [--tiny]

Open questions come first; `--steps` names some, with what they build on. Each step's figures are in DIR/gpu_day.json as soon as
it is done, a failed step's with its traceback: a run that is cut short keeps what it found. Videos are made where no folder is
given. `--device cpu --tiny` runs what a processor can, to find slips before a machine is there.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from gpu_steps.day import Day, Step
from gpu_steps.engines import convolutions, engines, fp16
from gpu_steps.heads import heads
from gpu_steps.machine import ceilings, environment
from gpu_steps.nvdec import nvdec
from gpu_steps.passes import bitwise, load, parity, profiled, runner, speed
from gpu_steps.videos import videos
from gpu_steps.whole import command_line, extraction, memory, parent, tests, verify

STEPS = (
    Step("environment", environment, 5),
    Step("ceilings", ceilings, 15),
    Step("engines", engines, 90, after=("ceilings",), alone=True),
    Step("videos", videos, 40),
    Step("nvdec", nvdec, 50, after=("videos",)),
    Step("convolutions", convolutions, 15, after=("ceilings",)),
    Step("load", load, 30),
    Step("memory", memory, 60, after=("videos", "load")),
    Step("fp16", fp16, 30, after=("ceilings",)),
    Step("parent", parent, 25, after=("videos", "load")),
    Step("heads", heads, 60),
    Step("parity", parity, 60, after=("videos", "load")),
    Step("bitwise", bitwise, 15, after=("load",)),
    Step("runner", runner, 20, after=("load",)),
    Step("extraction", extraction, 60, after=("videos", "load")),
    Step("verify", verify, 30, after=("extraction",)),
    Step("profiled", profiled, 15, after=("load",)),
    Step("command_line", command_line, 60),
    Step("tests", tests, 60),
    Step("speed", speed, 40, after=("load",)),
)
"""In order. Open: what keeps SlowFast from 60 % of its bound (`engines`, `convolutions`), a decoder on the device (`nvdec`)."""


def chosen(asked: str) -> list[Step]:
    """The steps asked for and what they build on, in order. Raises SystemExit for a name that is none."""
    known = {step.name: step for step in STEPS}
    names = [name for name in asked.split(",") if name] or list(known)
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"--steps {','.join(unknown)}: no such step; choose from {', '.join(known)}")
    wanted: set[str] = set()
    while names:
        wanted.add(name := names.pop())
        names += [below for below in known[name].after if below not in wanted]
    return [step for step in STEPS if step.name in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="gpu-day")
    parser.add_argument("--work", default=str(Path(tempfile.gettempdir()) / "gpu-day"))
    parser.add_argument("--src", default="")
    parser.add_argument("--steps", default="", help=",".join(step.name for step in STEPS))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=float, default=440)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    day = Day(parser.parse_args())
    # compile seconds are those of a machine that has compiled nothing
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.mkdtemp(dir=day.work, prefix="inductor-"))
    for step in chosen(day.args.steps):
        day.run(step)
    failed = [name for name, found in day.results.items() if "failed" in found]
    print(f"{time.perf_counter() - day.began:.0f} s; failed: {', '.join(failed) or 'none'}")


if __name__ == "__main__":
    main()
