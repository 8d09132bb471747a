"""Words beside a cache: theirs alone who asked, whole after a crash, and exported only for what is stored."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path
from unittest import mock

import pytest

from cache import kept_text
from cache.cli import convert_command
from cache.convert import convert
from cache.errors import CacheError, StorageFull
from cache.export import export_cache
from cache.kept_text import KeptWords, append_words, kept_text_path, read_words, transcripts_path
from cache.merge import merge
from cache.reader import open_cache
from tests.cache.builders import make_video, write_cache


def words(video_id: str, text: str, *, digest: str = "d", stream: str = "text") -> KeptWords:
    return KeptWords(video_id, digest, stream, "a.srt", ((0.5, 1.0, text), (1.0, 2.0, "오늘\n\u2028\ud800")))


def test_the_last_line_of_a_video_counts_and_a_torn_one_does_not(tmp_path: Path) -> None:
    cache = tmp_path / "c.zarr"
    assert read_words(cache) == []
    append_words(cache, [words("a", "first"), words("b", "other")])
    append_words(cache, [words("a", "second")])
    path = kept_text_path(cache)
    assert path.name == "c.zarr.words.jsonl" and stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open("ab") as file:
        file.write(b'{"id": "c", "digest": "d", "str' * 5000)
    assert [(k.id, k.cues[0][2]) for k in read_words(cache)] == [("a", "second"), ("b", "other")]
    append_words(cache, [words("c", "third")])
    assert [k.id for k in read_words(cache)] == ["a", "b", "c"]
    assert "second" not in repr(read_words(cache))


def test_what_cannot_be_written_or_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "c.zarr"
    kept_text_path(cache).write_text('{"id": 1}\n', encoding="utf-8")
    with pytest.raises(CacheError, match="is not what --keep-text writes"):
        read_words(cache)
    for number, kind, why in ((28, StorageFull, "the disk is full"), (5, CacheError, "cannot be written: ")):

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, "trouble")

        monkeypatch.setattr(kept_text.os, "fsync", refuse)
        with pytest.raises(kind, match=why):
            append_words(tmp_path / "d.zarr", [words("a", "secret")])


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_a_converted_or_merged_cache_has_the_words_of_what_it_holds(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = []
    for name in "ab":
        video = make_video(f"{name}.mp4")
        parts.append(write_cache(tmp_path / f"{name}.zarr", [video]))
        append_words(parts[-1], [words(f"{name}.mp4", "stale")])
        append_words(parts[-1], [words(f"{name}.mp4", f"kept {name}", digest=video.row.digest)])
        append_words(parts[-1], [words("gone.mp4", "x")])
    out = tmp_path / f"out.{suffix}"
    merge(parts, out)
    kept = read_words(out)
    assert [(k.id, k.cues[0][2]) for k in kept] == [("a.mp4", "kept a"), ("b.mp4", "kept b")]
    assert stat.S_IMODE(kept_text_path(out).stat().st_mode) == 0o600
    convert_command(out, tmp_path / "c.zarr")
    assert read_words(tmp_path / "c.zarr") == kept
    assert "c.zarr.words.jsonl: the words that --keep-text kept, copied along" in capsys.readouterr().out
    assert not [path for path in tmp_path.iterdir() if "taking" in path.name]
    kept_text_path(out).unlink()
    convert_command(out, tmp_path / "d.zarr")
    assert not kept_text_path(tmp_path / "d.zarr").exists() and "words" not in capsys.readouterr().out
    convert_command(out, tmp_path / "c.zarr", overwrite=True)  # what is replaced leaves no words behind
    assert not kept_text_path(tmp_path / "c.zarr").exists() and "words" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_what_the_words_were_read_from_goes_along_too(suffix: str, tmp_path: Path) -> None:
    parts = []
    for name in "ab":
        parts.append(write_cache(tmp_path / f"{name}.zarr", [make_video(f"{name}.mp4")]))
        lines = [
            note(f"{name}.mp4", "old"),
            note("gone.mp4", "x"),
            note(f"{name}.mp4", name),
            '{"id": "cut',
            "[]",
        ]
        transcripts_path(parts[-1]).write_text("\n".join(lines), encoding="utf-8")
    wanted = [note("a.mp4", "a"), note("b.mp4", "b")]
    out, copied = tmp_path / f"out.{suffix}", tmp_path / "c.zarr"
    merge(parts, out)
    assert transcripts_path(out).read_text("utf-8").splitlines() == wanted
    convert(out, copied)
    assert transcripts_path(copied).read_text("utf-8").splitlines() == wanted
    assert not kept_text_path(out).exists() and not [
        path for path in tmp_path.iterdir() if "taking" in path.name
    ]
    transcripts_path(out).unlink()
    convert(out, copied, overwrite=True)  # what is replaced leaves none behind
    assert not transcripts_path(copied).exists()


def note(video_id: str, digest: str) -> str:
    return json.dumps({"id": video_id, "stamp": "", "digest": digest})


@pytest.mark.parametrize("replaced", [False, True])
def test_words_are_there_before_the_name_and_stay_with_what_is_not_replaced(
    replaced: bool, tmp_path: Path
) -> None:
    video = make_video("a.mp4")
    source, target = write_cache(tmp_path / "a.zarr", [video]), tmp_path / "t.zarr"
    append_words(source, [words("a.mp4", "new", digest=video.row.digest)])
    if replaced:
        append_words(write_cache(target, [video]), [words("a.mp4", "old", digest=video.row.digest)])

    def killed(*_: object, **__: object) -> None:
        (found,) = read_words(target)
        raise KeyboardInterrupt(found.cues[0][2])

    with (
        mock.patch("cache.convert.write_copy", killed),
        pytest.raises(KeyboardInterrupt, match="old" if replaced else "new"),
    ):
        convert(source, target, overwrite=replaced)
    convert(source, target, overwrite=replaced)
    assert [one.cues[0][2] for one in read_words(target)] == ["new"]


def test_words_are_exported_for_what_is_stored(tmp_path: Path) -> None:
    video = make_video("a.mp4")
    cache = write_cache(tmp_path / "c.zarr", [video])
    digest = video.row.digest
    append_words(
        cache, [words("a.mp4", "kept", digest=digest, stream="clip"), words("gone.mp4", "x", stream="clip")]
    )
    append_words(cache, [words("a.mp4", "stale", stream="slowfast")])
    with open_cache(cache) as opened:
        export_cache(opened, tmp_path / "out", how="csv")
        export_cache(opened, tmp_path / "one", how="csv", streams=["slowfast"])
    with (tmp_path / "out" / "words.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["stream"], row["start_seconds"], row["text"][:4]) for row in rows] == [
        ("a.mp4", "clip", "0.5", "kept"),
        ("a.mp4", "clip", "1.0", "오늘\n\u2028"),
    ]
    assert not (tmp_path / "one" / "words.csv").exists()
