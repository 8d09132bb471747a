from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from cache.schema import (
    MAX_DETAIL_CHARACTERS,
    PASSING_REASONS,
    REJECT_REASONS,
    Reject,
    StreamSpec,
    StreamTokens,
    VideoLabel,
    all_finite,
    is_passing,
    storable_text,
)
from tests.cache.builders import make_reject, make_video


def tokens(values: Any, spans: Any) -> StreamTokens:
    return StreamTokens(np.asarray(values, np.float16), np.asarray(spans, np.float32))


@pytest.mark.parametrize(
    ("values", "spans", "message"),
    [
        ([1.0, 2.0], [[0, 1]], "must be [T, D]"),
        (np.zeros((2, 0)), np.zeros((2, 2)), "must be [T, D]"),
        ([[1.0]], [[0, 1], [1, 2]], "float32 [1, 2]"),
        ([[np.nan]], [[0, 1]], "NaN"),
        ([[np.inf]], [[0, 1]], "NaN"),
        ([[1.0]], [[2, 1]], "start <= end"),
        ([[1.0]], [[0, np.nan]], "finite"),
    ],
)
def test_tokens_check_themselves(values: Any, spans: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        tokens(values, spans)


def test_tokens_refuse_other_dtypes() -> None:
    with pytest.raises(ValueError, match="float64"):
        StreamTokens(np.ones((1, 2)), np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="float64"):
        StreamTokens(np.ones((1, 2), np.float32), np.zeros((1, 2)))


def test_tokens_show_their_shapes() -> None:
    shown = repr(tokens([[1, 2]], [[0, 1.5]]))
    assert shown == "StreamTokens(values float16 [1, 2], spans 0.000 to 1.500 s)"


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_finds_a_single_bad_value(dtype: type, bad: float) -> None:
    values = np.full((50, 7), np.finfo(dtype).max, dtype)
    assert all_finite(values)
    values[31, 3] = bad
    assert not all_finite(values)
    assert not all_finite(values[:, 3:4])  # not contiguous


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "label must be"),
        ({"width": -1}, "width"),
        ({"duration_seconds": float("nan")}, "duration_seconds"),
        ({"source": "a\0b"}, "NUL"),
        ({"split": "caf\udce9"}, "UTF-8"),
    ],
)
def test_rows_check_themselves(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make_video("a.mp4").row, **change)


@pytest.mark.parametrize("video_id", ["", "a\0b", "caf\udce9.mp4", None])
def test_ids_must_be_storable(video_id: Any) -> None:
    with pytest.raises(ValueError, match="id"):
        dataclasses.replace(make_video("a.mp4").row, id=video_id)


def test_storable_text_changes_only_what_cannot_be_stored() -> None:
    assert storable_text("train/Ünï 你好.mp4") == "train/Ünï 你好.mp4"
    assert storable_text("caf\udce9\0.mp4") == "caf\\udce9\\x00.mp4"


def test_reject_reasons_are_a_fixed_list() -> None:
    assert len(REJECT_REASONS) == 20
    with pytest.raises(ValueError, match="no reject reason"):
        Reject("a.mp4", "bad-luck", "", "", 0, 0)


def test_passing_trouble_is_told_from_verdicts_on_contents() -> None:
    assert set(REJECT_REASONS) > PASSING_REASONS
    assert all(is_passing(reason, "blake2b:00") for reason in PASSING_REASONS)
    verdicts = set(REJECT_REASONS) - PASSING_REASONS
    assert not any(is_passing(reason, "blake2b:00") for reason in verdicts)
    # how earlier versions called a file that they could not read
    assert is_passing("unreadable-container", "") and not is_passing("empty-file", "")
    assert not is_passing("a-code-of-a-later-version", "")


@pytest.mark.parametrize("name", ["mtime_ns", "size_bytes"])
def test_numbers_that_no_column_holds_are_refused(name: str) -> None:
    fields = {"id": "a", "reason": "deadline", "detail": "", "digest": "", "size_bytes": 1, "mtime_ns": 1}
    with pytest.raises(ValueError, match=f"{name} must fit into 64 bits"):
        Reject(**{**fields, name: 2**63})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{name} must fit into 64 bits"):
        dataclasses.replace(make_video("a").row, **{name: 2**63})  # type: ignore[arg-type]


def test_reject_detail_is_made_storable_and_cut() -> None:
    reject = Reject("a.mp4", "deadline", "x\0" + "y" * 5000, "", 0, 0)
    assert reject.detail.startswith("x\\x00y")
    assert len(reject.detail) == MAX_DETAIL_CHARACTERS
    assert dataclasses.replace(reject) == reject
    assert make_reject("b") != reject


def test_labels_check_themselves() -> None:
    with pytest.raises(ValueError, match="label must be"):
        VideoLabel(3, "Fight")


def test_stream_spec_makes_its_fingerprint_plain_json() -> None:
    spec = StreamSpec("clip", 4, "float16", {"mean": (0.5, 0.5), "n": 1})
    assert spec.fingerprint == {"mean": [0.5, 0.5], "n": 1}


@pytest.mark.parametrize(
    ("name", "dim", "dtype", "found"),
    [
        ("Clip/x", 4, "float16", {}),
        ("clip", 0, "float16", {}),
        ("clip", 4, "float64", {}),
        ("clip", 4, "float16", {"weights": object()}),
        ("clip", 4, "float16", {"mean": float("nan")}),
    ],
)
def test_stream_spec_checks_itself(name: str, dim: int, dtype: Any, found: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="stream"):
        StreamSpec(name, dim, dtype, found)
