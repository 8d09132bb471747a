"""The two class names: which of them is the positive (harmful) one, and the label numbers they stand for."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cache.errors import LabelError
from cache.schema import VideoLabel

_POSITIVE_WORDS = frozenset(
    {
        *("fight", "fights", "fighting", "violence", "violent", "harmful", "harm", "unsafe"),
        *("abuse", "abusive", "assault", "attack", "aggression", "aggressive", "danger"),
        *("dangerous", "crime", "criminal", "anomaly", "anomalous", "abnormal", "positive", "pos"),
        *("true", "yes", "y", "1", "bad"),
    }
)
_NEGATIVE_WORDS = frozenset(
    {
        *("normal", "safe", "harmless", "benign", "peaceful", "peace", "neutral", "negative"),
        *("neg", "false", "no", "n", "0", "good", "ok"),
    }
)
_COUNTERPARTS = {"1": "0", "true": "false", "yes": "no", "y": "n", "positive": "negative", "harmful": "safe"}
_COUNTERPARTS |= {"pos": "neg", "abnormal": "normal", "unsafe": "safe", "bad": "good"}


@dataclass(frozen=True, slots=True)
class LabelNames:
    """The two class names, as they stand in the data, in Unicode form NFC."""

    negative: str
    positive: str

    def __post_init__(self) -> None:
        for field in ("negative", "positive"):
            object.__setattr__(self, field, nfc(getattr(self, field)))
        if not self.negative or not self.positive or same_name(self.negative, self.positive):
            raise ValueError(
                f"two different class names are needed, not {self.negative!r}, {self.positive!r}"
            )

    def number(self, name: str) -> int | None:
        """1 for the positive name, 0 for the negative one, in any case and Unicode form; None for any other."""
        return 1 if same_name(name, self.positive) else 0 if same_name(name, self.negative) else None

    def label(self, name: str, *, split: str = "", source: str = "") -> VideoLabel | None:
        """The label of a class name, spelt as in `self`; None for a name that is neither."""
        number = self.number(name)
        if number is None:
            return None
        return VideoLabel(number, self.positive if number else self.negative, split, source)


def choose_positive(
    names: Collection[str], *, positive: str | None, where: Mapping[str, str] | None = None
) -> LabelNames:
    """Decide which of two class names is the positive (harmful) one.

    `positive` (any case) decides; without it a known word does: fight, violence, harmful, 1, true, ...
    against nonfight, normal, safe, 0, false, ... A number decides only as 1 against 0 or -1, or beside a known
    word: 1 and 2 are somebody's numbering. With a single known name the other name is its usual counterpart
    (Fight -> NonFight). `where` says for a name where it was first seen.

    Raises LabelError when there are no names or more than two, when `positive` is none of them, or when no
    known word decides; the message says what to pass.
    """
    distinct: dict[str, str] = {}
    for name in sorted(names):
        distinct.setdefault(folded(name), name)
    found = list(distinct.values())
    listed = ", ".join(f"{name} ({where[name]})" if where and name in where else name for name in found)
    if not found:
        raise LabelError("no labels were found; pass --labels FILE, or put the videos in one folder a class")
    if len(found) > 2:
        shown = listed if len(found) <= 12 else ", ".join(found[:12]) + ", ..."
        raise LabelError(
            f"labels must be of two classes, but there are {len(found)}: {shown}; "
            "correct the odd ones, or pass --labels FILE with two class names"
        )
    if positive is not None:
        return _with_positive(found, positive, listed)
    kinds = [word_kind(name) for name in found]
    if len(found) == 2 and 0 in kinds and any(map(is_number, found)) and set(found) != {"-1", "1"}:
        kinds = [0, 0]
    if len(found) == 1:
        if kinds[0] == 0:
            raise LabelError(
                f"there is only one class, {listed}, and it is not a known word; "
                f"pass --positive {found[0]} if that is the harmful one, else the other class's name"
            )
        other = _counterpart(found[0], kinds[0])
        return LabelNames(other, found[0]) if kinds[0] > 0 else LabelNames(found[0], other)
    if kinds[0] == kinds[1]:
        raise LabelError(
            f"cannot tell which class is the positive (harmful) one: {listed}; "
            f"pass --positive {found[0]} or --positive {found[1]}"
        )
    return LabelNames(*(found if kinds[0] < kinds[1] else reversed(found)))


def _with_positive(found: list[str], positive: str, listed: str) -> LabelNames:
    positive = nfc(_as_typed(positive))
    chosen = next((name for name in found if same_name(name, positive)), None)
    others = [name for name in found if name != chosen]
    if chosen is not None:
        if others:
            return LabelNames(others[0], chosen)
        return LabelNames(_counterpart(chosen, max(1, word_kind(chosen))), chosen)
    near = difflib.get_close_matches(positive.strip(), found, n=1, cutoff=0.5)
    kind = word_kind(found[0])
    if len(found) == 1 and positive.strip() and (kind < 0 or (kind == 0 and not near)):
        return LabelNames(found[0], positive.strip())
    hint = f"; did you mean {near[0]}?" if near else ""
    raise LabelError(f"--positive {positive}: no such class; the classes are {listed}{hint}")


def _as_typed(argument: str) -> str:
    """A command line argument by its bytes: in a locale without UTF-8 Python reads its accents as lone surrogates."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


def is_known_word(name: str) -> bool:
    """Whether the name alone says which class it is: Fight, NonFight, violence, normal, 1, 0, ..."""
    return word_kind(name) != 0


def word_kind(name: str) -> int:
    """1 for a known positive word, -1 for a known negative one, 0 for any other."""
    word = folded(name)
    if re.search(r"[^\W\d_]", word):
        word = re.sub(r"[\W_]+", "", word)
    if word in _POSITIVE_WORDS:
        return 1
    if word in _NEGATIVE_WORDS:
        return -1
    for prefix in ("non", "not", "no", "un"):
        if word.startswith(prefix) and word.removeprefix(prefix) in _POSITIVE_WORDS - {"1", "y"}:
            return -1
    return 0


def _counterpart(name: str, kind: int) -> str:
    """The usual other name: NonFight for Fight, Fight for NonFight, 0 for 1."""
    word = name.casefold()
    if kind > 0:
        return _COUNTERPARTS.get(word) or f"Non{name}"
    for positive, negative in _COUNTERPARTS.items():
        if word == negative:
            return positive
    stripped = re.sub(r"^(non|not|no|un)[\W_]*", "", name, flags=re.IGNORECASE)
    return stripped if stripped and stripped != name else f"Non{name}"


def is_number(name: str) -> bool:
    """Whether the name is digits only, with a sign or decimals at most: a code, which says nothing by itself."""
    return re.fullmatch(r"[+-]?\d+(\.\d*)?", name.strip()) is not None


def nfc(text: str) -> str:
    """The text with every accented letter as one character, as most systems write it (macOS may write two)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """The text for comparison: case, outer spaces and Unicode form do not count."""
    return text.strip().lower() if text.isascii() else nfc(nfc(text).strip().casefold())


def same_name(a: str, b: str) -> bool:
    """Whether two names are one, but for case, outer spaces and Unicode form."""
    return a == b or folded(a) == folded(b)
