"""Runs a decode pool to its end and sorts what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoding.decode import StreamPlan
from pipeline.decoding.decoders.base import DecoderName
from pipeline.decoding.pool import DecodePool, PoolSettings, TokenFrames
from pipeline.decoding.worker import Failed, Finished, Probed, Restarted, Task, Unchanged, WorkerSettings
from tests.pipeline.fakes import PLANS


@dataclass
class Outcome:
    """How one task ended. tokens: by stream number, the prepared frames of each token, of the last attempt."""

    end: Finished | Failed | Unchanged | Probed | None = None
    tokens: dict[int, list[NDArray[Any]]] = field(default_factory=dict)
    restarts: list[Restarted] = field(default_factory=list)

    @property
    def reason(self) -> str:
        return self.end.reason if isinstance(self.end, Failed) else ""

    @property
    def detail(self) -> str:
        return self.end.detail if isinstance(self.end, Failed) else ""

    @property
    def finished(self) -> Finished:
        assert isinstance(self.end, Finished), self.end
        return self.end


@dataclass
class Trial:
    outcomes: list[Outcome]
    worker_restarts: int
    shared_bytes: int


def settings_for(plans: Sequence[StreamPlan] = PLANS, **limits: Any) -> WorkerSettings:
    return WorkerSettings(tuple(plans), **({"max_error_share": 0.2} | limits))


def run_pool(
    paths: Sequence[Path],
    decoder: DecoderName = "pyav",
    *,
    pool: PoolSettings | None = None,
    worker: WorkerSettings | None = None,
    probe: bool = False,
) -> Trial:
    outcomes = [Outcome() for _ in paths]
    tasks = [Task(number, str(path), decoder, probe=probe) for number, path in enumerate(paths)]
    with DecodePool(pool or PoolSettings(workers=2), worker_settings=worker or settings_for()) as decode_pool:
        for event in decode_pool.run(tasks):
            outcome = outcomes[event.number]
            assert outcome.end is None, f"{paths[event.number]}: {event} after its end"
            if isinstance(event, TokenFrames):
                kept = outcome.tokens.setdefault(event.stream, [])
                assert event.first == len(kept), f"token {event.first} came as number {len(kept)}"
                kept += [np.array(window) for window in event.frames]
            elif isinstance(event, Restarted):
                outcome.restarts.append(event)
                outcome.tokens.clear()
            else:
                outcome.end = event
        return Trial(outcomes, decode_pool.restarts, decode_pool.shared_bytes)
