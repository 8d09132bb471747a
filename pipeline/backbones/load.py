"""The streams of a run, settled and loaded."""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cache.arguments import is_whole, shown
from cache.errors import InputError
from pipeline.backbones.choice import DEFAULT_STREAMS, StreamChoice, choose_streams
from pipeline.backbones.kind import Machine, Settled, choice_from_fingerprint, kind_named, settle

if TYPE_CHECKING:
    import torch

    from pipeline.backbones.base import Backbone, GpuEngine, Precision
    from pipeline.backbones.runtime import Runtime

MAX_BATCH = 4096


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """Streams, and where they run. device: auto, cpu, cuda, cuda:N, several by commas, or all.

    precision: auto, fp32, bf16 or fp16; auto is fp32 for a stream that does not bear less (`trial.py`). runtime: auto, torch,
    openvino or compile (CUDA). batch_sizes: windows a forward pass by stream; what is not named has its own constant. gpu_engine:
    graph or eager, with the same features, or compile, which is that runtime. A stream's own precision and runtime win.
    """

    streams: tuple[StreamChoice, ...] = field(default_factory=partial(choose_streams, DEFAULT_STREAMS))
    device: str = "auto"
    precision: str = "auto"
    runtime: str = "auto"
    batch_sizes: tuple[tuple[str, int], ...] = ()
    gpu_engine: str = "graph"

    @classmethod
    def of(cls, streams: Sequence[str | StreamChoice] = DEFAULT_STREAMS, **settings: Any) -> BackboneConfig:
        """From names and descriptions of streams. settings: fields of this class (batch_sizes also as a mapping), or what

        `choose_streams` takes. Raises InputError.
        """
        own = {name: settings.pop(name) for name in list(settings) if name in cls.__dataclass_fields__}
        sizes = own.get("batch_sizes", ())
        try:
            own["batch_sizes"] = tuple(dict(sizes).items())
        except (TypeError, ValueError):
            raise InputError(
                f"batch_sizes is a mapping, such as {{'clip': 64}}, got {shown(sizes)}"
            ) from None
        return cls(choose_streams(streams, **settings), **own)

    def __post_init__(self) -> None:
        for name, size in self.batch_sizes:
            if name not in self.names:
                raise InputError(
                    f"--batch {name}={size}: no such stream; choose from {', '.join(self.names)}"
                )
            if not is_whole(size) or not 1 <= size <= MAX_BATCH:
                raise InputError(f"--batch {name}={size}: between 1 and {MAX_BATCH} windows")
        if self.gpu_engine not in ("graph", "eager", "compile"):
            raise InputError(f"--gpu-engine {self.gpu_engine}: choose graph, eager or compile")
        if self.gpu_engine == "compile" and self.runtime not in ("auto", "torch", "compile"):
            raise InputError(f"--gpu-engine compile with --runtime {self.runtime}: choose one of them")

    @property
    def names(self) -> tuple[str, ...]:
        """The streams' names, in order."""
        return tuple(choice.name for choice in self.streams)

    def torch_device(self) -> torch.device:
        """The device the models run on, the first of several. Raises InputError where it is missing."""
        return self.torch_devices()[0]

    def torch_devices(self) -> tuple[torch.device, ...]:
        """All devices that the models run on. Raises InputError where one is missing, and for different ones."""
        from pipeline.backbones.base import resolve_devices

        return resolve_devices(self.device)

    def resolved_precision(self, choice: StreamChoice | None = None) -> Precision:
        """The precision the models run in, or one stream's. Raises InputError for what the device cannot do."""
        from pipeline.backbones.base import resolve_precision

        if choice is None or not choice.precision:
            return resolve_precision(self.precision, self.torch_device())
        said = choice.setting("precision", choice.precision)
        return resolve_precision(choice.precision, self.torch_device(), said=said)

    def resolved_runtime(self, choice: StreamChoice) -> Runtime:
        """What one stream runs on. Raises InputError for what the device cannot do and for what is not installed."""
        from pipeline.backbones.runtime import resolve_runtime

        if not choice.runtime and self.gpu_engine == "compile":
            return resolve_runtime("compile", self.torch_device(), said="--gpu-engine compile")
        if not choice.runtime:
            return resolve_runtime(self.runtime, self.torch_device())
        return resolve_runtime(
            choice.runtime, self.torch_device(), said=choice.setting("runtime", choice.runtime)
        )

    def settled(self) -> tuple[Settled, ...]:
        """Every stream made certain by its kind, before anything is downloaded. Raises InputError, WeightsError."""
        with library_noise_dropped():
            return tuple(settle(choice) for choice in self.streams)


def config_from_fingerprints(
    fingerprints: Mapping[str, Mapping[str, Any]],
    *,
    device: str = "auto",
    files: Mapping[str, str] | None = None,
) -> BackboneConfig:
    """The settings that made these fingerprints, to make more of the same.

    files: where weights that came from a file lie now, by stream. Raises InputError where one is needed and not given, for one of
    no stream, and where a stream was not made by a kind that is here.
    """
    files = {name: path for name, path in (files or {}).items() if path}
    if unknown := sorted(files.keys() - fingerprints.keys()):
        raise InputError(
            f"--weights-file {unknown[0]}={files[unknown[0]]}: no such stream; choose from {', '.join(fingerprints)}"
        )
    streams = [
        choice_from_fingerprint(name, fields, file=files.get(name)) for name, fields in fingerprints.items()
    ]
    return BackboneConfig(tuple(streams), device=device)


