"""What a kind of stream is: it settles a choice without loading anything, and makes the frozen backbone of it.

A kind is one file in kinds/. Other packages add kinds under the entry point group `onepass.streams`: a name and an object with
the same methods. docs/new-stream.md walks through one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cache.errors import InputError
from cache.fingerprint import weights_name
from pipeline.backbones.choice import (
    COMMON_KEYS,
    DEFAULT_STREAMS,
    PRECISIONS,
    RANDOM,
    RECIPES,
    RUNTIMES,
    StreamChoice,
    looks_like_file,
    near,
    require_file,
)
from pipeline.decoding.frames import FramePlan

if TYPE_CHECKING:
    import torch

    from pipeline.backbones.base import Backbone, GpuEngine, Precision
    from pipeline.backbones.runtime import Runtime
    from pipeline.decoding.decode import StreamPlan

ENTRY_POINTS = "onepass.streams"
OWN_KINDS = ("open_clip", "timm", "pytorchvideo", "torchvision", "transformers", "motion", "logmel")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how a network runs. batch_size: windows a pass; None: the network's own."""

    device: torch.device
    precision: Precision
    runtime: Runtime = "torch"
    batch_size: int | None = None
    gpu_engine: GpuEngine = "graph"


@dataclass(frozen=True, slots=True)
class Settled:
    """A choice with everything known that needs no weights.

    choice: with the kind's own defaults filled in. plan: which frames it reads. preprocessing, sampling: as the fingerprint keeps
    them. origin: where the weights come from, in words. note: what a user should know before weights are loaded, or empty.
    found: what the kind wants to remember between settling and loading.
    """

    choice: StreamChoice
    plan: StreamPlan
    preprocessing: Mapping[str, Any]
    sampling: Mapping[str, Any]
    origin: str = ""
    note: str = ""
    found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Example:
    """A line of `onepass streams`: a choice, the width of its features, and FLOPs of one token (2 a multiply-add).

    frames, size, fps, stride: what `settle` makes of the choice, said here so that a list of streams need not import a library.
    size: height and width of a frame where they differ, else one side. reads: in words, where it is no pictures; of words fps is
    0. The defaults are those of an image network.
    """

    choice: str
    width: int
    gflop: float
    frames: int = 1
    size: int | tuple[int, int] = 224
    fps: float = 2.0
    stride: int = 1
    reads: str = ""


