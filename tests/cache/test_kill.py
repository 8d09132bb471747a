"""A real process, really killed."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from cache.errors import CacheNotFound
from tests.cache.builders import expected, make_reject, make_video, read_contents
from tests.cache.in_batches import BATCHES, extract
from tests.cache.processes import read_line, start_python

ROUNDS = 6
CHILD = """
import sys
from pathlib import Path
from tests.cache.in_batches import extract
print("ready", flush=True)
extract(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("store", ["zarr", pytest.param("h5", marks=pytest.mark.slow)], indirect=True)
def test_killed_at_random_moments_it_resumes_to_the_same_cache(store: Path) -> None:
    rng = random.Random(store.suffix)
    seen = 0
    for _ in range(ROUNDS):
        child = start_python(CHILD, store)
        read_line(child)
        time.sleep(rng.uniform(0.0, 0.5))
        child.kill()
        code = child.wait()
        assert child.stdout is not None
        child.stdout.close()
        assert code in (-signal.SIGKILL, 0)
        try:
            found = read_contents(store)
        except CacheNotFound:
            assert seen == 0
            continue
        batches = len(found["videos"]) // 3
        assert len(found["videos"]) == 3 * batches
        assert len(found["rejects"]) == batches
        assert batches >= seen
        seen = batches
    extract(store)
    videos = {f"{n}/{i}.mp4": make_video(f"{n}/{i}.mp4") for n in range(BATCHES) for i in range(3)}
    rejects = {f"{n}/broken.mp4": make_reject(f"{n}/broken.mp4") for n in range(BATCHES)}
    assert read_contents(store) == expected(videos, rejects)
