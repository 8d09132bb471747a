"""The whole recipe of a head: a frozen record of the parts' own configs, presets, flat keys for sweeps."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from cache.arguments import require_whole, shown
from cache.errors import InputError
from heads.data.dataset import DataConfig, StreamInput
from heads.models.model import ModelConfig
from heads.scoring.thresholds import ThresholdConfig
from heads.training.losses import LossConfig
from heads.training.optim import OptimConfig

Selection = Literal["auroc", "average_precision", "f1", "loss", "last"]
SELECTIONS: tuple[Selection, ...] = ("auroc", "average_precision", "f1", "loss", "last")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that decides what a head becomes; two runs of one config on one machine give one checkpoint.

    selection: what the best epoch is best in, on val; last is the last one, whatever val
    says. calibration: temperature fitted on what chooses (out-of-fold scores, or val), or none.
    n_resamples: of each bootstrap, [0, 100,000]; 0 leaves intervals out. seed: of weights, order, dropout and folds, [0, 2^31).
    Raises InputError for values out of range.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)
    selection: Selection = "auroc"
    calibration: Literal["temperature", "none"] = "temperature"
    n_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model.architecture == "logistic":
            for section, default in (("optim", OptimConfig()), ("loss", LossConfig())):
                if getattr(self, section) != default:
                    names = ", ".join(_names(type(default)))
                    raise InputError(f"logistic is a regression without {names}; leave these out")
        if self.selection not in SELECTIONS:
            raise InputError(f"selection must be one of {', '.join(SELECTIONS)}; got '{self.selection}'")
        if self.calibration not in ("temperature", "none"):
            raise InputError(f"calibration must be temperature or none, got '{self.calibration}'")
        require_whole("n_resamples", self.n_resamples, 0, 100_000)
        require_whole("seed", self.seed, 0, 2**31 - 1)

    def updated(self, values: Mapping[str, Any]) -> TrainConfig:
        """A copy with flat keys set: "lr", "optim.lr", "model" (its architecture) or "loss" (its kind) alike.

        Strings are read as the field's type, "none" and "off" as None where a field may be None.
        Raises InputError for an unknown key or a value that does not fit.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"settings are a mapping such as {{'lr': 1e-3}}, not {shown(values)}")
        sections: dict[str, dict[str, Any]] = {}
        own: dict[str, Any] = {}
        for key, value in values.items():
            section, name = _resolve(key)
            if section is None:
                own[name] = _read(TrainConfig, name, value, key)
            else:
                sections.setdefault(section, {})[name] = _read(_SECTIONS[section], name, value, key)
        for section, changes in sections.items():
            own[section] = dataclasses.replace(getattr(self, section), **changes)
        return dataclasses.replace(self, **own)

    def reading(self, streams: Sequence[StreamInput]) -> TrainConfig:
        """The same for these streams: `model.absent` says whether a video may lack one of several. Without the only one it is not

        scored.
        """
        absent = len(streams) > 1 and any(stream.optional for stream in streams)
        return dataclasses.replace(self, model=dataclasses.replace(self.model, absent=absent))

    def as_dict(self) -> dict[str, Any]:
        """Nested plain JSON values; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Read what `as_dict` wrote. Raises InputError for unknown keys and values that do not fit."""
        if not isinstance(values, Mapping):
            raise InputError(f"a config is a mapping of settings to values, not {shown(values)}")
        flat: dict[str, Any] = {}
        for key, value in values.items():
            if key in _SECTIONS and isinstance(value, Mapping):
                flat |= {f"{key}.{name}": inner for name, inner in value.items()}
            else:
                flat[key] = value
        return cls().updated(flat)


_SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "loss": LossConfig,
    "optim": OptimConfig,
    "threshold": ThresholdConfig,
}


def _names(section: type) -> list[str]:
    return [f.name for f in dataclasses.fields(section)]


def _resolve(key: str) -> tuple[str | None, str]:
    """(section, field) of a flat key; section None for TrainConfig's own fields."""
    if not isinstance(key, str):
        raise InputError(f"a setting is named by a word such as 'lr', not {shown(key)}")
    key = key.strip().replace("-", "_")
    if key in _SECTIONS:
        return key, _names(_SECTIONS[key])[0]
    if "." in key:
        section, name = key.split(".", 1)
        if section in _SECTIONS and name in _names(_SECTIONS[section]):
            return section, name
    elif key in _names(TrainConfig):
        return None, key
    else:
        found = [section for section, cls in _SECTIONS.items() if key in _names(cls)]
        if len(found) == 1:
            return found[0], key
    bare = key.rsplit(".", 1)[-1]
    near = [known for known in flat_keys() if get_close_matches(bare, [known.rsplit(".", 1)[-1]])]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"unknown setting '{key}'; {hint}`train-head --help-settings` names them all")


