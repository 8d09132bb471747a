from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import StorageFull
from cache.reader import open_cache
from cache.schema import VideoLabel
from cache.stores import relabel
from cache.stores.relabel import JOURNAL_NAME, Journal, read_journal
from tests.cache.builders import make_video, open_writer, read_contents, write_cache

JOURNAL = Journal({"label": {1: -1}, "source": {0: "tape ü"}}, ("safe", "harmful"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_cache(tmp_path / "c.zarr", [make_video(name) for name in ("a.mp4", "b.mp4", "c.mp4")])


def test_a_journal_survives_writing(path: Path) -> None:
    assert read_journal(path) is None
    (path / JOURNAL_NAME).write_bytes(JOURNAL.to_bytes())
    assert read_journal(path) == JOURNAL


def test_the_next_writer_finishes_a_pending_relabel(path: Path) -> None:
    (path / JOURNAL_NAME).write_bytes(JOURNAL.to_bytes())
    pending = read_contents(path)
    assert pending["videos"][1].label == -1
    assert pending["videos"][0].source == "tape ü"
    open_writer(path, label_names=("safe", "harmful")).close()
    assert not (path / JOURNAL_NAME).exists()
    assert read_contents(path) == pending


def test_a_relabel_cut_off_by_a_full_disk_is_finished_before_the_next_change(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    with open_writer(path) as writer:
        monkeypatch.setattr(relabel, "finish", full)
        with pytest.raises(StorageFull):
            writer.relabel({"b.mp4": VideoLabel(-1, "unsure")})
        monkeypatch.undo()
        (path / JOURNAL_NAME).write_bytes(Journal({"label": {1: -1}}, None).to_bytes())
        writer.commit([make_video("d.mp4")], [])
        assert not (path / JOURNAL_NAME).exists()
    with open_cache(path) as cache:
        assert cache.videos.label[1] == -1
        assert cache.videos.id[3] == "d.mp4"
