from __future__ import annotations

import pytest

from cache.errors import FingerprintMismatch
from cache.fingerprint import differences, fingerprint_digest, is_random, require_same, weights_name
from tests.cache.builders import fingerprint

HERE = fingerprint("clip")


def test_differences_name_dotted_fields() -> None:
    there = fingerprint("clip", precision="bf16", sampling={"fps": 4.0, "window": [1, 2]})
    assert differences(HERE, there) == [
        "sampling.fps: 2.0 here, 4.0 there",
        "precision: fp32 here, bf16 there",
        "sampling.window: nothing here, [1, 2] there",
    ]


def test_equal_whatever_the_order_and_the_kind_of_sequence() -> None:
    here = {"a": (1, 2), "b": {"c": 1}}
    assert differences(here, {"b": {"c": 1}, "a": [1, 2]}) == []


def test_an_empty_part_is_not_a_missing_part() -> None:
    assert differences({"a": {}}, {}) == ["a: {} here, nothing there"]


def test_library_versions_can_be_ignored() -> None:
    there = fingerprint("clip", libraries={"torch": "2.1", "open_clip": "2.24"})
    assert differences(HERE, there, ignore_libraries=True) == []
    require_same(HERE, there, where="x", ignore_libraries=True)
    with pytest.raises(FingerprintMismatch, match=r"libraries\.torch: 2\.0 here, 2\.1 there.*accepts others"):
        require_same(HERE, there, where="a.zarr")


def test_a_mismatch_names_stream_place_fields_and_remedy() -> None:
    there = fingerprint("clip", precision="bf16")
    with pytest.raises(FingerprintMismatch) as caught:
        require_same(HERE, there, where="cache/v1.zarr")
    message = str(caught.value)
    for part in ("stream clip", "cache/v1.zarr", "precision: fp32 here, bf16 there", "another cache"):
        assert part in message
    assert "the same settings (extract --precision bf16 makes what is there), or" in message
    assert "accepts" not in message
    again = "again, into a new cache, with the"
    for of, remedy in (
        (
            "cache",
            f"extract one of them {again} settings of the other (extract --precision fp32, or extract --precision bf16)",
        ),
        ("head", f"extract it {again} head's settings (extract --precision fp32), or train a head on it"),
    ):
        with pytest.raises(FingerprintMismatch) as caught:
            require_same(HERE, there, where="cache/v1.zarr", of=of)
        assert remedy in str(caught.value) and "use the same settings" not in str(caught.value)
    with pytest.raises(FingerprintMismatch) as caught:
        require_same(HERE, there | {"model": "other"}, where="cache/v1.zarr")
    assert "--precision" not in str(caught.value)


def test_digest_is_stable() -> None:
    assert fingerprint_digest({"a": 1, "b": [1, "é"]}) == fingerprint_digest({"b": [1, "é"], "a": 1})
    assert fingerprint_digest({"a": 1}) != fingerprint_digest({"a": 2})
    assert len(fingerprint_digest(HERE)) == 16


def test_weights_are_named() -> None:
    assert is_random(HERE)
    assert weights_name(HERE) == "random (seed 0)"
    assert weights_name({"weights": {"tag": "openai"}}) == "openai"
    assert not is_random({})
    assert weights_name({}) == "unknown"
