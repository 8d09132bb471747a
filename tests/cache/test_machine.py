"""Random commits, relabels, kills and reopenings of a store, against a plain dict."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cache.schema import Reject, StreamSpec, VideoFeatures, VideoLabel
from cache.writer import CacheWriter
from tests.cache import builders
from tests.cache.crashing import Killed, dying_after

pytestmark = pytest.mark.usefixtures("without_fsync")

IDS = st.sampled_from(["a.mp4", "b/ü.avi", "c c.mkv", "d.mov", "e" * 40 + ".mp4", "f.webm"])
STEPS = st.one_of(st.none(), st.sampled_from(range(240)))


class StoreMachine(RuleBasedStateMachine):
    """The model: live videos and rejects, in store order."""

    suffix = ".zarr"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / f"cache{self.suffix}"
        self.streams: tuple[StreamSpec, ...] = builders.STREAMS
        self.videos: dict[str, VideoFeatures] = {}
        self.rejects: dict[str, Reject] = {}
        self.version = 0
        self.writer: CacheWriter | None = None

    def teardown(self) -> None:
        if self.writer is not None:
            self.writer.close()
        shutil.rmtree(self.folder)

    @initialize(steps=STEPS)
    def first_opening(self, steps: int | None) -> None:
        self.dying(steps, self.open)
        if self.writer is None:
            self.open()

    def open(self) -> None:
        self.writer = builders.open_writer(self.path, streams=self.streams)

    def dying(self, steps: int | None, action: Callable[[], Any]) -> bool:
        """Run the action, or die in the middle of it; False if it died."""
        if steps is None:
            action()
            return True
        with dying_after(steps):
            try:
                action()
            except Killed:
                if self.writer is not None:  # the system drops a dead process's lock
                    self.writer._lock._lock.release(force=True)
                    self.writer = None
                return False
        return True

    def change(self, steps: int | None, action: Callable[[CacheWriter], Any], after: dict[str, Any]) -> None:
        """Make a change that may be killed: the store then holds the state before it or after it, whole."""
        before = {"videos": dict(self.videos), "rejects": dict(self.rejects), "streams": self.streams}
        if not self.writer:
            self.open()
        writer = self.writer
        assert writer is not None
        if self.dying(steps, lambda: action(writer)):
            vars(self).update(after)
            return
        found = builders.read_contents(self.path)
        states = [before, after]
        wanted = [builders.expected(state["videos"], state["rejects"], state["streams"]) for state in states]
        assert found in wanted
        vars(self).update(states[wanted.index(found)])

    @rule(stored=st.lists(IDS, unique=True, max_size=4), rejected=st.lists(IDS, unique=True), steps=STEPS)
    def commit(self, stored: list[str], rejected: list[str], steps: int | None) -> None:
        self.version += 1
        videos = [builders.make_video(name, version=self.version, streams=self.streams) for name in stored]
        rejects = [builders.make_reject(name) for name in rejected if name not in stored]
        touched = {*stored, *rejected}
        after = {
            "videos": {name: video for name, video in self.videos.items() if name not in touched}
            | {video.row.id: video for video in videos},
            "rejects": {name: reject for name, reject in self.rejects.items() if name not in touched}
            | {reject.id: reject for reject in rejects},
            "streams": self.streams,
        }
        self.change(steps, lambda writer: writer.commit(videos, rejects), after)

    @precondition(lambda self: self.videos)
    @rule(
        data=st.data(),
        label=st.integers(-1, 1),
        split=st.sampled_from(["", "train", "test"]),
        steps=STEPS,
    )
    def relabel(self, data: st.DataObject, label: int, split: str, steps: int | None) -> None:
        names = data.draw(st.lists(st.sampled_from(list(self.videos)), unique=True, min_size=1))
        new = VideoLabel(label, f"class {label}", split)
        after = dict(self.videos)
        for name in names:
            row = after[name].row
            row = dataclasses.replace(row, label=label, label_name=new.label_name, split=split or row.split)
            after[name] = VideoFeatures(row, after[name].tokens)
        self.change(
            steps,
            lambda writer: writer.relabel(dict.fromkeys(names, new)),
            {"videos": after, "rejects": self.rejects, "streams": self.streams},
        )

    @precondition(lambda self: builders.AUDIO not in self.streams)
    @rule(steps=STEPS)
    def attach(self, steps: int | None) -> None:
        sidecar = self.folder / f"sidecar-{self.version}.zarr"
        shutil.rmtree(sidecar, ignore_errors=True)
        streams = (*self.streams, builders.AUDIO)
        after = {
            name: VideoFeatures(
                video.row,
                {**video.tokens, "audio": builders.make_tokens(name, builders.AUDIO, 1 + len(name) % 4)},
            )
            for name, video in self.videos.items()
        }
        alone = [VideoFeatures(video.row, {"audio": video.tokens["audio"]}) for video in after.values()]
        builders.write_cache(sidecar, list(reversed(alone)), streams=(builders.AUDIO,))
        self.change(
            steps,
            lambda writer: writer.attach_stream(sidecar),
            {"videos": after, "rejects": self.rejects, "streams": streams},
        )

    @rule(steps=STEPS)
    def close(self, steps: int | None) -> None:
        if self.writer is not None and self.dying(steps, self.writer.close):
            self.writer = None

    @rule(steps=STEPS)
    def reopen(self, steps: int | None) -> None:
        if self.writer is None:
            self.dying(steps, self.open)

    @invariant()
    def reads_back(self) -> None:
        if not self.path.exists() and not self.path.with_name(self.path.name + ".staging").exists():
            return
        wanted = builders.expected(self.videos, self.rejects, self.streams)
        assert builders.read_contents(self.path) == wanted
        if self.writer is not None:
            known = self.writer.known()
            assert {name for name, entry in known.items() if entry.state == "stored"} == set(self.videos)
            assert {name for name, entry in known.items() if entry.state == "rejected"} == set(self.rejects)


class Hdf5Machine(StoreMachine):
    suffix = ".h5"


SETTINGS = settings(
    max_examples=15, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
)
TestZarr = StoreMachine.TestCase
TestZarr.settings = SETTINGS
TestHdf5 = pytest.mark.slow(Hdf5Machine.TestCase)
TestHdf5.settings = SETTINGS
