"""Which backbones a run wants, and their loading."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cache.errors import InputError
from cache.fingerprint import weights_name

if TYPE_CHECKING:
    import torch

    from pipeline.backbones.base import Backbone, GpuEngine, Precision
    from pipeline.backbones.calibrate import Say
    from pipeline.backbones.clip import ClipConfig
    from pipeline.backbones.slowfast import SlowFastConfig

STREAMS = ("clip", "slowfast")
MAX_CLIP_FPS = 1000.0
MAX_BATCH = 4096
RANDOM = "random"


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """Streams and their weights. device: auto, cpu, cuda or cuda:N. precision: auto, fp32, bf16 or fp16.

    clip_tag: published tag that a file of CLIP weights holds. runtime: auto, torch or openvino. batch_sizes: windows a forward
    pass by stream; what is not named is measured or has its default. gpu_engine: graph or eager, with the same features.
    """

    streams: tuple[str, ...] = STREAMS
    clip_model: str = "ViT-B-32"
    clip_weights: str = "openai"
    clip_tag: str = ""
    clip_fps: float = 2.0
    slowfast_weights: str = "kinetics400"
    slowfast_stride: int = 32
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    runtime: str = "auto"
    batch_sizes: tuple[tuple[str, int], ...] = ()
    gpu_engine: str = "graph"

    def __post_init__(self) -> None:
        if not self.streams:
            raise InputError(f"--streams: name at least one of {', '.join(STREAMS)}")
        unknown = [name for name in self.streams if name not in STREAMS]
        if unknown:
            raise InputError(
                f"--streams {','.join(unknown)}: no such stream; choose from {', '.join(STREAMS)}"
            )
        if len(set(self.streams)) != len(self.streams):
            raise InputError(f"--streams {','.join(self.streams)}: each stream once")
        if not 0 < self.clip_fps <= MAX_CLIP_FPS:
            raise InputError(f"--clip-fps {self.clip_fps}: above 0 and at most {MAX_CLIP_FPS:g}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"--seed {self.seed}: between 0 and 2**63 - 1")
        for name, size in self.batch_sizes:
            if name not in self.streams:
                raise InputError(
                    f"--batch {name}={size}: no such stream; choose from {', '.join(self.streams)}"
                )
            if not 1 <= size <= MAX_BATCH:
                raise InputError(f"--batch {name}={size}: between 1 and {MAX_BATCH} windows")
        if self.gpu_engine not in ("graph", "eager"):
            raise InputError(f"--gpu-engine {self.gpu_engine}: choose graph or eager")
        if not 1 <= self.slowfast_stride <= 32:
            raise InputError(f"--slowfast-stride {self.slowfast_stride}: between 1 and 32 grid samples")

    def torch_device(self) -> torch.device:
        """The device the models run on. Raises InputError where it is missing."""
        from pipeline.backbones.base import resolve_device

        return resolve_device(self.device)

    def resolved_precision(self) -> Precision:
        """The precision the models run in. Raises InputError for what the device cannot do."""
        from pipeline.backbones.base import resolve_precision

        return resolve_precision(self.precision, self.torch_device())

    def clip(self) -> ClipConfig:
        """The CLIP stream's part."""
        from pipeline.backbones.clip import ClipConfig

        return ClipConfig(
            model=self.clip_model,
            weights=self.clip_weights,
            seed=self.seed,
            fps=self.clip_fps,
            tag=self.clip_tag,
        )

    def slowfast(self) -> SlowFastConfig:
        """The SlowFast stream's part."""
        from pipeline.backbones.slowfast import SlowFastConfig

        return SlowFastConfig(weights=self.slowfast_weights, seed=self.seed, stride=self.slowfast_stride)


