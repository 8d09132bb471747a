from __future__ import annotations

import pytest
import torch
from torch import nn

from heads.models.encoders import (
    AttentionEncoder,
    AttentionLayer,
    TimeEmbedding,
    TokenMLP,
    largest_head_count,
)


@pytest.mark.parametrize(
    ("width", "heads"), [(2816, 16), (512, 16), (2304, 16), (12, 12), (17, 1), (22, 11), (1, 1), (34, 2)]
)
def test_head_count_is_the_largest_divisor_up_to_16(width: int, heads: int) -> None:
    assert largest_head_count(width) == heads


def test_cls_token_comes_first_and_is_real() -> None:
    torch.manual_seed(0)
    encoder = AttentionEncoder(8, depth=1, n_heads=2, feedforward=16, dropout=0.0, cls=True)
    x, mask = encoder(torch.randn(2, 3, 8), torch.tensor([[True, True, False], [True, True, True]]))
    assert x.shape == (2, 4, 8)
    assert mask.tolist() == [[True, True, True, False], [True] * 4]


def test_token_mlp_of_depth_0_leaves_tokens_alone() -> None:
    x = torch.randn(1, 2, 5)
    assert TokenMLP(5, width=9, depth=0, dropout=0.1)(x) is x
    assert TokenMLP(5, width=9, depth=2, dropout=0.1)(x).shape == (1, 2, 9)


def test_time_counts_from_the_first_token() -> None:
    embed = TimeEmbedding(6)
    times = torch.tensor([[0.0, 1.5, 3.0]])
    here = embed(times, torch.tensor([0.0]))
    later = embed(times + 7200.0, torch.tensor([7200.0]))
    torch.testing.assert_close(here, later)
    assert not torch.allclose(here[0, 0], here[0, 1])


@torch.no_grad()
def test_attention_layer_computes_what_torch_does() -> None:
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(12, 4, dim_feedforward=20, batch_first=True).eval()
    ours = AttentionLayer(12, n_heads=4, feedforward=20, dropout=0.1).eval()
    pairs = [
        (ours.qkv.weight, theirs.self_attn.in_proj_weight),
        (ours.qkv.bias, theirs.self_attn.in_proj_bias),
        (ours.out, theirs.self_attn.out_proj),
        (ours.grow, theirs.linear1),
        (ours.shrink, theirs.linear2),
        (ours.norm_attention, theirs.norm1),
        (ours.norm_feedforward, theirs.norm2),
    ]
    for own, other in pairs:
        if isinstance(own, nn.Module):
            own.load_state_dict(other.state_dict())
        else:
            own.copy_(torch.randn(own.shape) * 0.3)
            other.copy_(own)
    x = torch.randn(3, 5, 12)
    mask = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    expected = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask)[mask], expected[mask])
