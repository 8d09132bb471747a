"""What a frozen backbone is to the pipeline: which frames it wants, how it batches, its features, its fingerprint."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from cache.arguments import shown
from cache.errors import DeviceError, InputError
from cache.process.device_errors import device_failure
from pipeline.backbones.choice import PRECISIONS
from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.frames import RgbFrame

Precision = Literal["fp32", "bf16", "fp16"]
GpuEngine = Literal["graph", "eager"]
"""How forward passes reach a GPU: a recorded graph of kernels at once, or one by one. Same bits."""
MAX_RELATIVE_ERROR = 1e-3
"""Parity bound for `--precision fp32`: largest absolute difference over the largest absolute value of the token."""
MIN_COSINE = 0.999
"""Parity bound for every precision."""
DTYPES: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

_T = TypeVar("_T")

SAME_PACKAGE: Mapping[str, tuple[str, ...]] = {
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
}


@dataclass(frozen=True, slots=True)
class Batching:
    """batch_size: windows a forward pass. n_streams: passes side by side, each on its share of the cores."""

    batch_size: int
    n_streams: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.n_streams < 1:
            raise ValueError(f"batches and streams count from 1, got {self.batch_size} and {self.n_streams}")

    def __str__(self) -> str:
        return f"batches of {self.batch_size}" + (f", {self.n_streams} at a time" * (self.n_streams > 1))


class Pending(Protocol):
    """A batch on its way through a backbone."""

    def poll(self, timeout_seconds: float = 0.0) -> bool:
        """Whether it is done, after waiting no longer than that."""
        ...

    def features(self) -> NDArray[np.float32]:
        """float32 [B, D], waited for; memory of its own."""
        ...

    @property
    def ended_seconds(self) -> float:
        """When it was done, by `time.perf_counter`; valid once `poll` said so."""
        ...


class ForwardQueue(Protocol):
    """Forward passes that run beside the caller, `n_streams` at a time."""

    n_streams: int

    def start(self, frames: NDArray[Any]) -> Pending:
        """Start one batch; `frames` stays untouched until it is done. At most `n_streams` may be under way."""
        ...


class Backbone(Protocol):
    """One stream's frozen model, ready on its device in its precision."""

    name: str
    dim: int
    plan: StreamPlan
    batching: Batching
    """How windows go through it; the runner pads the last batch, so that a token never depends on what it ran beside."""
    note: str
    """What a user should know of it, or empty."""

    @property
    def queue(self) -> ForwardQueue | None:
        """Where batches can run beside the caller on the CPU; None: `embed` is called."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Everything that can change a feature, as nested JSON-able values."""
        ...

    def embed(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        """Features of what the workers hand over ([B, *plan.token_shape], `plan.token_dtype`, on the device): float32 [B, D]."""
        ...

    def embed_plainly(self, frames: Sequence[RgbFrame]) -> NDArray[np.float32]:
        """The reference: one window of decoded frames (uint8 [H, W, 3] at their own size) through the model as published,

        its own preprocessing, float32, eval mode, batch of one, on the CPU. Returns float32 [D].
        """
        ...


def resolve_devices(device: str) -> tuple[torch.device, ...]:
    """One device as `resolve_device`, several by commas, `all` for every CUDA device. Raises InputError.

    Several are of one kind and one make: what is stored does not depend on which of them made it. `cpu:0,cpu:1` runs the same
    path without a GPU, for trials; it is not faster.
    """
    if not isinstance(device, str):
        raise InputError(f"device is a text, such as 'cpu' or 'cuda:0', got {shown(device)}")
    if device == "all":
        if not torch.cuda.is_available():  # devices are counted also where the driver is too old for them
            raise InputError("--device all: torch sees no CUDA device here; use --device cpu or auto")
        device = ",".join(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    names = [name.strip() for name in device.split(",")]
    if len(names) == 1:
        return (resolve_device(names[0]),)
    for name in names:
        kind, _, number = name.partition(":")
        if kind not in ("cpu", "cuda") or not number.isdecimal():
            raise InputError(f"--device {device}: several are written cuda:0,cuda:1, or all")
    found = tuple(resolve_device(name) for name in names)
    if len(set(found)) < len(found):
        raise InputError(f"--device {device}: names a device twice")
    makes = dict.fromkeys(device_name(one) for one in found)
    if len(makes) > 1 or len({one.type for one in found}) > 1:
        raise InputError(
            f"--device {device}: are {', '.join(makes)}; features would depend on which of them made each, so name devices of "
            "one make (and give each make an extract of its own, with --shard)"
        )
    return found


def resolve_device(device: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises InputError for another type and where the named device is missing."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: choose auto, cpu, cuda or cuda:N")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch sees no CUDA device here; use --device cpu or auto")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {device}: torch sees {torch.cuda.device_count()} CUDA devices here")
    return found


def resolve_precision(precision: str, device: torch.device, *, said: str = "") -> Precision:
    """`auto`: bf16 where the processor or GPU multiplies it natively, else fp16 on a GPU and fp32 on a CPU; streams that do not

    bear it are loaded in fp32 after all (`trial.py`).

    said: how it was given, where not as `--precision`. Raises InputError with it.
    """
    said = said or f"--precision {precision}"
    if precision == "auto":
        if device.type == "cuda":
            with torch.cuda.device(device):  # the question is about the current one
                return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "bf16" if cpu_has_bf16() else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise InputError(f"{said} needs a GPU: use bf16 or fp32 on a CPU")
    for known in DTYPES:
        if known == precision:
            return known
    raise InputError(f"{said}: choose {', '.join(PRECISIONS)}")


def cpu_has_bf16() -> bool:
    """True where the CPU has bfloat16 dot products (AVX512-BF16 or AMX); emulated bf16 is slower than float32."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def device_name(device: torch.device) -> str:
    """What a device is called, to tell machines apart: a GPU's name, or the processor's."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random weights on the CPU that follow from the seed; no generator, a GPU's included, is left changed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU too
        yield


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """float32 is float32: cuDNN's default for it on a GPU is TF32, whose 10 bits of mantissa cost up to 4e-4 here.

    torch says it by two sets of names since 2.9, and raises where they contradict each other: both are set, and both given back.
    """
    newer = [(one, one.fp32_precision) for one in _float32_of_operations()]
    matmul = _or_none(torch.get_float32_matmul_precision)
    cudnn = _or_none(lambda: torch.backends.cudnn.allow_tf32)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for one, _ in newer:
        one.fp32_precision = "ieee"
    try:
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if cudnn is not None:
            torch.backends.cudnn.allow_tf32 = cudnn
        for one, before in newer:
            one.fp32_precision = before


def _float32_of_operations() -> list[Any]:
    """torch's objects whose `fp32_precision` says in what convolutions and products are computed; none before 2.9."""
    backends = torch.backends
    places = (
        (backends.cudnn, "conv"),
        (backends.cudnn, "rnn"),
        (backends.cuda, "matmul"),
        (backends.mkldnn, "matmul"),
    )
    found = [getattr(backend, name, None) for backend, name in places]
    return [one for one in found if hasattr(one, "fp32_precision")]


def _or_none(ask: Callable[[], _T]) -> _T | None:
    """What an older name says; None where a newer one contradicts it, which then holds."""
    try:
        return ask()
    except RuntimeError:
        return None


@contextlib.contextmanager
def device_trouble(device: torch.device, name: str, batch_size: int | None = None) -> Iterator[None]:
    """Raises DeviceError where the device's memory is full and where it failed. name: of the stream. batch_size: None while its

    model is loaded.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise memory_full(name, batch_size) from error
    except NotImplementedError:  # an operation that torch lacks in a precision is no failure
        raise
    except RuntimeError as error:
        raise_failure(device, error)
        raise


def raise_failure(device: torch.device, error: RuntimeError) -> None:
    """Raise DeviceError where it is CUDA that says that something went wrong."""
    failure = device_failure(device, error)
    if failure is not None:
        raise failure from error


def memory_full(name: str, batch_size: int | None = None) -> DeviceError:
    """What to say where a batch does not fit into the device's memory; without its size, where loading a model does not."""
    batches = "" if batch_size is None else f" in batches of {batch_size}"
    smaller = "N, smaller than its own" if batch_size is None else max(1, batch_size // 2)
    return DeviceError(
        f"the device has no memory for {name}{batches}: use --batch {name}={smaller}, or end what else runs there (nvidia-smi "
        "names it); what was whole is committed"
    )


def device_libraries(device: torch.device) -> dict[str, str]:
    """What computes beside the processor: torch's own version with its build, and CUDA's libraries."""
    found = {"torch": str(torch.__version__)}
    if device.type == "cuda":
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return found


def library_versions(*names: str) -> dict[str, str]:
    """Installed versions of distributions, for a fingerprint. A package that is published under several names counts as one."""
    found = {}
    for name in names:
        found[name] = "unknown"
        for published in (name, *SAME_PACKAGE.get(name, ())):
            with contextlib.suppress(PackageNotFoundError):
                found[name] = version(published)
                break
    return found
