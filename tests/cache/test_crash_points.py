"""A scripted run killed at every disk operation in turn; the same script, run again, must end the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cache.reader import open_cache
from cache.schema import UNKNOWN_LABEL, VideoLabel
from tests.cache import builders
from tests.cache.crashing import Killed, dying_after

BATCHES = (["a.mp4", "b.mp4"], ["c.mp4"], ["d.mp4", "e.mp4"])
CHANGED = "b.mp4"
NEW_LABEL = VideoLabel(UNKNOWN_LABEL, "unsure", "test", "group 7")
VERSIONS = {CHANGED: 1}


def run(path: Path, sidecar: Path) -> None:
    """Extract three batches, one changed file and one reject; label; add a stream. Skips what is done."""
    attached = False
    try:
        with open_cache(path) as cache:
            attached = "audio" in cache.streams
    except Exception as error:  # noqa: BLE001 - the first run finds nothing
        assert type(error).__name__ == "CacheNotFound", error
    streams = (*builders.STREAMS, builders.AUDIO) if attached else builders.STREAMS
    with builders.open_writer(path, streams=streams) as writer:
        for batch in BATCHES:
            todo = [name for name in batch if name not in writer.known()]
            rejected = [builders.make_reject("broken.mp4")] if "broken.mp4" not in writer.known() else []
            writer.commit([builders.make_video(name) for name in todo], rejected if "c.mp4" in todo else [])
        new = builders.make_video(CHANGED, version=VERSIONS[CHANGED])
        if writer.known()[CHANGED].digest != new.row.digest:
            writer.commit([new], [])
        writer.relabel({"a.mp4": NEW_LABEL, "e.mp4": NEW_LABEL})
        if not attached:
            writer.attach_stream(sidecar)


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = sorted({name for batch in BATCHES for name in batch}, reverse=True)
    videos = [
        builders.make_video(name, version=VERSIONS.get(name, 0), streams=[builders.AUDIO]) for name in names
    ]
    path = tmp_path_factory.mktemp("sidecar") / "audio.zarr"
    return builders.write_cache(path, videos, streams=[builders.AUDIO])


def sampled(suffix: str, total: int, wanted: int) -> list[int]:
    """Numbers spread over `total`, other ones for the two formats."""
    offset = 0 if suffix == "zarr" else 1
    return list(range(offset, total, max(1, total // wanted)))


@pytest.mark.usefixtures("without_fsync")
@pytest.mark.parametrize("suffix", ["zarr", pytest.param("h5", marks=pytest.mark.slow)])
def test_killed_anywhere_resumes_to_the_same_cache(suffix: str, tmp_path: Path, sidecar: Path) -> None:
    """ONEPASS_EVERY_CRASH_POINT=1 tries all of them, which takes minutes."""
    path = tmp_path / f"cache.{suffix}"
    with dying_after(10**9) as countdown:
        run(path, sidecar)
    total = 10**9 - countdown.left
    wanted = builders.read_contents(path)
    assert len(wanted["videos"]) == 5
    entries = sorted(entry.name for entry in tmp_path.iterdir())
    for steps in range(total) if os.environ.get("ONEPASS_EVERY_CRASH_POINT") else sampled(suffix, total, 16):
        folder = tmp_path / "killed"
        path = folder / f"cache.{suffix}"
        with dying_after(steps), pytest.raises(Killed):
            run(path, sidecar)
        run(path, sidecar)
        assert builders.read_contents(path) == wanted, f"killed at operation {steps} of {total}"
        assert sorted(entry.name for entry in folder.iterdir()) == entries, f"leftovers after {steps}"
        assert not list(folder.rglob("*.part"))
        shutil.rmtree(folder)
