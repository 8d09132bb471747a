"""What one pass of the flow did, in numbers: returned by the flow, added up by the report."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(slots=True, kw_only=True)
class FlowCounts:
    """Of the inputs that a flow was given: how each ended (an id is in one of stored, rejected, unchanged, kept and not reached),

    what is worth saying of it, by id, and where the time went, in seconds of the parent unless the name says otherwise.
    """

    stored_now: int = 0
    rejected_now: int = 0
    unchanged: int = 0
    not_reached: int = 0
    replaced: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    absent: dict[str, int] = field(default_factory=dict)
    """Stored videos without an optional stream, by stream and reason."""
    device_tokens: dict[str, int] = field(default_factory=dict)
    """Where several devices ran the models, the passes of windows begun on each."""
    decoders: dict[str, int] = field(default_factory=dict)
    fallbacks: dict[str, str] = field(default_factory=dict)
    shortened: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    worker_restarts: int = 0
    video_seconds: float = 0.0
    decode_seconds: float = 0.0
    """Of the decode workers, all added up."""
    decode_wait_seconds: float = 0.0
    """That workers waited for a free buffer, all added up."""
    embed_seconds: dict[str, float] = field(default_factory=dict)
    start_seconds: float = 0.0
    """Until a decode worker gave something for the first time."""
    model_seconds: float = 0.0
    write_seconds: float = 0.0
    idle_seconds: float = 0.0
    """Of the models, from then on."""

    @property
    def ended(self) -> int:
        """Inputs that the flow has come to an end with."""
        return self.stored_now + self.rejected_now + self.unchanged + len(self.kept)

    def add(self, other: FlowCounts) -> None:
        """Add the counts of another flow: numbers and numbers by name are summed, words by id are joined."""
        for name in (each.name for each in fields(FlowCounts)):
            setattr(self, name, _sum(getattr(self, name), getattr(other, name)))


def _sum(mine: Any, others: Any) -> Any:
    if not isinstance(mine, dict):
        return mine + others
    both = {name: value + others[name] for name, value in mine.items() if name in others}
    return mine | others | {name: value for name, value in both.items() if not isinstance(value, str)}