def load_backbones(
    config: BackboneConfig,
    *,
    made: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda _: None,
    agree: Callable[[Sequence[Settled]], None] = lambda _: None,
) -> dict[str, Backbone]:
    """Load what `config.streams` names. Raises InputError, WeightsError, DeviceError.

    Preprocessing is settled for all before weights are loaded for one. made: the precision of streams that more is made of, which
    auto takes, without a trial, where it is one that auto could have come to on this device. say: gets a line where a trial takes
    long. agree: gets what was settled, and may raise, before anything is loaded.
    """
    devices = config.torch_devices()
    settled = config.settled()
    agree(settled)
    sizes = dict(config.batch_sizes)
    engine: GpuEngine = "eager" if config.gpu_engine == "eager" else "graph"
    continued = _continued(config, made or {})
    machines = {
        choice.name: Machine(
            devices[0],
            continued.get(choice.name) or config.resolved_precision(choice),
            config.resolved_runtime(choice),
            sizes.get(choice.name),
            engine,
        )
        for choice in config.streams
    }
    for device in devices:
        if device.type == "cuda":
            from pipeline.backbones.soundness import require_sound

            for precision in sorted({machine.precision for machine in machines.values()}):
                require_sound(device, precision)
    with library_noise_dropped():
        found = {}
        for one in settled:
            name = one.choice.name
            named = continued.get(name) or one.choice.precision or config.precision
            found[name] = _load_tried(one, machines[name], devices, named, say)
        return found


def _continued(config: BackboneConfig, made: Mapping[str, str]) -> dict[str, Precision]:
    """Precisions of streams that go on as they were made."""
    found: dict[str, Precision] = {}
    for choice in config.streams:
        if (choice.precision or config.precision) == "auto":
            possible: tuple[Precision, ...] = (config.resolved_precision(choice), "fp32")
            found.update((choice.name, one) for one in possible if one == made.get(choice.name))
    return found


def _load_tried(
    settled: Settled,
    machine: Machine,
    devices: Sequence[torch.device],
    named: str,
    say: Callable[[str], None],
) -> Backbone:
    """A stream's model; in float32 where nobody named a precision and in less it does not keep the parity bound."""
    choice = settled.choice
    try:
        backbone = _load(settled, machine, devices)
    except RuntimeError as error:
        if machine.precision == "fp32" or not _is_missing(error):
            raise
        why = f"{choice.model} does not run in {machine.precision} on {devices[0]} ({str(error).splitlines()[0]})"
        if named != "auto":
            flag = choice.setting("precision", named) if choice.precision else f"--precision {named}"
            raise InputError(f"{flag}: {why}; use fp32") from error
    else:
        if named != "auto" or backbone.fingerprint()["precision"] == "fp32":
            return backbone
        from pipeline.backbones.trial import TRIAL_COSINE, told_if_slow, worst_cosine

        with told_if_slow(backbone, machine.precision, say):
            cosine = worst_cosine(backbone, devices[0])
        if cosine >= TRIAL_COSINE:
            return backbone
        why = (
            f"in {machine.precision} a trial moved its features to a cosine of {cosine:.4f}, and auto asks for "
            f"{TRIAL_COSINE:g}"
        )
        del backbone
        gc.collect()  # it holds itself in a ring, and a device may not have room for both
    note = " ".join(filter(None, (settled.note, f"{choice.name} runs in fp32: {why}.")))
    return _load(replace(settled, note=note), replace(machine, precision="fp32"), devices)


def _is_missing(error: RuntimeError) -> bool:
    """Whether torch does not have an operation in a precision; it says so by another type before 2.6."""
    return isinstance(error, NotImplementedError) or "not implemented for" in str(error)


def _load(settled: Settled, machine: Machine, devices: Sequence[torch.device]) -> Backbone:
    """A stream's model on every device; on the first alone where workers make the features, and where it reads words."""
    if len(devices) == 1 or settled.plan.reduce or settled.plan.words:
        return _load_on(settled, machine)
    from pipeline.backbones.spread import SpreadBackbone

    on = {str(device): _load_on(settled, replace(machine, device=device)) for device in devices}
    return SpreadBackbone(on)


def _load_on(settled: Settled, machine: Machine) -> Backbone:
    """Of one device. Raises DeviceError where it fails or has no room for the model."""
    from pipeline.backbones.base import device_trouble

    with device_trouble(machine.device, settled.choice.name):
        return kind_named(settled.choice.kind).load(settled, machine)


def parse_batch_sizes(given: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """`STREAM=N` as typed. Raises InputError for anything else and for a stream named twice."""
    found: dict[str, int] = {}
    for item in given:
        name, _, size = item.partition("=")
        if not name or not size.isdecimal() or name in found:
            raise InputError(f"--batch {item}: write STREAM=N, such as slowfast=4, each stream once")
        found[name] = int(size)
    return tuple(found.items())


def weights_files(given: Sequence[str], **short: str | None) -> dict[str, str]:
    """`STREAM=FILE` as typed, and files by the streams' own flags. Raises InputError for anything else and for one twice."""
    found = {name: path for name, path in short.items() if path}
    for item in given:
        name, _, path = item.partition("=")
        if not name or not path or name in found:
            raise InputError(f"--weights-file {item}: write STREAM=FILE, each stream once")
        found[name] = path
    return found


@contextlib.contextmanager
def library_noise_dropped() -> Iterator[None]:
    """Without the libraries' own warnings: torch.jit.script at import, QuickGELU notes that the fingerprint answers, and what

    open_clip says of random weights, which every output here says already.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger().addFilter(_drop_random_note)
        try:
            yield
        finally:
            logging.getLogger().removeFilter(_drop_random_note)


def _drop_random_note(record: logging.LogRecord) -> bool:
    return "No pretrained weights loaded" not in record.getMessage()