def dotted_key(key: str) -> str:
    """The full name of a setting: "lr" is "optim.lr", "model" is "model.architecture". Raises InputError for
    an unknown one, with those that are spelt alike.
    """
    section, name = _resolve(key)
    return name if section is None else f"{section}.{name}"


def flat_keys() -> list[str]:
    """Every setting by its dotted name."""
    dotted = [f"{section}.{name}" for section, cls in _SECTIONS.items() for name in _names(cls)]
    return dotted + [name for name in _names(TrainConfig) if name not in _SECTIONS]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a recipe. key: dotted. values: what it may be, in words. about: its part of the docstring."""

    key: str
    default: str
    values: str
    about: str


def all_settings() -> list[Setting]:
    """Every setting, as the configs themselves declare and describe it."""
    found = []
    for section, cls in {**_SECTIONS, "": TrainConfig}.items():
        hints, about, defaults = typing.get_type_hints(cls), _described(cls), cls()
        for name in _names(cls):
            if name not in _SECTIONS:
                key = f"{section}.{name}" if section else name
                values = getattr(defaults, name)
                default = "off" if values is None else str(values)
                found.append(Setting(key, default, _values_words(hints[name]), about[name]))
    return found


def _described(cls: type) -> dict[str, str]:
    """What a config's docstring says of each field: from "name: " to the next one's."""
    text = (
        " ".join((cls.__doc__ or "").split())
        .split(" Raises ")[0]
        .replace("; None is off", "")
        .replace("None", "off")
    )
    fields = "|".join(_names(cls))
    parts = re.split(rf"(?:^|(?<=\s))({fields}): ", text)
    said = dict(zip(parts[1::2], (part.strip().rstrip(".;,") for part in parts[2::2]), strict=True))
    return {name: said.get(name, "") for name in _names(cls)}


def _values_words(hint: Any) -> str:
    """Such as "a whole number, or off"."""
    literals = [str(value) for value in _literals(hint)]
    kinds = _kinds(hint)
    plain = {bool: "true or false", int: "a whole number", float: "a number", tuple: "names by commas"}
    words = [", ".join(literals)] if literals else ["a name"] if str in kinds else []
    words += [word for kind, word in plain.items() if kind in kinds]
    return ", or ".join([*words, *(["off"] if type(None) in kinds else [])])


def _literals(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(value for part in typing.get_args(hint) for value in _literals(part))


def _read(cls: type, name: str, value: Any, key: str) -> Any:
    """`value` as the type of the field. Raises InputError when it does not fit."""
    kinds = _kinds(typing.get_type_hints(cls)[name])
    if isinstance(value, str) and value.lower() in ("none", "off", "null", "all") and type(None) in kinds:
        return None
    if value is None and type(None) in kinds:
        return None
    if tuple in kinds and isinstance(value, (str, list, tuple)):
        parts = value.replace("+", ",").split(",") if isinstance(value, str) else list(value)
        return tuple(str(part).strip() for part in parts)
    if bool in kinds:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "yes", "on", "1"):
            return True
        if str(value).lower() in ("false", "no", "off", "0"):
            return False
    for kind in (int, float):
        if kind in kinds and not isinstance(value, bool):
            try:
                number = kind(value)
            except (TypeError, ValueError, OverflowError):
                continue
            if kind is float or float(value) == number:
                return number
    if str in kinds and isinstance(value, str):
        return value
    words = _values_words(typing.get_type_hints(cls)[name])
    raise InputError(f"{key} cannot be {value!r}; it is {words}")


def _kinds(hint: Any) -> set[type]:
    """Plain types that a field may hold."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_kinds(part) for part in typing.get_args(hint)))
    if origin is Literal:
        return {type(value) for value in typing.get_args(hint)}
    return {origin or hint}


FINAL_MODEL_4 = TrainConfig(
    model=ModelConfig(architecture="transformer", pool="mean", depth=1, scaling="none"),
    loss=LossConfig(kind="bce", pos_weight="auto"),
    optim=OptimConfig(
        epochs=6,
        batch_size=4,
        lr=3e-4,
        weight_decay=0.0,
        schedule="constant",
        warmup_share=0.0,
        clip_norm=None,
        ema_decay=None,
        patience=None,
    ),
    threshold=ThresholdConfig(objective="f1", grid="coarse"),
    selection="f1",
    calibration="none",
)
"""What the earlier final-model-4 used: batch 4, lr 3e-4, 6 epochs, threshold grid 0.30 to 0.70 by 0.05, best
F1.
"""

PRESETS: dict[str, TrainConfig] = {"default": TrainConfig(), "final-model-4": FINAL_MODEL_4}
