from __future__ import annotations

import numpy as np
import pytest
import torch

from heads.data.tokens import Channel, MemoryTokens, TokenBatch, as_tensor, scoring_batches, training_batches


def channel(lengths: list[int], dim: int = 3) -> Channel:
    total = sum(lengths)
    return Channel(
        values=torch.arange(total * dim, dtype=torch.float32).view(total, dim).half(),
        times=torch.arange(total, dtype=torch.float32),
        starts=torch.tensor([0, *np.cumsum(lengths)[:-1]]),
        lengths=torch.tensor(lengths),
    )


def test_batch_pads_with_zero_and_marks_real_tokens() -> None:
    source = channel([2, 4, 1])
    batch = source.batch(torch.tensor([2, 1]))
    assert batch.values.shape == (2, 4, 3)
    assert batch.mask.tolist() == [[True, False, False, False], [True] * 4]
    assert batch.values[0, 1:].abs().max() == 0
    torch.testing.assert_close(batch.values[1], source.values[2:6].float())
    assert batch.times[0, 0] == 6


def test_take_reorders_without_copying() -> None:
    source = channel([2, 4, 1])
    taken = source.take(torch.tensor([1, 0]))
    assert taken.values is source.values
    torch.testing.assert_close(taken.batch(torch.tensor([0])).values, source.batch(torch.tensor([1])).values)


@pytest.mark.parametrize(
    ("values", "mask", "times", "message"),
    [
        (torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3), "float \\[B, T, D\\]"),
        (torch.zeros(2, 3, 1), torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 3), "must be bool"),
        (torch.zeros(2, 3, 1), torch.ones(2, 3), torch.zeros(2, 3), "must be bool"),
        (torch.zeros(2, 3, 1), torch.ones(2, 3, dtype=torch.bool), torch.zeros(3), "times must be"),
        (torch.zeros(2, 3, 1), torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3), "at least one real"),
    ],
)
def test_batch_refuses_what_does_not_fit(
    values: torch.Tensor, mask: torch.Tensor, times: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TokenBatch(values, mask, times)


def test_channel_refuses_empty_videos_and_rows_beyond_the_end() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        channel([2, 0])
    good = channel([2, 2])
    with pytest.raises(ValueError, match="beyond the end"):
        Channel(good.values, good.times, good.starts, good.lengths + 1)


def test_memory_tokens_want_equal_channels() -> None:
    with pytest.raises(ValueError, match="different numbers"):
        MemoryTokens((channel([1, 2]), channel([1])))
    both = MemoryTokens((channel([1, 2]), channel([3, 4], dim=5)))
    assert both.dims == (3, 5)
    assert both.lengths.tolist() == [4, 6]


@pytest.mark.parametrize("n", [2, 3, 9, 33, 41, 130])
@pytest.mark.parametrize("batch_size", [2, 4, 8])
def test_training_batches_hold_every_video_once_and_never_one_alone(n: int, batch_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (n,), generator=generator)
    batches = training_batches(
        lengths, torch.randperm(n, generator=generator), batch_size=batch_size, generator=generator
    )
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    assert min(map(len, batches)) >= 2
    assert max(map(len, batches)) <= batch_size + 1


def test_training_batches_group_by_length() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 100, (160,), generator=generator)
    batches = training_batches(lengths, torch.randperm(160), batch_size=16, generator=generator)
    padded = sum(len(b) * int(lengths[b].max()) for b in batches)
    assert padded < 1.15 * int(lengths.sum())


def test_long_videos_make_smaller_batches() -> None:
    lengths = torch.full((32,), 5000)
    generator = torch.Generator().manual_seed(0)
    batches = training_batches(
        lengths, torch.arange(32), batch_size=32, generator=generator, max_tokens=20_000
    )
    assert {len(b) for b in batches} == {4}
    alone = scoring_batches(lengths, torch.arange(3), max_tokens=100)
    assert [len(b) for b in alone] == [1, 1, 1]


def test_training_needs_two_videos() -> None:
    with pytest.raises(ValueError, match="at least 2 videos"):
        training_batches(torch.ones(1), torch.arange(1), batch_size=4, generator=torch.Generator())
    with pytest.raises(ValueError, match="at least 2 videos"):
        training_batches(torch.ones(4), torch.arange(4), batch_size=1, generator=torch.Generator())


def test_read_only_arrays_become_tensors() -> None:
    array = np.arange(3.0)
    assert as_tensor(array).data_ptr() == array.ctypes.data
    array.setflags(write=False)
    assert as_tensor(array).tolist() == [0, 1, 2]
