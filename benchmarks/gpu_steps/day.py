"""A day on a GPU: arguments, results, what steps hand to one another, and what most of them need."""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WINDOW_FLOP, FRAME_FLOP = 131.4e9, 8.8e9
"""torch's counter: a SlowFast window, a ViT-B-32 frame."""


@dataclass(frozen=True)
class Step:
    """One question. needs_seconds: it is not begun with less, and ends after three times as much. after: what it builds on.

    alone: in a process of its own, for what may leave the device unusable to the others.
    """

    name: str
    run: Callable[[Day], dict[str, Any]]
    needs_seconds: float
    after: tuple[str, ...] = ()
    alone: bool = False


class OutOfTime(BaseException):
    """Past what a step may take; no handler of errors inside a step takes it for one."""


class Day:
    """Arguments, results, and what steps hand to one another."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.args, self.began = arguments, time.perf_counter()
        self.out = Path(arguments.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.work = Path(arguments.work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}

    @property
    def left(self) -> float:
        return self.args.seconds - (time.perf_counter() - self.began)

    @property
    def precision(self) -> Any:
        return "fp32" if self.args.tiny else "bf16"

    @property
    def cuda(self) -> bool:
        return bool(self.args.device == "cuda")

    def keep(self, name: str, found: dict[str, Any]) -> None:
        """What a step found so far, on the disk."""
        self.results[name] = found
        (self.out / "gpu_day.json").write_text(
            json.dumps(self.results, indent=1, default=str), encoding="utf-8"
        )

    def run(self, step: Step) -> None:
        """Never raises: the next step still has something to tell."""
        missing = [
            name
            for name in step.after
            if {"failed", "skipped"} & self.results.get(name, {"failed": ""}).keys()
        ]
        if self.left < step.needs_seconds:
            self.keep(step.name, {"skipped": f"{self.left:.0f} s left"})
        elif missing:
            self.keep(step.name, {"skipped": f"needs {', '.join(missing)}"})
        else:
            began = time.perf_counter()
            try:
                found = (
                    self._apart(step)
                    if step.alone and not (self.args.alone or self.args.tiny)
                    else self._here(step)
                )
                self.keep(step.name, {**found, "took_s": round(time.perf_counter() - began, 1)})
            except BaseException as error:  # noqa: BLE001 - a limit, a dead device, Ctrl-C
                so_far = self.results.get(step.name, {})
                failed = {
                    "failed": f"{type(error).__name__}: {error}",
                    "traceback": traceback.format_exc(),
                }
                self.keep(step.name, {**so_far, **failed})
        shown = {k: v for k, v in self.results[step.name].items() if k != "traceback"}
        print(
            f"[{time.perf_counter() - self.began:6.1f} s] {step.name}: {json.dumps(shown, default=str)[:1500]}",
            flush=True,
        )

    def _limit(self, step: Step) -> float:
        return min(3 * step.needs_seconds, self.left + 30)

    def _here(self, step: Step) -> dict[str, Any]:
        def too_long(*_: object) -> None:
            raise OutOfTime("it was stopped")

        before = signal.signal(signal.SIGALRM, too_long)
        signal.setitimer(signal.ITIMER_REAL, max(self._limit(step), 1))
        try:
            return step.run(self)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _apart(self, step: Step) -> dict[str, Any]:
        """The same command with this step alone, in its own folder; what it wrote counts even where it did not end."""
        out, limit = self.out / step.name, self._limit(step)
        own = ["--out", str(out), "--work", str(self.work), "--device", self.args.device, "--alone"]
        said = shell(
            sys.executable,
            sys.argv[0],
            *own,
            "--steps",
            step.name,
            "--seconds",
            str(limit),
            seconds=limit + 20,
        )
        said = said[-2000:] or "it ended without a word"
        if not (out / "gpu_day.json").exists():
            raise RuntimeError(said)
        told = json.loads((out / "gpu_day.json").read_text(encoding="utf-8"))
        found: dict[str, Any] = told.get(step.name, {})
        return found if "took_s" in found or "failed" in found else {**found, "failed": said}


def sync(day: Day) -> None:
    import torch

    if day.cuda:
        torch.cuda.synchronize()


def shell(*command: str, seconds: float = 10) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}"
    return (done.stdout + done.stderr).strip()


def rate(day: Day, once: Callable[[], object], *, seconds: float = 0.8) -> float:
    """Median seconds of one call, each waited for; warmed up."""
    for _ in range(1 if day.args.tiny else 3):
        once()
    sync(day)
    found: list[float] = []
    until = time.perf_counter() + (0 if day.args.tiny else seconds)
    while not found or time.perf_counter() < until:
        began = time.perf_counter()
        once()
        sync(day)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def backbones(
    day: Day, precision: str, only: str = "", batch_size: int = 0, engine: str = "graph"
) -> dict[str, Any]:
    from pipeline.backbones.load import BackboneConfig, load_backbones

    return load_backbones(
        BackboneConfig.of(
            streams=(only,) if only else ("clip", "slowfast"),
            clip_weights="random",
            slowfast_weights="random",
            device=day.args.device,
            precision=precision,
            runtime="torch",
            batch_sizes=((only.partition("=")[0], batch_size),) if batch_size else (),
            gpu_engine=engine,
        )
    )


def batch_of(day: Day, name: str, size: int) -> Any:
    """Random frames on the device: zeros run faster than real ones."""
    import torch

    plan = day.kept["backbones"][name].plan
    high, dtype = (256, torch.uint8) if name == "clip" else (255 * 128, torch.int16)
    return torch.randint(
        0, high, (size, plan.sampling.window, *plan.frames.shape), dtype=dtype, device=day.args.device
    )


def compared(fast: Any, plain: Any) -> dict[str, float]:
    """Own cosine; the same without the mean token, since random weights give tokens that are nearly alike; nearest neighbour."""
    a, b = np.asarray(fast, np.float64), np.asarray(plain, np.float64)

    def cosine(x: Any, y: Any) -> Any:
        return (x * y).sum(-1) / np.maximum(np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1), 1e-30)

    centre = b.mean(0)
    table = cosine((a - centre)[:, None], (b - centre)[None])
    apart = cosine(b[:, None], b[None])[~np.eye(len(b), dtype=bool)]
    return {
        "tokens": len(a),
        "worst_cosine": float(cosine(a, b).min()),
        "worst_relative_error": float((np.abs(a - b).max(1) / np.abs(b).max(1)).max()),
        "worst_centred_cosine": float(np.diag(table).min()),
        "nearest_is_own": int((table.argmax(1) == np.arange(len(a))).sum()),
        "closest_two_tokens": float(apart.max()) if len(apart) else 0.0,
    }
