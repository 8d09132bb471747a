"""What a GPU's refusals mean to a user."""

from __future__ import annotations

from importlib.metadata import version

from cache.errors import DeviceError

_SPEAKERS = ("CUDA", "cuDNN", "CUBLAS", "cuBLAS")


def device_failure(device: object, error: RuntimeError) -> DeviceError | None:
    """A sentence where it is CUDA that says that something went wrong; None for any other error."""
    said = str(error).partition("\n")[0]
    if not any(word in said for word in _SPEAKERS):
        return None
    way_out = "see what the kernel says (dmesg | grep -i xid), then run the same command again, without that device if need be"
    if "out of memory" in said:
        way_out = "end what else runs there (nvidia-smi names it), then run the same command again"
    elif "no kernel image" in said:
        way_out = (
            f"torch {version('torch')} was not built for it; install a build that was, or use --device cpu"
        )
    return DeviceError(f"the device {device} failed ({said}): {way_out}")
