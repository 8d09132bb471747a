"""Videos leave whole, once, or as a reject with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cache.schema import Reject, TokenDtype, VideoFeatures, VideoLabel
from pipeline import assembly
from pipeline.assembly import Assembler, reject
from pipeline.decoding.decode import DecodedVideo
from pipeline.decoding.sampling import token_spans
from pipeline.decoding.worker import Failed, Finished
from pipeline.sources.inventory import Input
from pipeline.sources.tree import Source
from tests.pipeline.fakes import PLANS
from tests.pipeline.tiny import tiny_backbones

DECODED = DecodedVideo(1.0, 10.0, 64, 48, 10, 0, 1.0)
N_TOKENS = {plan.name: len(token_spans(1.0, plan.sampling)) for plan in PLANS}


def make_input(number: int = 0) -> Input:
    source = Source(f"train/Fight/{number}.mp4", Path(f"/x/{number}.mp4"), "Fight", "train", "rec1")
    return Input(source, VideoLabel(1, "Fight", "train", "rec1"), 1234, 99)


def finished(number: int = 0, *, decoder: str = "decord", video: DecodedVideo = DECODED) -> Finished:
    return Finished(number, f"blake2b:{number:02x}", decoder, video, 0.1, 0.0)  # type: ignore[arg-type]


def vector(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=8).astype(np.float32)


def assembler(dtype: TokenDtype = "float16") -> Assembler:
    return Assembler(tiny_backbones(), dtype=dtype)


def feed(found: Assembler, number: int = 0, *, attempt: int = 0, seed: int = 0) -> None:
    for name, count in N_TOKENS.items():
        for index in range(count):
            found.token(number, attempt, name, index, vector(seed + index))


def only(found: Assembler) -> VideoFeatures | Reject:
    ((_, whole),) = found.complete()
    return whole


def test_spans_are_computed_once_a_video_however_often_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They were a fifth of the one thread that feeds a GPU when every look at every open video computed them."""
    computed: list[float] = []
    real = assembly.token_spans
    monkeypatch.setattr(assembly, "token_spans", lambda *given: (computed.append(given[0]), real(*given))[1])
    found = assembler()
    for number in range(4):
        found.start(number, make_input(number))
        found.finished(finished(number))
    for number in range(4):
        feed(found, number)
        assert len(list(found.complete())) == 1 and not list(found.complete())
    assert len(computed) == 4 * len(PLANS)


def test_a_video_is_whole_when_decoded_and_embedded() -> None:
    found = assembler("float32")
    found.start(0, make_input())
    feed(found)
    assert list(found.complete()) == []  # the decode has not ended
    found.finished(finished())
    whole = only(found)
    assert isinstance(whole, VideoFeatures)
    assert whole.row.id == "train/Fight/0.mp4" and whole.row.digest == "blake2b:00"
    assert (whole.row.label, whole.row.label_name, whole.row.split, whole.row.source) == (
        1,
        "Fight",
        "train",
        "rec1",
    )
    assert (whole.row.size_bytes, whole.row.mtime_ns, whole.row.decoder) == (1234, 99, "decord")
    assert (whole.row.duration_seconds, whole.row.fps, whole.row.width, whole.row.height) == (1.0, 10, 64, 48)
    assert whole.row.n_frames == 10
    for name, tokens in whole.tokens.items():
        np.testing.assert_array_equal(tokens.values, [vector(i) for i in range(N_TOKENS[name])])
        assert len(tokens.spans) == N_TOKENS[name]
    assert list(found.complete()) == [] and len(found) == 0


def test_tokens_may_come_after_the_end_of_the_decode_and_in_any_order() -> None:
    found = assembler("float32")
    found.start(0, make_input())
    found.finished(finished())
    keys = [(name, index) for name, count in N_TOKENS.items() for index in range(count)]
    for name, index in reversed(keys[1:]):
        found.token(0, 0, name, index, vector(index))
        assert list(found.complete()) == []
    found.token(0, 0, *keys[0], vector(0))
    whole = only(found)
    assert isinstance(whole, VideoFeatures)
    np.testing.assert_array_equal(whole.tokens["slowfast"].values[2], vector(2))


