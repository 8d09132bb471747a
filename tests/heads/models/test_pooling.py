from __future__ import annotations

import torch

from heads.models.pooling import POOLS, AttentionPool, TokenPool, max_pool, mean_pool

X = torch.tensor([[[1.0, 2.0], [3.0, -4.0], [99.0, 99.0]]])
MASK = torch.tensor([[True, True, False]])


def test_mean_and_max_see_real_tokens_only() -> None:
    torch.testing.assert_close(mean_pool(X, MASK), torch.tensor([[2.0, -1.0]]))
    torch.testing.assert_close(max_pool(X, MASK), torch.tensor([[3.0, 2.0]]))


def test_attention_weights_sum_to_one_over_real_tokens() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(2)
    weights = pool.weights(X, MASK)
    assert weights[0, 2] == 0
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    torch.testing.assert_close(pool(X, MASK)[0], weights[0, 0] * X[0, 0] + weights[0, 1] * X[0, 1])


def test_every_pool_gives_one_vector_a_video() -> None:
    for kind in POOLS:
        assert TokenPool(kind, 2)(X, MASK).shape == (1, 4 if kind == "mean-std" else 2)
    torch.testing.assert_close(TokenPool("cls", 2)(X, MASK), X[:, 0])
