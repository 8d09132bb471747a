"""Dropout: the share that is dropped, the mean that stays, nothing in eval mode, the same by seed."""

from __future__ import annotations

import pytest
import torch

from heads.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.4, 0.5, 0.999])
def test_the_share_is_dropped_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    found = Dropout(p)(torch.ones(700, 701))
    zero = found == 0
    n = found.numel()
    assert abs(zero.float().mean().item() - p) < 5 * (p * (1 - p) / n) ** 0.5 + 1 / 65_536
    torch.testing.assert_close(found[~zero], torch.full_like(found[~zero], 1 / (1 - p)), rtol=1e-2, atol=0)
    assert found.mean().item() == pytest.approx(1.0, abs=5 * (p / (1 - p) / n) ** 0.5)


def test_neighbours_are_dropped_independently() -> None:
    """Four elements come from one draw of 64 bits: no two of them may go together."""
    torch.manual_seed(1)
    kept = (Dropout(0.5)(torch.ones(100_000, 4)) != 0).double()
    correlation = torch.corrcoef(kept.T)
    assert (correlation - torch.eye(4)).abs().max() < 0.02


def test_gradients_pass_where_values_do() -> None:
    torch.manual_seed(2)
    x = torch.ones(50, 3, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.detach())


def test_nothing_happens_in_eval_mode_or_without_probability() -> None:
    x = torch.randn(5, 7)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert "p=0.5" in repr(Dropout(0.5))
    with pytest.raises(ValueError, match="in \\[0, 1\\)"):
        Dropout(1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 4)])
def test_shape_type_and_seed(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    layer = Dropout(0.5)
    x = torch.ones(shape, dtype=dtype)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert first.dtype == dtype and first.shape == x.shape
