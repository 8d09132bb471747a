from __future__ import annotations

import numpy as np
import pytest
import torch

from heads.models.statistics import (
    DELTAS,
    STATISTICS,
    Standardise,
    changes,
    statistic_pool,
    statistic_width,
    with_changes,
)


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """Videos of 4, 1 and 2 tokens; what stands in padding is large."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 4, 5, generator=generator)
    mask = torch.arange(4) < torch.tensor([[4], [1], [2]])
    return torch.where(mask[:, :, None], values, torch.tensor(1e6)), mask


def plain(kind: str, tokens: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    std, mean = tokens.std(axis=0), tokens.mean(axis=0)
    return {"std": std, "range": np.ptp(tokens, axis=0), "mean-std": np.concatenate([mean, std])}[kind]


@pytest.mark.parametrize("kind", STATISTICS)
def test_a_statistic_is_numpys_own_over_real_tokens(kind: str) -> None:
    values, mask = padded()
    found = statistic_pool(kind, values, mask).numpy()  # type: ignore[arg-type]
    assert found.shape == (3, statistic_width(kind, 5))
    for video, length in enumerate((4, 1, 2)):
        expected = plain(kind, values[video, :length].numpy().astype(np.float64))
        np.testing.assert_allclose(found[video], expected, atol=1e-6)


def test_a_video_of_one_token_does_not_change() -> None:
    values, mask = torch.randn(2, 1, 3), torch.ones(2, 1, dtype=torch.bool)
    assert (statistic_pool("std", values, mask) == 0).all()
    assert (statistic_pool("range", values, mask) == 0).all()
    assert (changes(values, mask) == 0).all()


def test_changes_are_those_from_the_token_before() -> None:
    values, mask = padded()
    found = changes(values, mask)
    four = values[0]
    expected = (four[1:] - four[:-1]).abs()
    torch.testing.assert_close(found[0], torch.cat([expected[:1], expected]))
    assert (found[1] == 0).all()  # one token, and padding
    torch.testing.assert_close(found[2, :2], (values[2, 1] - values[2, 0]).abs().expand(2, -1))
    assert (found[2, 2:] == 0).all()


@pytest.mark.parametrize("delta", DELTAS)
def test_more_padding_changes_nothing(delta: str) -> None:
    values, mask = padded()
    wider = torch.nn.functional.pad(values, (0, 0, 0, 3), value=-7.0)
    wider_mask = torch.nn.functional.pad(mask, (0, 3), value=False)
    own = with_changes(delta, values, mask)  # type: ignore[arg-type]
    other = with_changes(delta, wider, wider_mask)[:, :4]  # type: ignore[arg-type]
    assert torch.equal(own[mask], other[mask])
    assert own.shape[2] == (10 if delta == "beside" else 5)


def test_standardise_leaves_constant_columns_alone() -> None:
    table = np.stack([np.arange(6.0), np.full(6, 3.0)], axis=1)
    standardise = Standardise(2)
    standardise.fit(table)
    found = standardise(torch.from_numpy(table).float()).numpy()
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(found.std(axis=0), [1, 0], atol=1e-6)
