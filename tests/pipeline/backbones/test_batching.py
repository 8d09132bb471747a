"""Batches across videos: every token comes back under its key, with a value that its neighbours cannot change."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.backbones.batching import StreamRunner, TokenKey
from tests.pipeline.fakes import PLANS
from tests.pipeline.tiny import TinyBackbone

CPU = torch.device("cpu")


def windows(count: int, seed: int, *, stream: int = 1) -> NDArray[np.int16]:
    return drawn(count, seed, stream).copy()


@cache
def drawn(count: int, seed: int, stream: int) -> NDArray[np.int16]:
    plan = PLANS[stream]
    rng = np.random.default_rng(seed)
    high = 256 if plan.frames.recipe == "pil-bicubic" else 255 * 128
    return rng.integers(0, high, (count, plan.sampling.window, *plan.frames.shape)).astype(plan.frames.dtype)


@cache
def alone(seed: int, batch_size: int) -> NDArray[np.float32]:
    """Features of one window in a batch that is empty but for it."""
    batch = np.zeros((batch_size, *windows(1, seed).shape[1:]), np.int16)
    batch[0] = windows(1, seed)[0]
    features: NDArray[np.float32] = (
        TinyBackbone(PLANS[1], batch_size=batch_size).embed(torch.from_numpy(batch))[0].numpy()
    )
    return features


def run(backbone: TinyBackbone, chunks: list[tuple[int, int]]) -> dict[TokenKey, NDArray[np.float32]]:
    """Feed (video number, count) chunks; token contents follow from video and index."""
    runner = StreamRunner(backbone, device=CPU)
    first: dict[int, int] = {}
    found: dict[TokenKey, NDArray[np.float32]] = {}

    def gather() -> None:
        for key, vector in runner.results():
            assert key not in found
            found[key] = vector.copy()

    for number, count in chunks:
        start = first.get(number, 0)
        frames = np.concatenate([windows(1, 1000 * number + start + i) for i in range(count)])
        runner.add(number, 0, start, frames)
        frames[:] = 0  # the pool's slot is written again
        first[number] = start + count
        gather()
    runner.flush()
    gather()
    assert runner.n_tokens == sum(count for _, count in chunks)
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 7)), min_size=1, max_size=12), st.integers(1, 9))
def test_a_token_is_the_same_in_any_company(chunks: list[tuple[int, int]], batch_size: int) -> None:
    found = run(TinyBackbone(PLANS[1], batch_size=batch_size), chunks)
    totals = {number: sum(c for n, c in chunks if n == number) for number, _ in chunks}
    assert set(found) == {(number, 0, index) for number, total in totals.items() for index in range(total)}
    for (number, _, index), vector in found.items():
        np.testing.assert_array_equal(vector, alone(1000 * number + index, batch_size))


def test_every_forward_pass_has_the_full_batch() -> None:
    backbone = TinyBackbone(PLANS[1], batch_size=4)
    run(backbone, [(0, 3), (1, 3), (2, 3)])
    assert backbone.batches == [4, 4, 4]  # the last one holds a single token


def test_results_come_as_soon_as_a_batch_is_full() -> None:
    runner = StreamRunner(TinyBackbone(PLANS[1], batch_size=2), device=CPU)
    runner.add(0, 0, 0, windows(1, 0))
    assert list(runner.results()) == []
    runner.add(1, 3, 5, windows(2, 1))
    assert [key for key, _ in runner.results()] == [(0, 0, 0), (1, 3, 5)]
    runner.flush()
    assert [key for key, _ in runner.results()] == [(1, 3, 6)]
    runner.flush()
    assert list(runner.results()) == []


@pytest.mark.parametrize("stream", [0, 1])
def test_buffers_have_the_frames_own_type(stream: int) -> None:
    """uint8 frames for one stream, fixed-point int16 for the other; nothing is rounded on the way."""
    backbone = TinyBackbone(PLANS[stream], batch_size=1)
    runner = StreamRunner(backbone, device=CPU)
    frames = windows(1, 7, stream=stream)
    runner.add(0, 0, 0, frames)
    ((_, vector),) = runner.results()
    np.testing.assert_array_equal(vector, backbone.embed(torch.from_numpy(frames))[0].numpy())


@pytest.mark.cuda
def test_cuda_gives_the_same_tokens() -> None:
    """Two pinned buffers alternate; no token may be read before its copy is done, nor overwritten."""
    import os

    if not torch.cuda.is_available():
        assert not os.environ.get("ONEPASS_REQUIRE_CUDA"), "a CUDA device is required and missing"
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    backbone = TinyBackbone(PLANS[1], batch_size=4)
    plain = TinyBackbone(PLANS[1], batch_size=1)
    backbone._matrix = backbone._matrix.to(device)
    runner = StreamRunner(backbone, device=device)
    n_tokens = 203
    for index in range(n_tokens):
        runner.add(0, 0, index, windows(1, index))
    runner.flush()
    found = dict(runner.results())
    assert len(found) == n_tokens
    for (_, _, index), vector in found.items():
        expected = plain.embed(torch.from_numpy(windows(1, index)))[0].numpy()
        np.testing.assert_allclose(vector, expected, atol=1e-4)
