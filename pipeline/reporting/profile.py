"""`extract --profile`: where the time went, the share of the machine's ceiling that was reached, and what to change first."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cache.process.cores import usable_cores
from pipeline.backbones.base import DTYPES, Backbone, Precision, exact_float32
from pipeline.reporting.report import ExtractReport

RATE_SIDE = 4096
RATE_SECONDS = 2.0
IDLE_SHARE = 0.25
"""Above this share of waiting for frames, decoding is what limits the run."""


def matrix_rate(device: torch.device, precision: Precision) -> float:
    """FLOP/s of a square matrix product in this precision, measured now."""
    a = torch.randn(RATE_SIDE, RATE_SIDE, device=device).to(DTYPES[precision])
    b = torch.randn(RATE_SIDE, RATE_SIDE, device=device).to(DTYPES[precision])

    def once() -> None:
        _ = a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with exact_float32():
        once()
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < RATE_SECONDS:
            once()
            count += 1
    return count * 2 * RATE_SIDE**3 / (time.perf_counter() - began)


def token_flops(backbone: Backbone) -> float:
    """FLOPs of one token by torch's counter, on the plain model; 0 where the decode worker makes the features.

    Of a stream that reads: of a text of 16 words. Attention is counted as the products that it is: of torch's fused kernels
    the counter does not know those of a CPU.
    """
    if backbone.plan.reduce:
        return 0.0
    window = backbone.plan.sampling.window
    heard = backbone.plan.sound is not None
    frames: Any = [np.zeros(window, np.float32)] if heard else [np.zeros((256, 256, 3), np.uint8)] * window
    if backbone.plan.words is not None:
        frames = ["a " * 16]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            backbone.embed_plainly(frames)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return float(counter.get_total_flops())


def profile_lines(
    report: ExtractReport,
    backbones: Mapping[str, Backbone],
    *,
    devices: Sequence[torch.device],
    workers: int,
) -> list[str]:
    """The profile of a run that stored something; measures the machine's matrix rates (some seconds a precision)."""
    wall = max(report.seconds - report.setup_seconds, 1e-9)
    device = devices[0]
    flops = {name: token_flops(backbone) * report.tokens.get(name, 0) for name, backbone in backbones.items()}
    made = {name: backbone.fingerprint() for name, backbone in backbones.items()}
    shared = 1 if device.type == "cpu" else len(devices)  # CPUs share cores
    precisions: list[Precision] = sorted(
        {made[name]["precision"] for name in flops if flops[name]} or {"fp32"}
    )
    rates = {precision: matrix_rate(device, precision) * shared for precision in precisions}
    cores, busy = usable_cores(), report.model_seconds
    total = sum(flops.values())
    fastest = sum(flops[name] / rates[made[name]["precision"]] for name in flops if flops[name])
    heaviest = made[max(flops, key=lambda name: flops[name])]
    lines = [
        f"profile    {wall:.1f} s after start-up; {workers} decode workers on {cores} cores",
        f"  decode    {report.decode_seconds:8.1f} s in the workers, {report.decode_wait_seconds:.1f} s waiting for a slot",
        f"  wait      {report.idle_seconds:8.1f} s ({report.idle_seconds / wall:.0%}) the models waited for frames",
    ]
    for name, seconds in report.embed_seconds.items():
        lines.append(
            f"  {name:<9} {seconds:8.1f} s ({seconds / wall:.0%}) with a pass under way, {flops[name] / 1e12:.2f} TFLOP"
        )
    busy = max(busy, 1e-9)
    told = ", ".join(f"{precision} {rate / 1e9:.0f} GFLOP/s" for precision, rate in rates.items())
    lines.append(
        f"  models    {busy:8.1f} s ({busy / wall:.0%}) with any pass under way, {total / busy / 1e9:.0f} GFLOP/s = "
        f"{fastest / busy:.0%} of the matrix rate ({told})"
    )
    lines.append(f"  write     {report.write_seconds:8.1f} s")
    limit = report.decode_seconds / cores + fastest
    lines.append(
        f"  ceiling   {limit:8.1f} s = decode / cores + FLOPs / matrix rate; reached {limit / wall:.0%} of it"
    )
    lines.append(f"change first: {_advice(report, wall, device, heaviest['runtime'], workers, cores)}")
    return lines


def _advice(
    report: ExtractReport,
    wall: float,
    device: torch.device,
    runtime: str,
    workers: int,
    cores: int,
) -> str:
    if report.write_seconds > IDLE_SHARE * wall:
        return "--out on a faster disk: writing took a quarter of the time or more"
    if report.idle_seconds > IDLE_SHARE * wall:
        if workers < cores:
            return f"--workers {cores}: the models waited for frames while cores were free"
        return "more cores, or videos of a lower resolution: decoding is what limits this run"
    if device.type == "cpu" and runtime == "torch":
        return "--runtime openvino (pip install 'onepass[openvino]'): it fuses what torch runs apart"
    if device.type == "cpu":
        return (
            f"--device cuda where there is one: the models took {report.model_seconds / wall:.0%} of the time"
        )
    return "nothing obvious: the device is busy with the models"
