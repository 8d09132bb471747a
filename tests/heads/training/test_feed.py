from __future__ import annotations

import numpy as np
import pytest
import torch

from cache.reader import Cache
from heads.data.dataset import load_dataset
from heads.models.scaling import InputScaling, Scaling, fit_scaling
from heads.training import feed as batched_feed
from heads.training.feed import ScaledTokens

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["none", "l2", "standard"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("separate_streams", [False, True])
def test_scaled_ahead_or_batch_by_batch_is_the_same(
    toy_cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
    kind: Scaling,
    dtype: torch.dtype,
    separate_streams: bool,
) -> None:
    data = load_dataset(toy_cache, separate_streams=separate_streams)
    widths = [(dim,) for dim in data.stream_dims] if separate_streams else [data.stream_dims]
    scalings = [InputScaling(kind, dims) for dims in widths]
    fit_scaling(scalings, data.tokens, torch.arange(40))
    videos = torch.tensor([5, 0, 41, 17])
    ahead = ScaledTokens(data.tokens, scalings, dtype=dtype, device=CPU)
    monkeypatch.setattr(batched_feed, "SCALED_MEMORY_SHARE", 0.0)
    later = ScaledTokens(data.tokens, scalings, dtype=dtype, device=CPU)
    one, other = ahead.training_batch(videos), later.training_batch(videos)
    for scaling, raw, a, b in zip(scalings, data.tokens.batch(videos), one.values, other.values, strict=True):
        assert a.dtype == dtype
        assert a.equal(b)
        assert a.equal(scaling(raw.values, raw.mask).to(dtype))
    assert all(a.equal(b) for a, b in zip(one.masks + one.times, other.masks + other.times, strict=True))


def test_scoring_batches_cover_every_video_once_and_are_kept(
    toy_cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_dataset(toy_cache, separate_streams=False)
    scalings = [InputScaling("none", data.stream_dims)]
    val = np.arange(10, 60)
    kept = ScaledTokens(data.tokens, scalings, dtype=torch.bfloat16, device=CPU)
    first = list(kept.scoring(val))
    assert sorted(torch.cat([places for places, _ in first]).tolist()) == list(range(50))
    assert all(batch.values[0].dtype == torch.float32 for _, batch in first)
    assert all(a[1] is b[1] for a, b in zip(first, kept.scoring(val), strict=True))
    monkeypatch.setattr(batched_feed, "SCALED_MEMORY_SHARE", 0.0)
    fresh = ScaledTokens(data.tokens, scalings, dtype=torch.bfloat16, device=CPU)
    assert not isinstance(fresh.scoring(val), list)
    again = list(fresh.scoring(val))
    assert all(a[1].values[0].equal(b[1].values[0]) for a, b in zip(first, again, strict=True))
