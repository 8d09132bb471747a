"""Fingerprints: how the features of a stream were made, as a nested dict of JSON values.

    {"stream": "clip", "model": "ViT-B-32", "weights": {"tag": "random", "seed": 0, "digest": "sha256:..."},
     "preprocessing": {...}, "sampling": {...}, "decoding": {"rules": 2}, "precision": "bf16", "runtime": "torch",
     "libraries": {"torch": "2.14.1", ...}}

Caches from before decoding rules were counted have none: that is rules 1 (docs/sampling.md).

Features made elsewhere (`cache.features`) say so: `"kind": "imported"`, as `model` what their user says made them, and in
place of a digest of weights one of the values.

Two fingerprints that differ anywhere describe features that must not be mixed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from cache.errors import FingerprintMismatch

Fingerprint = Mapping[str, Any]

IMPORTED = "imported"
"""Kind and weights tag of features made elsewhere."""
UNKNOWN_MODEL = "unknown"
_DIGEST = "weights.digest"
_ABSENT = object()
_ACCEPTABLE = ("libraries", "decoding")
"""Fields that an option accepts: what differs by them is meant to be alike."""


def _flatten(value: Any, prefix: str, into: dict[str, Any]) -> None:
    if isinstance(value, Mapping) and (value or not prefix):
        for key in value:
            _flatten(value[key], f"{prefix}.{key}" if prefix else str(key), into)
    else:
        into[prefix] = list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    return value if isinstance(value, str) and value else json.dumps(value, sort_keys=True)


def differences(a: Fingerprint, b: Fingerprint, *, ignore_libraries: bool = False) -> list[str]:
    """Name every field in which `a` ("here") and `b` ("there") differ, e.g. `"precision: fp32 here, bf16
    there"`.

    Nested keys are dotted. `ignore_libraries` leaves out the versions of libraries and of the decoding rules. The digest of
    imported values tells them from others only where nobody said what made both of them.
    """
    flat_a: dict[str, Any] = {}
    flat_b: dict[str, Any] = {}
    _flatten(a, "", flat_a)
    _flatten(b, "", flat_b)
    found: list[str] = []
    for key in [*flat_a, *(key for key in flat_b if key not in flat_a)]:
        if ignore_libraries and key.split(".", 1)[0] in _ACCEPTABLE:
            continue
        if key == _DIGEST and _said_alike(a, b):
            continue
        here, there = flat_a.get(key, _ABSENT), flat_b.get(key, _ABSENT)
        if here is _ABSENT or there is _ABSENT or here != there:
            found.append(f"{key}: {_shown(here)} here, {_shown(there)} there")
    return found


def require_same(
    expected: Fingerprint,
    found: Fingerprint,
    *,
    where: str,
    ignore_libraries: bool = False,
    of: Literal["run", "cache", "head"] = "run",
) -> None:
    """Raise `FingerprintMismatch` unless `expected` (here) and `found` (in `where`, there) agree.

    of: what `expected` is of, which decides the remedy: a run can have other settings, a cache and a head are what they are.
    """
    fields = differences(expected, found, ignore_libraries=ignore_libraries)
    if not fields:
        return
    stream = expected.get("stream") or found.get("stream") or "?"
    if all(field.startswith("libraries.") for field in fields):
        remedy = (
            "Only library versions differ: install the same ones, or give the option that accepts others."
        )
    elif is_imported(expected) and is_imported(found) and [f.split(":")[0] for f in fields] == [_DIGEST]:
        remedy = (
            "Both were imported, and nothing says that they were made in the same way: if they were, import both with the same "
            "--made-by."
        )
    elif all(field.split(".", 1)[0] in _ACCEPTABLE for field in fields):
        remedy = (
            "Frames were chosen by other decoding rules: bring the older cache up to date with extract --redo affected, "
            "or give the option that accepts other library versions."
        )
    else:
        alone = [field.split(":")[0] for field in fields] == ["precision"] and "precision" in found
        mine, theirs = (f"extract --precision {one.get('precision')}" for one in (expected, found))
        run, cache, head = (
            (f" ({theirs} makes what is there)", f" ({mine}, or {theirs})", f" ({mine})")
            if alone
            else ("", "", "")
        )
        todo = {
            "run": f"use the same settings{run}, or another cache",
            "cache": f"extract one of them again, into a new cache, with the settings of the other{cache}",
            "head": f"extract it again, into a new cache, with the head's settings{head}, or train a head on it",
        }
        remedy = f"Features made in different ways are never mixed: {todo[of]}."
    raise FingerprintMismatch(f"stream {stream} differs from {where}: {'; '.join(fields)}. {remedy}")


def decoding_rules(fingerprint: Fingerprint) -> int:
    """Version of the rules by which frames were decoded and chosen; 1 where the fingerprint does not say."""
    decoding = fingerprint.get("decoding")
    return int(decoding.get("rules", 1)) if isinstance(decoding, Mapping) else 1


def fingerprint_digest(fingerprint: Fingerprint) -> str:
    """A short stable name of a fingerprint: 16 hex digits, the same whatever the order of the keys."""
    canonical = json.dumps(fingerprint, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def _weights(fingerprint: Fingerprint) -> Mapping[str, Any]:
    weights = fingerprint.get("weights")
    return weights if isinstance(weights, Mapping) else {}


def is_random(fingerprint: Fingerprint) -> bool:
    """Whether the features come from untrained, randomly initialised weights."""
    return _weights(fingerprint).get("tag") == "random"


def is_imported(fingerprint: Fingerprint) -> bool:
    """Whether the features were made elsewhere, so that nothing but their values is known."""
    return _weights(fingerprint).get("tag") == IMPORTED


def imported_fingerprint(
    stream: str, *, digest: str, sampling: Mapping[str, Any], made_by: str = ""
) -> dict[str, Any]:
    """What can be said of features made elsewhere. digest: of their values (`cache.check.values_digest`)."""
    return {
        "stream": stream,
        "kind": IMPORTED,
        "model": made_by or UNKNOWN_MODEL,
        "weights": {"tag": IMPORTED, "digest": digest},
        "sampling": dict(sampling),
        "precision": "unknown",
    }


def _said_alike(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether both are imported and their user said of both that the same made them."""
    return is_imported(a) and is_imported(b) and a.get("model") == b.get("model") != UNKNOWN_MODEL


def weights_name(fingerprint: Fingerprint) -> str:
    """The weights as every table prints them: `"random (seed 0)"`, `"openai"`, `"file (openai)"`, `"unknown"`, or

    `"imported (1f0c66d4e2a1)"`, with the digest of the values and what their user says made them.
    """
    weights = _weights(fingerprint)
    if is_imported(fingerprint):
        said = "" if fingerprint.get("model") == UNKNOWN_MODEL else f"{fingerprint.get('model')}, "
        return f"imported ({said}{str(weights.get('digest', '')).rpartition(':')[2][:12]})"
    if is_random(fingerprint):
        return f"random (seed {weights.get('seed', '?')})"
    if weights.get("published_as"):
        return f"{weights.get('tag')} ({weights['published_as']})"
    return str(weights.get("tag") or "unknown")
