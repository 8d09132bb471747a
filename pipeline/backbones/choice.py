"""What a user asks for: the streams of a run, each by name, kind and model. Reads arguments and recipes, loads nothing.

clip                                              a built-in recipe, by its name
image=timm:tf_efficientnet_lite0,weights=FILE     NAME=KIND:MODEL[,key=value...]
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cache.arguments import is_whole, shown
from cache.errors import InputError, WeightsError
from cache.schema import STREAM_NAME

RANDOM = "random"
RECIPES: Mapping[str, str] = {
    "clip": "open_clip:ViT-B-32,weights=openai",
    "slowfast": "pytorchvideo:slowfast_r50,weights=kinetics400",
    "image": "timm:tf_efficientnet_lite0,weights=efficientnet-lite0",
    "motion": "motion",
    "audio": "logmel",
    "text": "transformers:sentence-transformers/all-MiniLM-L6-v2,weights=all-minilm-l6-v2",
}
"""Streams that a name alone asks for."""
DEFAULT_STREAMS = ("clip", "slowfast")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
RUNTIMES = ("auto", "torch", "openvino", "compile")
"""What a stream's own precision and runtime may be, before a device has its say."""
MAX_FPS = 1000.0
MAX_SIZE = 4096
MAX_LISTED = 16
"""Good values that a message names where none is like the wrong one."""
LONG_WORD = 6
"""Letters from which on two words are alike by chance more rarely than by a slip: a larger share of them must agree."""
SHORT_FLAGS: Mapping[tuple[str, str], str] = {
    ("clip", "model"): "--clip-model",
    ("clip", "weights"): "--clip-weights",
    ("clip", "tag"): "--clip-tag",
    ("clip", "fps"): "--clip-fps",
    ("slowfast", "weights"): "--slowfast-weights",
    ("slowfast", "stride"): "--slowfast-stride",
}
"""Flags of `extract` for single settings of two built-in recipes."""


