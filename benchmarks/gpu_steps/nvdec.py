"""NVDEC from several processes beside the processor: frames a second, through PyAV's CUDA hwaccel, NV12 split into planes."""

from __future__ import annotations

import os
import threading
import time
from multiprocessing import get_context
from typing import Any

import numpy as np

from gpu_steps.day import Day

PROCESSES = (1, 2, 4, 8)
START_SECONDS = 60.0


def open_video(path: str, hardware: bool) -> Any:
    import av
    from av.codec.hwaccel import HWAccel

    accel = HWAccel("cuda", allow_software_fallback=False) if hardware else None
    container = av.open(path, hwaccel=accel)
    container.streams.video[0].thread_type = "NONE"
    return container


def planes(frame: Any) -> list[Any]:
    """Luma and both chroma planes as arrays of their own, of NV12 and of three planes alike."""
    luma, *chroma = (
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height] for plane in frame.planes
    )
    width = frame.width
    if frame.format.name == "nv12":
        pairs = chroma[0][:, : width + width % 2]
        chroma = [pairs[:, 0::2], pairs[:, 1::2]]
    return [luma[:, :width].copy(), *(plane[:, : (width + 1) // 2].copy() for plane in chroma)]


def first_planes(path: str, hardware: bool) -> list[Any]:
    with open_video(path, hardware) as container:
        return planes(next(container.decode(video=0)))


def decode_for(seconds: float, paths: list[str], hardware: bool, barrier: Any, answers: Any) -> None:
    """One process: video after video until the time is up; opening them is part of it, the first start is not."""
    try:
        first_planes(paths[0], hardware)
        barrier.wait(START_SECONDS)
        count, began = 0, time.perf_counter()
        while True:
            for path in paths:
                with open_video(path, hardware) as container:
                    for frame in container.decode(video=0):
                        planes(frame)
                        count += 1
                        if (taken := time.perf_counter() - began) > seconds:
                            answers.put((hardware, count / taken, ""))
                            return
    except Exception as error:  # noqa: BLE001 - told to the parent, and the others need not wait
        barrier.abort()
        answers.put((hardware, 0.0, f"{type(error).__name__}: {error}"))


def rates(paths: list[str], *, cpu: int, hardware: int, seconds: float) -> dict[str, Any]:
    """Frames a second of so many processes at once. Raises RuntimeError with what the first of them that failed said."""
    context = get_context("spawn")
    barrier, answers = context.Barrier(cpu + hardware), context.Queue()
    workers = []
    for number in range(cpu + hardware):
        turn = paths[number % len(paths) :] + paths[: number % len(paths)]
        given = (seconds, turn, number >= cpu, barrier, answers)
        workers.append(context.Process(target=decode_for, args=given, daemon=True))
    try:
        for worker in workers:
            worker.start()
        told = [answers.get(timeout=START_SECONDS + 4 * seconds) for _ in workers]
    finally:
        for worker in workers:
            worker.join(5)
            worker.kill()
    failed = [said for _, _, said in told if said and "BrokenBarrier" not in said]
    if failed:
        raise RuntimeError(failed[0])
    found = {"cpu": sum(r for hw, r, _ in told if not hw), "hw": sum(r for hw, r, _ in told if hw)}
    return {name: round(value, 1) for name, value in found.items() if value}


class DeviceMemory(threading.Thread):
    """The most of the device's memory that was in use while this ran, MiB."""

    def __init__(self, day: Day) -> None:
        super().__init__(daemon=True)
        self._day, self._done, self.most_mib = day, threading.Event(), 0

    def run(self) -> None:
        import torch

        while self._day.cuda and not self._done.wait(0.2):
            free, total = torch.cuda.mem_get_info()
            self.most_mib = max(self.most_mib, (total - free) >> 20)

    def stop(self) -> int:
        self._done.set()
        self.join()
        return self.most_mib


def nvdec(day: Day) -> dict[str, Any]:
    """By size: all cores alone, 1 to 8 processes on NVDEC alone, and both at once, which is what a decoder could gain."""
    cores = len(os.sched_getaffinity(0))
    seconds = 0.3 if day.args.tiny else 2.5
    found: dict[str, Any] = {}
    for size, own in day.kept["sets"].items():
        if not day.args.tiny and size not in ("1280x720", "1920x1080"):
            continue
        paths = [str(path) for path in own]
        lines = found[size] = {}
        both = [(cores, 4), (cores, 8)]
        pairs = [(1 if day.args.tiny else cores, 0), *((0, n) for n in PROCESSES), *both]
        if day.cuda:
            lines["same_pixels"] = all(
                np.array_equal(a, b)
                for path in paths[:2]
                for a, b in zip(first_planes(path, True), first_planes(path, False), strict=True)
            )
        for cpu, hardware in pairs if day.cuda else pairs[:1]:
            memory = DeviceMemory(day)
            memory.start()
            name = " + ".join([f"{cpu} cpu"] * bool(cpu) + [f"{hardware} hw"] * bool(hardware))
            try:
                lines[name] = rates(paths, cpu=cpu, hardware=hardware, seconds=seconds)
            except Exception as error:  # noqa: BLE001 - the other numbers of processes still say something
                lines[name] = {"failed": f"{type(error).__name__}: {error}"}
            lines[name]["device_mib"] = memory.stop()
            day.keep("nvdec", found)
    return found