def config_from_fingerprints(
    fingerprints: Mapping[str, Mapping[str, Any]],
    *,
    device: str = "auto",
    clip_weights: str | None = None,
    slowfast_weights: str | None = None,
) -> BackboneConfig:
    """The settings that made these fingerprints, to make more of the same.

    `clip_weights`, `slowfast_weights`: where weights that came from a file lie now. Raises InputError where one is needed and not
    given, where a stream was not made by `extract`, or where streams disagree on precision.
    """
    for name, fields in fingerprints.items():
        _require_ours(name, fields)
    chosen: dict[str, Any] = {
        "streams": tuple(name for name in STREAMS if name in fingerprints),
        "device": device,
    }
    given = {"clip": clip_weights, "slowfast": slowfast_weights}
    for name, fields in fingerprints.items():
        weights = fields["weights"]
        if weights["tag"] == "file" and not given[name]:
            raise InputError(
                f"the {name} weights came from a file: say where it lies with --{name}-weights FILE"
            )
        chosen[f"{name}_weights"] = given[name] or weights["tag"]
        if "seed" in weights:
            chosen["seed"] = weights["seed"]
    precisions = {fields["precision"] for fields in fingerprints.values()}
    if len(precisions) != 1:
        raise InputError(f"the streams were made in different precisions: {', '.join(sorted(precisions))}")
    chosen["precision"] = precisions.pop()
    runtimes = {fields["runtime"] for fields in fingerprints.values()}
    chosen["runtime"] = runtimes.pop() if len(runtimes) == 1 else "auto"
    if "clip" in fingerprints:
        chosen["clip_model"] = fingerprints["clip"]["model"]
        chosen["clip_tag"] = fingerprints["clip"]["weights"].get("published_as", "")
        chosen["clip_fps"] = fingerprints["clip"]["sampling"]["fps"]
    if "slowfast" in fingerprints:
        chosen["slowfast_stride"] = fingerprints["slowfast"]["sampling"]["stride"]
    return BackboneConfig(**chosen)


def _require_ours(name: str, fields: Mapping[str, Any]) -> None:
    """Raise InputError unless `extract` can make the stream again from what its fingerprint says."""
    sampling, weights = fields.get("sampling"), fields.get("weights")
    sampling = sampling if isinstance(sampling, Mapping) else {}
    tag = weights.get("tag") if isinstance(weights, Mapping) else None
    rate = {"clip": "fps", "slowfast": "stride"}.get(name, "")
    known = name in STREAMS and fields.get("stream") == name
    known = known and all(isinstance(fields.get(key), str) for key in ("model", "precision", "runtime"))
    if known and isinstance(tag, str) and isinstance(sampling.get(rate), int | float):
        return
    made = f"{fields.get('model', 'an unknown model')}, weights {weights_name(fields)}"
    raise InputError(
        f"stream {name} was made by {made}, not by extract of this version, which makes {' and '.join(STREAMS)}: it cannot be "
        "extracted from videos here, but a cache that holds it can be scored and trained on as it is"
    )


def load_backbones(config: BackboneConfig, *, calibrate: Say | None = None) -> dict[str, Backbone]:
    """Load the streams of `config`, in the order of STREAMS. Raises WeightsError or InputError.

    calibrate: told when it is measured which batches are fastest here, which takes up to a minute, once a machine
    (`backbones/calibrate.py`); None: the default, unless it was measured before.
    """
    from pipeline.backbones.runtime import resolve_runtime

    device, precision = config.torch_device(), config.resolved_precision()
    runtime = resolve_runtime(config.runtime, device)
    sizes = dict(config.batch_sizes)
    engine: GpuEngine = "eager" if config.gpu_engine == "eager" else "graph"
    if device.type == "cuda":
        from pipeline.backbones.soundness import require_sound

        require_sound(device, precision)
    backbones: dict[str, Backbone] = {}
    with warnings.catch_warnings():
        # the libraries' own: torch.jit.script at import, QuickGELU notes that the fingerprint answers
        warnings.simplefilter("ignore")
        logging.getLogger().addFilter(_drop_random_note)
        try:
            if "clip" in config.streams:
                from pipeline.backbones.clip import ClipBackbone

                backbones["clip"] = ClipBackbone(
                    config.clip(),
                    device=device,
                    precision=precision,
                    runtime=runtime,
                    calibrate=calibrate,
                    batch_size=sizes.get("clip"),
                    gpu_engine=engine,
                )
            if "slowfast" in config.streams:
                from pipeline.backbones.slowfast import SlowFastBackbone

                backbones["slowfast"] = SlowFastBackbone(
                    config.slowfast(),
                    device=device,
                    precision=precision,
                    runtime=runtime,
                    calibrate=calibrate,
                    batch_size=sizes.get("slowfast"),
                    gpu_engine=engine,
                )
        finally:
            logging.getLogger().removeFilter(_drop_random_note)
    return backbones


def parse_batch_sizes(given: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """`STREAM=N` as typed. Raises InputError for anything else and for a stream named twice."""
    found: dict[str, int] = {}
    for item in given:
        name, _, size = item.partition("=")
        if not name or not size.isdecimal() or name in found:
            raise InputError(f"--batch {item}: write STREAM=N, such as slowfast=4, each stream once")
        found[name] = int(size)
    return tuple(found.items())


def _drop_random_note(record: logging.LogRecord) -> bool:
    """open_clip warns that random weights are random; every output here says so already."""
    return "No pretrained weights loaded" not in record.getMessage()
