"""Every source is work, stored or rejected; nothing is extracted twice and nothing that is stored is lost."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from cache.schema import KnownInput, VideoLabel
from pipeline.sources.inventory import take_inventory
from pipeline.sources.tree import Source


def make(tmp_path: Path, *names: str) -> list[Source]:
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    return [Source(name, tmp_path / name, "", "", "") for name in names]


def known(source: Source, state: str = "stored", **changes: int) -> KnownInput:
    status = source.path.stat()
    size, time = changes.get("size", status.st_size), changes.get("mtime", status.st_mtime_ns)
    return KnownInput(source.id, state, f"blake2b:{source.id}", size, time)  # type: ignore[arg-type]


def test_new_stored_rejected_and_gone(tmp_path: Path) -> None:
    new, stored, rejected, gone = make(tmp_path, "new.mp4", "stored.mp4", "rejected.mp4", "gone.mp4")
    entries = {s.id: known(s) for s in (stored, gone)} | {rejected.id: known(rejected, "rejected")}
    labels = {new.id: VideoLabel(1, "Fight")}
    found = take_inventory([new, stored, rejected], labels, entries, retry_rejects=False)
    assert [(item.source.id, item.label.label, item.known_digest) for item in found.work] == [
        ("new.mp4", 1, "")
    ]
    assert (found.work[0].size_bytes, found.work[0].mtime_ns) == (7, new.path.stat().st_mtime_ns)
    assert found.stored == ("stored.mp4",) and found.rejected == ("rejected.mp4",)
    assert found.gone == ("gone.mp4",)
    assert found.n_found == 3


def test_rejects_are_tried_again_on_demand(tmp_path: Path) -> None:
    (source,) = make(tmp_path, "a.mp4")
    found = take_inventory([source], {}, {source.id: known(source, "rejected")}, retry_rejects=True)
    assert [item.known_digest for item in found.work] == [""]
    assert found.work[0].label.label == -1


def test_a_changed_file_is_work_with_the_digest_it_had(tmp_path: Path) -> None:
    touched, resized, mended = make(tmp_path, "touched.mp4", "resized.mp4", "mended.mp4")
    entries = {
        touched.id: known(touched, mtime=1),
        resized.id: known(resized, size=1),
        mended.id: known(mended, "rejected", size=1),
    }
    found = take_inventory([touched, resized, mended], {}, entries, retry_rejects=False)
    assert [(item.source.id, item.known_digest) for item in found.work] == [
        ("touched.mp4", "blake2b:touched.mp4"),
        ("resized.mp4", "blake2b:resized.mp4"),
        ("mended.mp4", ""),  # whatever its contents, it is to be decoded
    ]


def test_a_stored_video_whose_file_cannot_be_found_stays_stored(tmp_path: Path) -> None:
    """A manifest lists files on a disk that is not mounted today: their features must not become rejects."""
    here, lost, never = make(tmp_path, "here.mp4", "lost.mp4", "never.mp4")
    entries = {source.id: known(source) for source in (here, lost)}
    lost.path.unlink()
    never.path.unlink()
    found = take_inventory([here, lost, never], {}, entries, retry_rejects=True)
    assert found.stored == ("here.mp4", "lost.mp4")
    assert found.gone == ("lost.mp4",)
    assert [item.source.id for item in found.work] == ["never.mp4"]
    assert (found.work[0].size_bytes, found.work[0].mtime_ns) == (0, 0)


def test_passing_trouble_is_work_at_every_run(tmp_path: Path) -> None:
    names = ("late.mp4", "later.mp4", "gone.mp4", "old.mp4", "broken.mp4")
    sources = make(tmp_path, *names)
    reasons = ("deadline", "deadline", "missing-file", "unreadable-container", "unreadable-container")
    digests = ("", "", "", "", "blake2b:broken")
    entries = {
        source.id: replace(known(source, "rejected"), reason=reason, digest=digest)
        for source, reason, digest in zip(sources, reasons, digests, strict=True)
    }
    found = take_inventory(sources, {}, entries, retry_rejects=False)
    assert [item.source.id for item in found.work] == list(names[:4])
    assert found.rejected == ("broken.mp4",)
    assert found.lines() == [
        "retrying 4 rejects of passing trouble: deadline 2, missing-file 1, unreadable-container 1"
    ]


def test_an_empty_file_of_1970_is_there(tmp_path: Path) -> None:
    """Its size and time are what stands for a file that cannot be looked at."""
    (source,) = make(tmp_path, "a.mp4")
    entry = known(source)
    source.path.write_bytes(b"")
    os.utime(source.path, (0, 0))
    found = take_inventory([source], {}, {source.id: entry}, retry_rejects=False)
    assert [item.source.id for item in found.work] == ["a.mp4"] and not found.gone


def test_a_rejected_folder_that_holds_inputs_now_was_listed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    sources = make(tmp_path, "a/b/x.mp4")
    trouble, verdict = ("unreadable-file", "no-frames")
    entries = {
        name: KnownInput(name, "rejected", "", 0, 0, reason)
        for name, reason in {"a/b": trouble, "a": verdict, "a/b/x": trouble, "c": trouble}.items()
    }
    found = take_inventory(sources, {}, entries, retry_rejects=False)
    assert found.listed == ("a/b",) and found.gone == ("a", "a/b/x", "c")
