"""Which of several equal files is kept: the first listed, found without a decode, and only files of one size are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.schema import KnownInput, VideoLabel
from pipeline.sources import twins
from pipeline.sources.inventory import Input
from pipeline.sources.tree import Source
from pipeline.sources.twins import firsts_and_twins, stored_contents


def items(folder: Path, contents: dict[str, bytes | None]) -> list[Input]:
    """One input a name; None is a file that is listed with a size but cannot be read."""
    found = []
    for name, data in contents.items():
        if data is not None:
            (folder / name).write_bytes(data)
        source = Source(name, folder / name, "", "", "")
        found.append(Input(source, VideoLabel(-1, ""), 3 if data is None else len(data), 1))
    return found


def names(inputs: list[Input]) -> list[str]:
    return [item.source.id for item in inputs]


def test_the_first_of_every_content_in_the_order_given(tmp_path: Path) -> None:
    files = {"c": b"one", "a": b"two", "b": b"one", "e": b"longer", "d": b"one", "f": b"two"}
    firsts, rest = firsts_and_twins(items(tmp_path, files))
    assert names(firsts) == ["c", "a", "e"]
    assert names(rest) == ["b", "d", "f"]


def test_empty_and_unreadable_files_are_no_twins(tmp_path: Path) -> None:
    files = {"gone": None, "also gone": None, "a": b"", "b": b"", "c": b"one"}
    firsts, rest = firsts_and_twins(items(tmp_path, files))
    assert names(firsts) == list(files) and rest == []


def test_a_file_of_its_own_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def digest(path: str) -> str:
        read.append(Path(path).name)
        return path

    monkeypatch.setattr(twins, "file_digest", digest)
    firsts_and_twins(items(tmp_path, {"a": b"1", "b": b"22", "c": b"3", "d": b"4444"}))
    assert read == ["a", "c"]


def test_a_stored_video_whose_file_holds_other_bytes_now_is_no_twin(tmp_path: Path) -> None:
    work = items(tmp_path, {"changed": b"new", "touched": b"old", "gone": None, "new": b"one"})
    entries = {
        name: KnownInput(name, "stored", digest, 3, 0)
        for name, digest in {
            "changed": "blake2b:1",
            "touched": twins.file_digest(str(tmp_path / "touched")),
            "gone": "blake2b:3",
            "elsewhere": "blake2b:4",
        }.items()
    }
    known = {**entries, "refused": KnownInput("refused", "rejected", "blake2b:5", 3, 0, "no-frames")}
    assert stored_contents(known, work) == {
        entries[name].digest: name for name in ("touched", "gone", "elsewhere")
    }