def test_tokens_of_an_abandoned_attempt_are_dropped() -> None:
    found = assembler("float32")
    found.start(0, make_input())
    feed(found, seed=500)
    found.restart(0)
    feed(found, attempt=0, seed=500)  # still in a batch when the attempt was given up
    found.finished(finished(decoder="pyav"))
    assert list(found.complete()) == []
    feed(found, attempt=1)
    whole = only(found)
    assert isinstance(whole, VideoFeatures) and whole.row.decoder == "pyav"
    np.testing.assert_array_equal(whole.tokens["clip"].values[0], vector(0))


def test_vectors_are_copied_out_of_the_batch() -> None:
    found = assembler("float32")
    found.start(0, make_input())
    shared = vector(0)
    feed(found)
    found.token(0, 0, "clip", 0, shared)
    shared[:] = 0
    found.finished(finished())
    whole = only(found)
    assert isinstance(whole, VideoFeatures)
    np.testing.assert_array_equal(whole.tokens["clip"].values[0], vector(0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stream", ["clip", "slowfast"])
def test_what_is_not_finite_is_never_stored(bad: float, stream: str) -> None:
    found = assembler()
    found.start(0, make_input())
    feed(found)
    poisoned = vector(1)
    poisoned[3] = bad
    found.token(0, 0, stream, 1, poisoned)
    found.finished(finished())
    whole = only(found)
    assert isinstance(whole, Reject)
    assert whole.reason == "non-finite-features" and f"{stream}: 1 of {N_TOKENS[stream]}" in whole.detail
    assert whole.digest == "blake2b:00" and whole.size_bytes == 1234


def test_values_beyond_float16_are_refused_with_the_way_out() -> None:
    for dtype, stored in (("float16", False), ("float32", True)):
        found = assembler(dtype)  # type: ignore[arg-type]
        found.start(0, make_input())
        feed(found)
        large = vector(1)
        large[0] = 1e5
        found.token(0, 0, "clip", 1, large)
        found.finished(finished())
        whole = only(found)
        assert isinstance(whole, VideoFeatures) == stored
        if isinstance(whole, Reject):
            assert whole.reason == "non-finite-features" and "--dtype float32" in whole.detail


def test_values_that_float16_holds_by_a_few_bits_are_refused_with_the_way_out() -> None:
    """torchvision's s3d with random weights: features up to 1.3e-6, stored with a relative error of 2.6e-2."""
    for dtype, scale, stored in (("float16", 1e-6, False), ("float16", 1e-3, True), ("float32", 1e-6, True)):
        found = assembler(dtype)  # type: ignore[arg-type]
        found.start(0, make_input())
        feed(found)
        found.token(0, 0, "clip", 1, vector(1) * np.float32(scale))
        found.finished(finished())
        whole = only(found)
        assert isinstance(whole, VideoFeatures) == stored
        if isinstance(whole, Reject):
            assert whole.reason == "non-finite-features" and "--dtype float32" in whole.detail


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_a_constant_token_is_never_stored(value: float) -> None:
    found = assembler()
    found.start(0, make_input())
    feed(found)
    found.token(0, 0, "slowfast", 0, np.full(8, value, np.float32))
    found.finished(finished())
    whole = only(found)
    assert isinstance(whole, Reject) and whole.reason == "constant-features" and "slowfast" in whole.detail


def test_a_token_that_float16_makes_constant_is_not_stored() -> None:
    found = assembler()
    found.start(0, make_input())
    feed(found)
    found.token(0, 0, "clip", 0, np.linspace(1.0, 1.0001, 8, dtype=np.float32))
    found.finished(finished())
    whole = only(found)
    assert isinstance(whole, Reject) and whole.reason == "constant-features"


def test_a_failed_video_is_a_reject_and_late_tokens_of_it_are_ignored() -> None:
    found = assembler()
    found.start(0, make_input())
    found.start(1, make_input(1))
    feed(found)
    refused = found.failed(Failed(0, "deadline", "no frame\0 for \udcff 60 s", "blake2b:aa"))
    assert (refused.id, refused.reason, refused.digest) == ("train/Fight/0.mp4", "deadline", "blake2b:aa")
    assert "\0" not in refused.detail
    feed(found)
    assert len(found) == 1 and found.id(1) == "train/Fight/1.mp4"
    assert found.unchanged(1).source.id == "train/Fight/1.mp4"
    assert len(found) == 0


def test_a_reject_keeps_the_stamp_of_the_file() -> None:
    row = reject(make_input(), "empty-file", "0 bytes")
    assert (row.size_bytes, row.mtime_ns, row.digest) == (1234, 99, "")
