"""What is swept: axes from `--set` and `--grid`, and the cells they span, each a whole train config.

lr=1e-4,1e-3            three values, three cells (times the other axes)
streams=clip,clip+slowfast
lr=1e-5..1e-2           a range, for --search only; on a log scale when the ends are 10 times apart or more
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import InputError
from heads.training.config import TrainConfig, dotted_key

NOT_SWEPT = {
    "data.val_share": "all cells must be scored on the same videos",
    "n_resamples": "it changes no training; use --resamples",
}
LOG_RATIO = 10.0


@dataclass(frozen=True, slots=True)
class Axis:
    """One setting and its values as typed; `values` is empty for a range. key: dotted."""

    key: str
    values: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def is_range(self) -> bool:
        """True for a range, which only a search can draw from."""
        return self.low is not None

    @property
    def log(self) -> bool:
        """Whether a range is searched on a log scale."""
        return self.low is not None and self.high is not None and 0 < self.low * LOG_RATIO <= self.high

    @property
    def name(self) -> str:
        """The short name that tables show: "lr", "model", "loss"."""
        return short_name(self.key)


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination: what it sets, by dotted key and as typed, and the config that comes of it."""

    settings: tuple[tuple[str, str], ...]
    config: TrainConfig

    @property
    def label(self) -> str:
        """Such as "lr=1e-3 model=mlp"; "the base settings" where nothing is swept."""
        return " ".join(f"{short_name(key)}={value}" for key, value in self.settings) or "the base settings"


def short_name(key: str) -> str:
    """As people type it: "lr" for optim.lr, "model" for model.architecture; dotted where sections share a name."""
    section, _, bare = key.rpartition(".")
    if bare in ("architecture", "kind"):
        return section
    try:
        return bare if dotted_key(bare) == key else key
    except InputError:
        return key


def read_axes(settings: Sequence[str], grid_file: Path | None = None) -> list[Axis]:
    """Axes of a grid file, then of `--set key=a,b,c`. Raises InputError for what is unknown or said twice."""
    given: list[tuple[str, list[str]]] = [] if grid_file is None else list(_read_grid_file(grid_file))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not text.strip():
            raise InputError(f"--set takes KEY=VALUE,VALUE,...; got '{setting}'")
        given.append((key.strip(), [part.strip() for part in text.split(",")]))
    axes: list[Axis] = []
    for key, values in given:
        axis = _axis(key, values)
        if axis.key in (known.key for known in axes):
            raise InputError(f"'{axis.key}' is swept twice; give all its values at once")
        axes.append(axis)
    return axes


def _axis(key: str, values: list[str]) -> Axis:
    dotted = dotted_key(key)
    if dotted in NOT_SWEPT:
        raise InputError(f"'{key}' cannot be swept: {NOT_SWEPT[dotted]}")
    if len(values) == 1 and ".." in values[0]:
        low, high = values[0].split("..", 1)
        try:
            axis = Axis(dotted, low=float(low), high=float(high))
        except ValueError:
            raise InputError(f"'{key}={values[0]}' is no range; write LOW..HIGH in numbers") from None
        if not float(low) < float(high):
            raise InputError(f"the range of '{key}' must rise, got {values[0]}")
        return axis
    if not values or any(not value for value in values):
        raise InputError(f"'{key}' has an empty value; got {','.join(values)!r}")
    for value in values:
        _settings(TrainConfig(), {dotted: value}, only_readable=True)
    return Axis(dotted, tuple(dict.fromkeys(values)))


def _settings(base: TrainConfig, values: Mapping[str, str], *, only_readable: bool = False) -> TrainConfig:
    """The base with values set; with only_readable, values that need other settings beside them pass."""
    try:
        return base.updated(values)
    except InputError as error:
        if only_readable and "cannot be" not in str(error):
            return base
        raise


def _read_grid_file(path: Path) -> Iterable[tuple[str, list[str]]]:
    """YAML: a mapping of settings to a value or a list. Everything is read as text, as on the command line."""
    import yaml

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--grid {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"--grid {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not found:
        raise InputError(f"--grid {path} must be a mapping of settings to values, such as 'lr: [1e-4, 1e-3]'")
    for key, value in found.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in (key, *values)):
            raise InputError(f"--grid {path}: '{key}' must hold a value or a plain list of values")
        yield key, values


def fix_single_values(base: TrainConfig, axes: Sequence[Axis]) -> tuple[TrainConfig, list[Axis], str]:
    """Axes of one value are no axes: (base with them set, the axes that vary, "epochs=20" of those set).

    Raises InputError where a fixed value does not fit the base.
    """
    single = [axis for axis in axes if len(axis.values) == 1]
    cell = make_cell(base, [(axis.key, axis.values[0]) for axis in single])
    return cell.config, [axis for axis in axes if axis not in single], cell.label if single else ""


def make_cells(
    base: TrainConfig, axes: Sequence[Axis], *, skip_invalid: bool = False
) -> tuple[list[Cell], list[str]]:
    """Every combination of the axes' values, the first values first, and a line a combination left out.

    Combinations that give the same config are one cell. Raises InputError for a range, and for a combination
    that cannot be (such as a linear model of some depth) unless skip_invalid leaves it out.
    """
    for axis in axes:
        if axis.is_range:
            raise InputError(f"'{axis.name}' is a range; a grid needs values, or add --search N")
    cells: dict[str, Cell] = {}
    left_out: list[str] = []
    for values in itertools.product(*(axis.values for axis in axes)):
        settings = tuple(zip((axis.key for axis in axes), values, strict=True))
        try:
            cell = make_cell(base, settings)
        except InputError as error:
            if not skip_invalid:
                raise InputError(f"{error}. Leave the combination out with --skip-invalid") from error
            left_out.append(str(error))
            continue
        cells.setdefault(repr(cell.config), cell)
    if not cells:
        raise InputError("no combination of these settings can be trained: " + "; ".join(left_out[:3]))
    return list(cells.values()), left_out


def make_cell(base: TrainConfig, settings: Iterable[tuple[str, Any]]) -> Cell:
    """One cell. Raises InputError naming it when its settings do not go together."""
    pairs = tuple((key, str(value)) for key, value in settings)
    cell = Cell(pairs, base)
    try:
        return Cell(pairs, base.updated(dict(pairs)))
    except InputError as error:
        raise InputError(f"{cell.label}: {error}") from error