class Kind:
    """Base of a kind. `name` stands before the colon; `keys` are its own keys of `--stream` with a help each."""

    name: ClassVar[str]
    about: ClassVar[str]
    keys: ClassVar[Mapping[str, str]] = {}
    has_weights: ClassVar[bool] = True
    optional: ClassVar[bool] = False
    """Whether a stored video may lack such a stream unless the user requires it; of sound it may in any case."""
    hears: ClassVar[bool] = False
    """Whether such a stream may read sound; whether one does is known once it is settled."""
    takes: ClassVar[tuple[str, ...]] = ("fps", "stride", "size")
    """Which of the common keys fps, stride, size and tag this kind can follow."""
    extra: ClassVar[str] = ""
    """The package's extra that installs what this kind imports; empty: always there."""

    def models(self) -> Sequence[str]:
        """Names that a choice may have after the colon; empty: anything (a folder, a hub's name)."""
        raise NotImplementedError

    def examples(self) -> Sequence[Example]:
        """Choices that `onepass streams` shows."""
        raise NotImplementedError

    def settle(self, choice: StreamChoice) -> Settled:
        """Everything about a choice but its weights; no download, no network is built. Raises InputError, WeightsError."""
        raise NotImplementedError

    def load(self, settled: Settled, machine: Machine) -> Backbone:
        """The frozen backbone. Raises WeightsError where weights cannot be had or do not fit."""
        raise NotImplementedError

    def checked(self, choice: StreamChoice) -> StreamChoice:
        """The choice, once its model and keys are known ones. Raises InputError with the nearest good ones."""
        for key, _ in choice.options:
            if key not in self.keys:
                good = [
                    *(k for k in COMMON_KEYS if k not in ("fps", "stride", "size", "tag") or k in self.takes),
                    *self.keys,
                ]
                raise InputError(f"--stream {choice.name}: {self.name} has no key {key!r}{near(key, good)}")
        of_networks = () if self.has_weights else ("precision", "runtime")
        for key in ("fps", "stride", "size", "tag", *of_networks):
            if getattr(choice, key) and key not in self.takes:
                raise InputError(
                    f"{choice.setting(key, getattr(choice, key))}: {self.name} streams have no such setting"
                )
        if choice.weights and not self.has_weights:
            if choice.weights != RANDOM:
                raise InputError(
                    f"{choice.setting('weights', choice.weights)}: {self.name} streams have no weights"
                )
            choice = replace(choice, weights="")
        known = self.models()
        if known and choice.model not in known:
            raise InputError(
                f"{choice.setting('model', choice.model or '(none)')}: {self.name} has no such model{near(choice.model, known)}"
            )
        return choice

    def choice_of(self, name: str, fields: Mapping[str, Any], *, file: str | None) -> StreamChoice:
        """The choice that made a fingerprint. file: where weights that came from a file lie now. Raises InputError."""
        weights, sampling = fields["weights"], fields["sampling"]
        choice = StreamChoice(
            name,
            self.name,
            model=fields["model"],
            weights=file or weights["tag"],
            tag=weights.get("published_as", ""),
            seed=weights.get("seed", 0),
            fps=float(sampling.get("fps", 0)) if "fps" in self.takes else 0.0,
            stride=int(sampling.get("stride", 0)) if "stride" in self.takes else 0,
            size=int(fields.get("size", 0)),
            precision=fields["precision"],
            runtime=fields["runtime"],
            options=tuple(sorted((str(key), str(value)) for key, value in fields.get("options", {}).items())),
        )
        if weights["tag"] == "file" and not file:
            how = (
                choice.setting("weights", "FILE")
                if choice.is_built_in_kind
                else f"--weights-file {name}=FILE"
            )
            raise InputError(f"the {name} weights came from a file: say where it lies with {how}")
        # without a network, precision and runtime are nobody's choice either
        return choice if self.has_weights else replace(choice, weights="", precision="", runtime="")


def require_stride(choice: StreamChoice, longest: int) -> None:
    """Raise InputError where windows of `longest` samples would leave samples out."""
    if not 1 <= choice.stride <= longest:
        raise InputError(f"{choice.setting('stride', choice.stride)}: between 1 and {longest} grid samples")


@cache
def kind_names() -> tuple[str, ...]:
    """Kinds that can be named, those of other packages included."""
    return (*OWN_KINDS, *sorted({point.name for point in entry_points(group=ENTRY_POINTS)} - set(OWN_KINDS)))


@cache
def kind_named(name: str) -> Kind:
    """The kind of that name. Raises InputError for none, for one that does not load, and where its extra is not installed."""
    if name not in kind_names():
        raise InputError(
            f"--stream: there is no kind {name!r}{near(name, kind_names())} (onepass streams lists them)"
        )
    if name in OWN_KINDS:
        found: Kind = importlib.import_module(f"pipeline.backbones.kinds.{name}").KIND
        return found
    point = next(iter(entry_points(group=ENTRY_POINTS, name=name)))
    try:
        loaded = point.load()
        made: Kind = loaded() if isinstance(loaded, type) else loaded
        return made
    except Exception as error:  # another package's code: whatever it raises, the user must know whose it is
        raise InputError(
            f"--stream: the kind {name!r} of {point.value} does not load ({type(error).__name__}: {error})"
        ) from error


def settle(choice: StreamChoice) -> Settled:
    """A choice made certain by its kind, a file of weights being there. Raises InputError, WeightsError."""
    kind = kind_named(choice.kind)
    for key, known in (("precision", PRECISIONS), ("runtime", RUNTIMES)):
        if (said := getattr(choice, key)) and said not in known:
            raise InputError(f"{choice.setting(key, said)}: choose {', '.join(known)}")
    settled = kind.settle(kind.checked(choice))
    if looks_like_file(weights := settled.choice.weights):
        require_file(Path(weights), said=settled.choice.setting("weights", weights))
    return settled


