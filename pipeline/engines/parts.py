"""The parts of a run that an engine places: where they lie, how they are numbered, how far each has come.

`<out>.parts/` holds a cache and a log a shard, and run.json, which says how the source was divided: a later run divides it
in the same way, whatever machines there are by then. How far a part has come is read from what it committed.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cache.errors import CacheError, CacheNotFound, InputError
from cache.process.outputs import write_output
from cache.reader import open_cache
from pipeline.sources.shards import Shard

LOG_SECONDS = 15.0
LOOK_SECONDS, LOOKS_A_SECOND = 2.0, 500
"""How often parts are looked at: thousands, less often."""
ROWS = 20
RUN_FILE = "run.json"


@dataclass(slots=True)
class Part:
    """One shard's cache and what has become of it. found: inputs of the shard. why: of its last failure."""

    number: int
    of: int
    path: Path
    found: int
    state: Literal["waiting", "running", "done"] = "waiting"
    attempts: int = 0
    ended: int = 0
    why: str = ""

    @property
    def name(self) -> str:
        """As `--shard` takes it."""
        return f"{self.number}/{self.of}"

    @property
    def log(self) -> Path:
        """What its extractions printed."""
        return self.path.with_suffix(".log")

    def look(self) -> None:
        """Bring `ended` and `state` up to what is committed and who is writing."""
        if self.state == "done":
            return
        self.state = "running" if self.where() else "waiting"
        try:
            with open_cache(self.path) as cache:
                self.ended = len(cache) + len(cache.rejects)
        except CacheNotFound:
            return
        except CacheError:  # it is being written right now: the next look sees it
            return

    def where(self) -> str:
        """Host and process that write it, as its lock's note says; empty where nobody does."""
        try:
            note = json.loads(self.path.with_name(f"{self.path.name}.lock.json").read_bytes())
            return f"{note['host']} {note['pid']}"
        except (OSError, ValueError, KeyError, TypeError):
            return ""


@dataclass(frozen=True, slots=True)
class PartsFolder:
    """Made once a run and its resumptions. of: how many shards. token: tells whether a machine sees this very folder."""

    path: Path
    of: int
    token: str

    @classmethod
    def of_run(cls, out: Path, *, shards: int, default: int, plan: str) -> PartsFolder:
        """Open the folder beside `out`, or make it for `shards` shards (0: those of before, else `default`).

        Raises InputError where it was made for another number or plan, and where it cannot be written.
        """
        path = out.resolve().with_name(f"{out.name}.parts")
        record = path / RUN_FILE
        if record.exists():
            try:
                read = json.loads(record.read_bytes())
                of, token, planned = int(read["shards"]), str(read["token"]), str(read["plan"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{record} cannot be read ({error}): restore it, or remove {path}"
                ) from error
            if shards not in (0, of) or planned != plan:
                by = f"{of} shards{' of another plan' if planned != plan else ''}"
                raise InputError(
                    f"{path} was begun with {by}: go on with those (leave --shards out), or remove it to begin again"
                )
            return cls(path, of, token)
        of, token = shards or default, uuid.uuid4().hex
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path} cannot be made: {error.strerror}") from error
        write_output("--out", record, json.dumps({"shards": of, "token": token, "plan": plan}).encode())
        return cls(path, of, token)

    def is_seen(self) -> bool:
        """Whether this machine sees the folder that the run began."""
        try:
            return str(json.loads((self.path / RUN_FILE).read_bytes())["token"]) == self.token
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def parts(self, ids: Collection[str], first: Shard | None) -> list[Part]:
        """A part a shard, with how many of the inputs are its own. first: of the plan, where there is one."""
        place = (first or Shard(1, self.of)).place
        counts = Counter(place(video_id) for video_id in ids)
        return [Part(n, self.of, self.path / f"{n:06d}.zarr", counts[n]) for n in range(1, self.of + 1)]


@dataclass(slots=True)
class PartsTable:
    """Context manager: one table of all parts on a terminal, a line now and then elsewhere."""

    parts: Sequence[Part]
    console: Console
    _live: Live | None = None
    _began: float = field(default_factory=time.monotonic)
    _last_look: float = 0.0
    _last_line: float = field(default_factory=time.monotonic)

    def __enter__(self) -> PartsTable:
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()

    def show(self, *, now: bool = False) -> None:
        """Look at the parts that run, and say how things stand. now: also where the last line is not long ago."""
        open_parts = [part for part in self.parts if part.state != "done"]
        if not now and time.monotonic() - self._last_look < max(
            LOOK_SECONDS, len(open_parts) / LOOKS_A_SECOND
        ):
            return
        self._last_look = time.monotonic()
        for part in open_parts:
            part.look()
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        elif now or time.monotonic() - self._last_line >= LOG_SECONDS:
            self._last_line = time.monotonic()
            self.console.print(self.line(), markup=False)

    def line(self) -> str:
        """All in one."""
        count = {
            state: sum(part.state == state for part in self.parts) for state in ("done", "running", "waiting")
        }
        again = sum(part.attempts > 1 for part in self.parts)
        ended, found = (sum(getattr(part, name) for part in self.parts) for name in ("ended", "found"))
        return (
            f"shards {count['done']} done, {count['running']} running, {count['waiting']} waiting of {len(self.parts)}; "
            f"{ended}/{found} inputs ended, {again} shards begun again, {time.monotonic() - self._began:.0f} s"
        )

    def _table(self) -> Table:
        table = Table("shard", "state", "starts", "inputs ended", "where", "trouble", title=self.line())
        first = [
            part for part in self.parts if part.state == "running" or (part.why and part.state != "done")
        ]
        for part in first[:ROWS]:
            table.add_row(
                part.name,
                part.state,
                str(part.attempts),
                f"{part.ended}/{part.found}",
                part.where(),
                part.why,
            )
        if len(first) > ROWS:
            table.add_row(f"and {len(first) - ROWS} more", *[""] * 5)
        return table