@dataclass(frozen=True, slots=True)
class StreamChoice:
    """One stream as asked for; what is empty or 0 is the kind's own choice.

    name: of the stream in the cache. kind, model: which network. weights: a published tag, a file, or `random`. tag: what a file
    holds. seed: of random weights. fps: samples a second of the time grid. stride: samples between windows. size: pixels of the
    model's input, where it may be chosen. precision, runtime: of this stream, where not those of the run. options: the kind's
    own keys. Raises InputError for values that no kind could take.
    """

    name: str
    kind: str
    model: str = ""
    weights: str = ""
    tag: str = ""
    seed: int = 0
    fps: float = 0.0
    stride: int = 0
    size: int = 0
    precision: str = ""
    runtime: str = ""
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not STREAM_NAME.fullmatch(self.name):
            raise InputError(
                f"--stream {self.name}: a stream's name is lower-case letters, digits, '-' and '_', as in image=timm:MODEL"
            )
        if self.fps and not 0 < self.fps <= MAX_FPS:
            raise InputError(f"{self.setting('fps', f'{self.fps:g}')}: above 0 and at most {MAX_FPS:g}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"--seed {self.seed}: between 0 and 2**63 - 1")
        if self.stride < 0:
            raise InputError(f"{self.setting('stride', self.stride)}: at least 1 sample")
        if not 0 <= self.size <= MAX_SIZE:
            raise InputError(f"{self.setting('size', self.size)}: between 1 and {MAX_SIZE} pixels")

    def setting(self, key: str, value: object) -> str:
        """How a user gives this stream a value: `--clip-weights FILE`, or `--stream image: weights=FILE`."""
        flag = SHORT_FLAGS.get((self.name, key)) if self.is_built_in_kind else None
        return f"{flag} {value}" if flag else f"--stream {self.name}: {key}={value}"

    @property
    def is_built_in_kind(self) -> bool:
        """Whether the name alone says the kind; fingerprints from before kinds were open leave it out."""
        return self.name in DEFAULT_STREAMS and self.kind == RECIPES[self.name].partition(":")[0]

    def option(self, key: str, default: str = "") -> str:
        """One of the kind's own keys."""
        return dict(self.options).get(key, default)

    def __str__(self) -> str:
        """As `--stream` takes it."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _PLACE} | dict(
            self.options
        )
        said = [
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in given.items()
            if value
        ]
        return ",".join([f"{self.name}={self.kind}" + (f":{self.model}" if self.model else ""), *said])


_PLACE = ("name", "kind", "model", "options")
COMMON_KEYS = tuple(f.name for f in fields(StreamChoice) if f.name not in _PLACE)
"""Keys of `--stream` that all kinds have."""


def parse_stream(text: str) -> StreamChoice:
    """`NAME=KIND:MODEL[,key=value...]`, or the name of a built-in recipe. Raises InputError for anything else."""
    head, *pairs = [part.strip() for part in text.split(",")]
    name, equals, where = head.partition("=")
    if not equals:
        if name not in RECIPES:
            raise InputError(
                f"--streams {text}: no such stream{near(name, list(RECIPES))}, or describe one with "
                "--stream NAME=KIND:MODEL (onepass streams lists the kinds)"
            )
        base = parse_stream(f"{name}={RECIPES[name]}")
        return _with_pairs(base, pairs, text) if pairs else base
    kind, _, model = where.partition(":")
    if not name or not kind:
        raise InputError(
            f"--stream {text}: write NAME=KIND:MODEL[,key=value...], such as image=timm:resnet50,fps=2"
        )
    return _with_pairs(StreamChoice(name, kind, model), pairs, text)


def _with_pairs(base: StreamChoice, pairs: Sequence[str], text: str) -> StreamChoice:
    given: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise InputError(
                f"--stream {text}: {pair!r} is no key=value (a path with a comma in it cannot be given)"
            )
        if key in given:
            raise InputError(f"--stream {text}: {key} is given twice")
        given[key] = value
    return with_values(base, given)


def with_values(base: StreamChoice, values: Mapping[str, Any]) -> StreamChoice:
    """The choice with these keys set; keys that not all kinds have become options. Raises InputError for wrong values."""
    changes: dict[str, Any] = {}
    options = dict(base.options)
    for key, value in values.items():
        if key in ("seed", "stride", "size"):
            changes[key] = _number(base, key, value, int)
        elif key == "fps":
            changes[key] = _number(base, key, value, float)
        elif key in COMMON_KEYS:
            changes[key] = str(value)
        else:
            options[key] = str(value)
    for key in ("fps", "stride", "size"):
        if key in changes and not changes[key] > 0:
            raise InputError(f"{base.setting(key, values[key])}: must be positive")
    return replace(base, **changes, options=tuple(sorted(options.items())))


def _number(base: StreamChoice, key: str, value: Any, kind: type[Any]) -> Any:
    try:
        found = kind(value)
        if (isinstance(value, str) and not value.isascii()) or "_" in str(value) or found != float(value):
            found = math.nan
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{base.setting(key, value)}: must be {what}")
    return found


def choose_streams(
    asked: Iterable[str | StreamChoice] = DEFAULT_STREAMS,
    *,
    weights: str | None = None,
    seed: int = 0,
    clip_model: str | None = None,
    clip_weights: str | None = None,
    clip_tag: str | None = None,
    clip_fps: float | None = None,
    slowfast_weights: str | None = None,
    slowfast_stride: int | None = None,
) -> tuple[StreamChoice, ...]:
    """The streams of a run. asked: names of recipes, `NAME=KIND:MODEL,...`, or choices, each stream once.

    weights: of every stream that does not name its own. seed: likewise. The others are settings of the recipes of those names.
    The order is not that of asking: recipes first, the others by name. Raises InputError.
    """
    if isinstance(asked, str):
        raise InputError(f"streams are a list of names, such as ['clip'], not {asked!r}")
    asked = tuple(asked or ())
    if not asked:
        raise InputError(
            f"--streams: name at least one of {', '.join(RECIPES)}, or describe one with --stream"
        )
    if wrong := [one for one in asked if not isinstance(one, str | StreamChoice)]:
        raise InputError(f"streams is a list, such as ['image', 'motion'], got {shown(wrong)}")
    if not is_whole(seed):
        raise InputError(f"seed is a whole number, got {shown(seed)}")
    texts = {
        "weights": weights,
        "clip_model": clip_model,
        "clip_weights": clip_weights,
        "clip_tag": clip_tag,
        "slowfast_weights": slowfast_weights,
    }
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise InputError(f"{name} is a text, got {shown(text)}")
    own: Mapping[str, Mapping[str, Any]] = {
        "clip": {"model": clip_model, "weights": clip_weights, "tag": clip_tag, "fps": clip_fps},
        "slowfast": {"weights": slowfast_weights, "stride": slowfast_stride},
    }
    found = []
    for one in asked:
        choice = one if isinstance(one, StreamChoice) else parse_stream(one)
        says_weights = "weights=" in one if isinstance(one, str) else bool(one.weights)
        if weights is not None and not says_weights:
            choice = replace(choice, weights=weights)
        says_seed = "seed=" in one if isinstance(one, str) else bool(one.seed)
        if seed and not says_seed:
            choice = replace(choice, seed=seed)
        if choice.is_built_in_kind:
            given = {key: value for key, value in own[choice.name].items() if value not in (None, "")}
            choice = with_values(replace(choice, model=str(given.pop("model", choice.model))), given)
        found.append(choice)
    names = [choice.name for choice in found]
    if len(set(names)) != len(names):
        raise InputError(f"--streams {','.join(names)}: each stream once")
    places = {name: place for place, name in enumerate(RECIPES)}
    return tuple(sorted(found, key=lambda choice: (places.get(choice.name, len(places)), choice.name)))


def require_flags_have_streams(choices: Sequence[StreamChoice], settings: Mapping[str, Any]) -> None:
    """Raise InputError for a setting of a built-in recipe (`clip_weights`, ...) that no stream of the run takes."""
    takers = {choice.name for choice in choices if choice.is_built_in_kind}
    for (name, key), flag in SHORT_FLAGS.items():
        if (value := settings.get(f"{name}_{key}")) not in (None, "") and name not in takers:
            made = ", ".join(choice.name for choice in choices)
            raise InputError(
                f"{flag} {value}: is of the built-in stream {name}, which this run does not make (it makes {made}); leave it "
                f"out, or ask for {name} with --streams"
            )


def near(wrong: str, good: Sequence[str]) -> str:
    """A half sentence: up to three good values like the wrong one, all of them where none is and they are few, else nothing."""
    alike = get_close_matches(wrong, good, n=3, cutoff=0.6 if len(wrong) < LONG_WORD else 0.7)
    if alike:
        return f"; did you mean {', '.join(alike)}?"
    listed = [name for name in good if name]
    return f"; choose from {', '.join(listed)}" if 0 < len(listed) <= MAX_LISTED else ""


def require_file(path: Path, *, said: str) -> None:
    """Raise WeightsError unless weights can lie there. said: the path as it was given."""
    if path.is_dir():
        raise WeightsError(f"{said}: is a folder; give the file of weights in it")
    if not path.is_file():
        raise WeightsError(f"{said}: no such file; give a path to weights, a published tag, or {RANDOM}")


def looks_like_file(weights: str) -> bool:
    """True for what is meant as a path rather than a tag."""
    return "/" in weights or Path(weights).suffix in {".pt", ".pth", ".pyth", ".bin", ".safetensors", ".ckpt"}


def read_recipe(path: Path) -> tuple[StreamChoice, ...]:
    """Streams of a YAML file: under `streams`, by name, `kind`, `model` and the keys of `--stream`. Raises InputError."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        _require_distinct_keys(yaml.compose(text, Loader=yaml.SafeLoader), path)
        loaded = yaml.safe_load(text)
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
        raise InputError(f"--recipe {path}: cannot be read ({reason})") from error
    streams = loaded.get("streams") if isinstance(loaded, Mapping) else None
    if not isinstance(streams, Mapping) or not streams:
        raise InputError(
            f"--recipe {path}: holds no streams; write streams: {{image: {{kind: timm, model: resnet50}}}}"
        )
    unknown = sorted(map(str, loaded.keys() - {"streams"}))
    if unknown:
        raise InputError(f"--recipe {path}: knows streams only, not {', '.join(unknown)}")
    found = []
    for name, given in streams.items():
        if not isinstance(given, Mapping) or not isinstance(given.get("kind"), str):
            raise InputError(f"--recipe {path}: stream {name} needs a kind and, mostly, a model")
        plain = {str(key): value for key, value in given.items()}
        if wrong := [
            key for key, value in plain.items() if not re.fullmatch(r"str|int|float", type(value).__name__)
        ]:
            raise InputError(f"--recipe {path}: stream {name}: {wrong[0]} must be a text or a number")
        base = StreamChoice(str(name), plain.pop("kind"), str(plain.pop("model", "")))
        found.append(with_values(base, plain))
    return tuple(found)


def _require_distinct_keys(node: Any, path: Path, seen: set[int] | None = None) -> None:
    """YAML takes the last of two equal keys without a word. seen: nodes that aliases lead to again."""
    seen = set() if seen is None else seen
    pairs = node.value if node is not None and node.id == "mapping" and id(node) not in seen else []
    seen.add(id(node))
    keys = [str(key.value) for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise InputError(f"--recipe {path}: {twice[0]} stands twice")
    for _, value in pairs:
        _require_distinct_keys(value, path, seen)


def recipe_of(streams: Sequence[StreamChoice]) -> dict[str, Any]:
    """The same as plain values, as a recipe file holds them and as a cache keeps them in its provenance."""
    found: dict[str, Any] = {}
    for choice in streams:
        given = {f.name: getattr(choice, f.name) for f in fields(choice) if f.name not in ("name", "options")}
        found[choice.name] = {key: value for key, value in given.items() if value} | dict(choice.options)
    return {"streams": found}
