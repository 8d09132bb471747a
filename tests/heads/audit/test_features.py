from __future__ import annotations

import numpy as np
import pytest

from cache.reader import Cache
from heads.audit.features import (
    PooledStream,
    chance_threshold,
    equal_features,
    near_duplicates,
    pool_stream,
    whitened,
)
from heads.data.rows import read_rows


def stream(means: np.ndarray, name: str = "clip") -> PooledStream:
    nothing = np.zeros(len(means), dtype=bool)
    return PooledStream(name, means.astype(np.float32), nothing, nothing, nothing, 0)


@pytest.mark.parametrize("block_bytes", [1, 100, 10**8])
def test_pooling_by_blocks_is_the_mean_of_each_videos_tokens(
    toy_cache: Cache, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_rows(toy_cache)
    blocks = toy_cache.iter_rows
    monkeypatch.setattr(toy_cache, "iter_rows", lambda name: blocks(name, block_bytes=block_bytes))
    for name in toy_cache.streams:
        pooled = pool_stream(toy_cache, name, rows.order)
        plain = [toy_cache.tokens(name, int(i)).values.astype(np.float64).mean(axis=0) for i in rows.order]
        np.testing.assert_allclose(pooled.means_VD, plain, atol=2e-3)
        assert not pooled.one_value.any()
        assert not pooled.frozen.any()
        assert pooled.n_constant_columns == 0


def test_whitening_gives_every_component_the_same_weight() -> None:
    """A component with 1,000 times the variance decides plain cosines and not whitened ones."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((200, 30))
    means[:, 0] *= 30
    means += 100
    unit = whitened(means)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)
    cosines = (unit @ unit.T)[np.triu_indices(200, 1)]
    assert abs(cosines.mean()) < 0.02
    assert cosines.std() == pytest.approx(1 / np.sqrt(30), rel=0.1)
    wide = whitened(rng.standard_normal((60, 500)))
    assert wide.shape == (60, 15)


def test_columns_that_never_vary_and_sets_without_any_other_are_fine() -> None:
    rng = np.random.default_rng(0)
    means = np.concatenate([rng.standard_normal((40, 6)), np.full((40, 3), 7.0)], axis=1)
    assert np.isfinite(whitened(means)).all()
    assert np.isfinite(whitened(np.ones((40, 5)))).all()
    found = near_duplicates([stream(np.ones((40, 5)))], ["a"] * 40)
    assert found is not None
    assert found.pairs == []


@pytest.mark.parametrize(("n", "k"), [(100, 2), (100, 3), (200, 10), (200, 40)])
def test_chance_passes_as_many_pairs_as_it_says(n: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heads.audit.features.CHANCE_PAIRS", 20)
    threshold = chance_threshold(n, k)
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(20):
        vectors = rng.standard_normal((n, k))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        counts.append((vectors @ vectors.T)[np.triu_indices(n, 1)] >= threshold)
    assert np.sum(counts, axis=1).mean() == pytest.approx(20, rel=0.2)


def test_few_components_need_a_higher_cosine() -> None:
    assert chance_threshold(1000, 64) < 0.85 < chance_threshold(100, 6) < 1
    assert chance_threshold(50, 1) == 1.0


def test_pairs_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    means = rng.standard_normal((100, 40))
    for first, second in ((0, 99), (10, 11), (30, 70)):
        means[second] = means[first] + 0.05 * rng.standard_normal(40)
    groups = [str(i) for i in range(100)]
    whole = near_duplicates([stream(means)], groups)
    monkeypatch.setattr("heads.audit.features.BLOCK", 7)
    monkeypatch.setattr("heads.audit.features.COLUMNS", 21)
    blocks = near_duplicates([stream(means)], groups)
    assert whole is not None
    assert blocks is not None
    assert {(a, b) for a, b, _ in blocks.pairs} == {(0, 99), (10, 11), (30, 70)}
    assert {(a, b) for a, b, _ in whole.pairs} == {(a, b) for a, b, _ in blocks.pairs}
    assert blocks.unrelated == pytest.approx(whole.unrelated)


def test_of_too_many_near_duplicates_the_most_alike_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    means = np.repeat(rng.standard_normal((25, 40)), 4, axis=0) + 0.02 * rng.standard_normal((100, 40))
    groups = [str(i) for i in range(100)]
    monkeypatch.setattr("heads.audit.features.BLOCK", 8)
    monkeypatch.setattr("heads.audit.features.COLUMNS", 16)
    whole = near_duplicates([stream(means)], groups)
    assert whole is not None and len(whole.pairs) > 100 and whole.n_more == 0
    monkeypatch.setattr("heads.audit.features.MOST_PAIRS", 10)
    cut = near_duplicates([stream(means)], groups)
    assert cut is not None
    assert cut.pairs == whole.pairs[:10] and cut.n_more == len(whole.pairs) - 10
    assert cut.unrelated == whole.unrelated


def test_equal_features_must_be_equal_in_every_stream() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((30, 4)), rng.standard_normal((30, 3))
    a[9] = a[2]
    a[20] = a[5]
    b[20] = b[5]
    assert equal_features([stream(a), stream(b, "slowfast")]) == [[5, 20]]
    assert near_duplicates([stream(a[:10])], ["x"] * 10) is None


def test_whitening_by_hand_and_of_few_directions() -> None:
    """Cosines as of eigenvectors of the Gram matrix; copies leave fewer components than asked for."""
    rng = np.random.default_rng(3)
    means = rng.standard_normal((48, 200))
    x = (means - means.mean(axis=0)) / means.std(axis=0)
    vectors = np.linalg.eigh(x @ x.T)[1][:, -12:]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = whitened(means)
    np.testing.assert_allclose(unit @ unit.T, vectors @ vectors.T, atol=1e-5)
    for width in (10, 200):
        copies = rng.standard_normal((3, width))[np.arange(48) % 3]
        unit = whitened(copies)
        assert unit.shape == (48, 2)
        np.testing.assert_allclose((unit @ unit.T)[0, 3::3], 1, atol=1e-5)
