"""A recorded forward pass: the same features as the pass, in memory that the next one leaves alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pipeline.backbones import graph
from pipeline.backbones.graph import GraphedForward


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A recording that runs on the processor; counts its replays."""
    replays = [0]

    def capture(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        features = run()

        def replay() -> None:
            replays[0] += 1
            features.copy_(run())

        return replay, features

    monkeypatch.setattr(graph, "capture", capture)
    return replays


def test_each_batch_has_its_own_features(recorded: list[int]) -> None:
    run = GraphedForward(
        lambda frames: frames.float().sum(1, keepdim=True), torch.zeros(2, 3, dtype=torch.int16)
    )
    batches = [torch.tensor([[n, 2 * n, 3 * n], [1, 1, n]], dtype=torch.int16) for n in range(3)]
    found = [run(batch) for batch in batches]
    assert [features.tolist() for features in found] == [[[6.0 * n], [2.0 + n]] for n in range(3)]
    assert recorded == [3] and run.shape == (2, 3)


def test_the_callers_frames_are_left_alone(recorded: list[int]) -> None:
    run = GraphedForward(lambda frames: frames.float() * 2, torch.zeros(1, 2))
    mine = torch.ones(1, 2)
    run(mine)
    run(torch.full((1, 2), 5.0))
    assert mine.tolist() == [[1.0, 1.0]]
