"""The run that test_kill kills, in a module that a new process imports quickly."""

from __future__ import annotations

from pathlib import Path

from tests.cache.builders import make_reject, make_video, open_writer

BATCHES = 40


def extract(store: Path) -> None:
    """What a resumable run does: commit what is not known yet, batch by batch."""
    with open_writer(store) as writer:
        for number in range(BATCHES):
            videos = [make_video(f"{number}/{index}.mp4") for index in range(3)]
            rejects = [make_reject(f"{number}/broken.mp4")]
            if videos[0].row.id not in writer.known():
                writer.commit(videos, rejects)
