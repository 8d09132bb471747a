"""What the machine is, and what it could do at most."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

import numpy as np

from gpu_steps.day import Day, rate, shell


def environment(day: Day) -> dict[str, Any]:
    import psutil
    import torch

    shm = os.statvfs("/dev/shm")
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "cpu": shell("bash", "-c", "lscpu | grep -E 'Model name|Thread|^CPU.s.:' | tr -s ' '").splitlines(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": psutil.virtual_memory().total >> 30,
        "dev_shm_gib": round(shm.f_bavail * shm.f_frsize / 2**30, 1),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "nvidia_smi": shell(
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total,pcie.link.gen.current,"
            "pcie.link.width.current,clocks.sm",
            "--format=csv,noheader",
        ),
        "nvcuvid": shell(
            "bash", "-c", "ldconfig -p | grep nvcuvid; ls /usr/local/nvidia/lib*/libnvcuvid* 2>/dev/null"
        ),
    }
    if day.cuda:
        found["device"] = torch.cuda.get_device_name()
        found["bf16"] = torch.cuda.is_bf16_supported(including_emulation=False)
        torch.zeros(1, device="cuda")
        found["nvdec_h264"] = nvdec_caps()
    return found


def nvdec_caps() -> dict[str, Any]:
    """cuvidGetDecoderCaps for 8-bit 4:2:0 h264, in the context that torch made current."""

    class Caps(ctypes.Structure):
        _fields_ = [
            ("codec", ctypes.c_int),
            ("chroma", ctypes.c_int),
            ("depth_minus_8", ctypes.c_uint),
            ("reserved1", ctypes.c_uint * 3),
            ("supported", ctypes.c_ubyte),
            ("engines", ctypes.c_ubyte),
            ("formats", ctypes.c_ushort),
            ("max_width", ctypes.c_uint),
            ("max_height", ctypes.c_uint),
            ("max_mb", ctypes.c_uint),
            ("min_width", ctypes.c_ushort),
            ("min_height", ctypes.c_ushort),
            ("more", ctypes.c_uint * 16),
        ]

    for name in (
        "libnvcuvid.so.1",
        "/usr/local/nvidia/lib64/libnvcuvid.so.1",
        "/usr/local/nvidia/lib/libnvcuvid.so.1",
    ):
        try:
            library = ctypes.CDLL(name)
            break
        except OSError as error:
            why = str(error)
    else:
        return {"error": why}
    caps = Caps(codec=4, chroma=1, depth_minus_8=0)
    code = library.cuvidGetDecoderCaps(ctypes.byref(caps))
    return {
        "library": name,
        "code": code,
        "supported": caps.supported,
        "engines": caps.engines,
        "max": [caps.max_width, caps.max_height],
        "min": [caps.min_width, caps.min_height],
    }


def ceilings(day: Day) -> dict[str, Any]:
    import torch

    side, mib = (64, 64) if day.args.tiny else (8192, 1024)
    device = torch.device(day.args.device)
    a, b = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    repeats = 1 if day.args.tiny else 10

    def products() -> None:
        for _ in range(repeats):
            torch.mm(a, b)

    found = {"bf16_tflops": repeats * 2 * side**3 / rate(day, products) / 1e12}
    windows = [
        np.random.default_rng(n).integers(0, 32000, (32, 256, 256, 3)).astype(np.int16)
        for n in range(2 if day.args.tiny else 16)
    ]
    host = torch.zeros((8, 32, 256, 256, 3), dtype=torch.int16, pin_memory=day.cuda)
    view, turn = host.numpy(), iter(range(10**9))

    def copy_window() -> None:
        n = next(turn)
        view[n % 8] = windows[n % len(windows)]

    found["host_window_copy_ms"] = rate(day, copy_window, seconds=0.5) * 1e3
    if day.cuda:
        big = torch.empty(mib << 20, dtype=torch.uint8, device=device).random_()
        other = torch.empty_like(big)
        found["device_copy_tb_s"] = 2 * (mib << 20) / rate(day, lambda: other.copy_(big)) / 1e12
        day.kept["tb_s"] = found["device_copy_tb_s"]
        on_device = torch.empty_like(host, device=device)
        found["h2d_gb_s"] = host.nbytes / rate(day, lambda: on_device.copy_(host, non_blocking=True)) / 1e9
        found["d2h_gb_s"] = host.nbytes / rate(day, lambda: host.copy_(on_device, non_blocking=True)) / 1e9
    day.kept["tflops"] = found["bf16_tflops"]
    return found
