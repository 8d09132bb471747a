"""What a run did, in numbers that add up: the summary on the terminal and the same as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache.process.outputs import write_output
from cache.schema import PASSING_REASONS, REJECT_REASONS
from pipeline.counts import FlowCounts
from pipeline.sources.names import portable_path
from pipeline.sources.tree import Source


@dataclass(slots=True, kw_only=True)
class ExtractReport(FlowCounts):
    """Counts of one run. Every input found is in exactly one of: stored before, stored now, rejected before, rejected now,

    not reached (after an interruption, or while a stream waits for a video). Part of stored before are `unchanged` (touched files
    with the same contents) and `kept` (stored videos that could not be read again, with the passing trouble). `waiting`: streams
    that could not be attached, with the stored videos that they lack and why. `transcripts`: inputs whose words a file holds.
    """

    src: str
    out: str
    layout: str = ""
    found: int = 0
    skipped_files: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    transcripts: int = 0
    stored_before: int = 0
    rejected_before: int = 0
    relabelled: int = 0
    gone: int = 0
    interrupted: bool = False
    weights: dict[str, str] = field(default_factory=dict)
    note: str = ""
    device: str = ""
    precision: str = ""
    added_streams: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, dict[str, str]] = field(default_factory=dict)
    redone: int = 0
    not_redone: int = 0
    rejects: dict[str, tuple[str, str]] = field(default_factory=dict)
    seconds: float = 0.0
    setup_seconds: float = 0.0
    """Of `seconds`, until the first decode worker gave something: the source is listed, models are loaded, workers begin."""
    profile: list[str] = field(default_factory=list)

    def add(self, other: FlowCounts) -> None:
        """Add what a flow over inputs of this source did."""
        FlowCounts.add(self, other)
        self.stored_before += other.unchanged + len(other.kept)

    def note_skipped(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Keep every (name, reason) of what is no input, and how many there are."""
        self.skipped, self.skipped_files = list(skipped), len(skipped)

    def note_transcripts(self, root: Path | str, sources: Sequence[Source]) -> None:
        """Count the inputs with a transcript; a file below `root` that is one is not skipped."""
        held = [source.transcript for source in sources if source.transcript is not None]
        self.transcripts = len(held)
        read = {
            portable_path(each.path.relative_to(root))
            for each in held
            if isinstance(root, Path) and each.path is not None and each.path.is_relative_to(root)
        }
        self.note_skipped([(name, why) for name, why in self.skipped if name not in read])

    @property
    def stored(self) -> int:
        """Inputs of this source that the cache holds now."""
        return self.stored_before + self.stored_now

    @property
    def rejected(self) -> int:
        """Inputs of this source that are on record as rejected now."""
        return self.rejected_before + self.rejected_now

    @property
    def adds_up(self) -> bool:
        """Whether stored + rejected (+ not reached) = found."""
        return self.stored + self.rejected + self.not_reached == self.found

    @property
    def reject_share(self) -> float:
        """Rejected inputs over found inputs, in [0, 1]."""
        return self.rejected / self.found if self.found else 0.0

    def reasons(self) -> Counter[str]:
        """Rejects on record by reason code."""
        return Counter(reason for reason, _ in self.rejects.values())

    def lines(self, *, rejects_in: str | Path | None = None) -> list[str]:
        """The summary, one fact a line. rejects_in: the file that names them all, where the cache does not stay."""
        lines = []
        random = [
            f"{name} ({weights})" for name, weights in self.weights.items() if weights.startswith("random")
        ]
        others = ", ".join(
            f"{name} {weights}" for name, weights in self.weights.items() if not weights.startswith("random")
        )
        if random:
            beside = f"; {others}" if others else ""
            lines.append(
                f"weights    RANDOM, not pretrained: {', '.join(random)}; their features carry no learned meaning{beside}"
            )
        else:
            lines.append(f"weights    {others}")
        if self.note:
            lines.append(f"note       {self.note}")
        before = f" ({self.stored_before} of them before this run)" if self.stored_before else ""
        lines.append(f"stored     {self.stored}{before}")
        before = f" ({self.rejected_before} of them before this run)" if self.rejected_before else ""
        lines.append(f"rejected   {self.rejected}{before}")
        for reason, count in self.reasons().most_common():
            lines.append(f"  {count:>6}  {reason}: {REJECT_REASONS.get(reason, 'unknown to this version')}")
        for video_id, (reason, detail) in list(self.rejects.items())[:10]:
            lines.append(f"          {video_id}: {reason}: {detail[:160]}")
        if len(self.rejects) > 10:
            where = f"onepass inspect {self.out}" if rejects_in is None else f"see {rejects_in}"
            lines.append(f"          and {len(self.rejects) - 10} more: {where}")
        if self.not_reached:
            why = "interrupted" if self.interrupted or not self.waiting else "until all streams are whole"
            lines.append(f"not reached {self.not_reached} ({why})")
        reached = f" + {self.not_reached} not reached" if self.not_reached else ""
        verdict = "adds up" if self.adds_up else "DOES NOT ADD UP"
        lines.append(
            f"found      {self.found} = {self.stored} stored + {self.rejected} rejected{reached}: {verdict}"
        )
        lines += self._passing_lines()
        for title, entries in (
            ("other decoder", self.fallbacks),
            ("shorter than declared", self.shortened),
            ("damaged but under the limit", self.damaged),
            ("same contents as another", self.duplicates),
            ("worth knowing", self.notes),
        ):
            if entries:
                lines.append(f"{title}: {len(entries)}")
                lines += [
                    f"          {video_id}: {text[:160]}" for video_id, text in list(entries.items())[:3]
                ]
        for count, text in (
            (self.replaced, "stored again because the file changed"),
            (self.redone, "stored videos extracted again"),
            (self.not_redone, "affected videos could not be read again: the same command goes on"),
            (self.unchanged, "touched files with unchanged contents"),
            (self.relabelled, "stored videos given a new label, split or source"),
            (self.gone, "videos in the cache that the source no longer holds (kept)"),
            (self.worker_restarts, "decode workers that had to be replaced"),
        ):
            if count:
                lines.append(f"{count} {text}")
        for reason, count in self.absent.items():
            lines.append(f"{count} stored video{'s' * (count != 1)} without {reason}")
        for name, count in self.added_streams.items():
            lines.append(f"stream {name} added to {count} stored videos")
        if self.stored_now:
            work_seconds = max(self.seconds - self.setup_seconds, 1e-9)
            tokens = ", ".join(f"{count} {name}" for name, count in self.tokens.items())
            lines.append(
                f"extracted  {self.stored_now} videos, {self.video_seconds:.0f} s of video, {tokens} tokens in "
                f"{work_seconds:.1f} s ({self.stored_now / work_seconds:.2f} videos/s) after {self.setup_seconds:.1f} s of "
                f"start-up, {self.precision} on {self.device}"
            )
        if self.device_tokens:
            shares = ", ".join(f"{device} {count}" for device, count in self.device_tokens.items())
            lines.append(f"devices    windows run on each: {shares}")
        lines += self.profile
        return lines

    def _passing_lines(self) -> list[str]:
        """What passing trouble left undone; the same command tries it again."""
        lines = []
        if self.kept:
            lines.append(f"kept: {_videos(self.kept)} could not be read again this time:")
            lines += _first_of(self.kept)
        for stream, lacking in self.waiting.items():
            lines.append(
                f"stream {stream} not attached: {_videos(lacking)} could not be read this time; the rest of it is kept, "
                "and the same command goes on:"
            )
            lines += _first_of(lacking)
        passing = sum(reason in PASSING_REASONS for reason, _ in self.rejects.values())
        if passing:
            lines.append(f"{passing} of the rejects are passing trouble: the same command tries them again")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The whole report as JSON-able values, with the sums."""
        fields = asdict(self)
        fields["rejects"] = {k: {"reason": r, "detail": d} for k, (r, d) in self.rejects.items()}
        return {
            **fields,
            "stored": self.stored,
            "rejected": self.rejected,
            "adds_up": self.adds_up,
            "reject_share": self.reject_share,
            "rejects_by_reason": dict(self.reasons()),
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON. Raises InputError or StorageFull where it cannot be written."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"
        write_output("--report", path, text.encode("utf-8", "backslashreplace"))


def _videos(named: Mapping[str, str]) -> str:
    return f"{len(named)} stored video{'s' * (len(named) != 1)}"


def _first_of(named: Mapping[str, str], count: int = 10) -> list[str]:
    """The first entries, one a line, and how many more there are."""
    lines = [f"          {video_id}: {text[:160]}" for video_id, text in list(named.items())[:count]]
    return [*lines, f"          and {len(named) - count} more"] if len(named) > count else lines