def kind_of(name: str, fields: Mapping[str, Any]) -> str:
    """The kind that made a stored stream, "" where none of those here did.

    Fingerprints of clip and slowfast from before kinds were open do not name one.
    """
    built_in = RECIPES[name].partition(":")[0] if name in DEFAULT_STREAMS else ""
    named = fields.get("kind", built_in)
    weights, sampling = fields.get("weights"), fields.get("sampling")
    known = named in kind_names() and fields.get("stream") == name
    known = known and isinstance(weights, Mapping) and isinstance(weights.get("tag"), str)
    known = known and isinstance(sampling, Mapping)
    known = known and all(isinstance(fields.get(key), str) for key in ("model", "precision", "runtime"))
    rate = {"clip": "fps", "slowfast": "stride"}.get(name, "") if named == built_in else ""
    known = known and (not rate or isinstance(sampling.get(rate), int | float))  # type: ignore[union-attr]
    return str(named) if known else ""


def choice_from_fingerprint(name: str, fields: Mapping[str, Any], *, file: str | None = None) -> StreamChoice:
    """The choice that made the features of a stored stream. Raises InputError where none of the kinds here did."""
    if named := kind_of(name, fields):
        return kind_named(named).choice_of(name, fields, file=file)
    made = f"{fields.get('model', 'an unknown model')}, weights {weights_name(fields)}"
    raise InputError(
        f"stream {name} was made by {made}, not by a kind of stream that is installed here ({', '.join(kind_names())}): it "
        "cannot be extracted from videos here, but a cache that holds it can be scored and trained on as it is"
    )


def hears(fields: Mapping[str, Any]) -> bool:
    """Whether a stored stream reads sound, by its fingerprint: it is sampled at so many samples a second, not frames."""
    return "rate_hz" in fields.get("sampling", {})


def sound_alone_will_do(streams: Iterable[tuple[Mapping[str, Any], bool]]) -> bool:
    """Whether stored videos may be without pictures. streams: fingerprint of each, and whether a video may lack it."""
    known = list(streams)
    return any(hears(fields) for fields, _ in known) and all(hears(f) or optional for f, optional in known)


FILTERS = {
    "pil-bicubic": "bicubic",
    "pil-bilinear": "bilinear",
    "pil-lanczos": "lanczos",
    "pil-bilinear-fixed": "bilinear",
}
FITS = {
    "short": "short side",
    "exact": "both sides",
    "cover": "covering the box",
    "inside": "inside the box",
}


def pil_preprocessing(plan: FramePlan, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """What a fingerprint says of frames that PIL prepared."""
    height, width = plan.shape[:2]
    scaled = {"scaled": list(plan.box) if plan.box[0] != plan.box[1] else plan.box[0]} if plan.scaled else {}
    depth = "uint8" if plan.levels == 1 else "7 fractional bits"
    return {
        "resize": f"{FILTERS[plan.recipe]}, antialiased, {FITS[plan.fit]}, {depth} (PIL)",
        **scaled,
        "size": height if height == width else [height, width],
        "crop": "centre, rounded down" if plan.crop_down else "centre",
        **({"fill": list(plan.fill)} if plan.fit == "inside" else {}),
        "mean": [float(x) for x in mean],
        "std": [float(x) for x in std],
    }


def identity(settled: Settled) -> dict[str, Any]:
    """The first fields of a fingerprint: stream, kind, model, and what was asked for beyond them.

    `clip` and `slowfast` do not name their kind, as caches from before kinds were open do not.
    """
    choice = settled.choice
    kind = {} if choice.is_built_in_kind else {"kind": choice.kind}
    size = {"size": choice.size} if choice.size else {}
    options = {"options": dict(choice.options)} if choice.options else {}
    return {"stream": choice.name, **kind, "model": choice.model, **size, **options}
