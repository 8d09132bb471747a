"""Streams of words through the pipeline: what is there is stored, what is not has a reason, and no text leaves it unasked."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from rich.console import Console

import onepass
from cache.check import check_cache
from cache.convert import convert
from cache.errors import InputError
from cache.kept_text import kept_text_path, read_words
from cache.reader import open_cache
from cache.schema import StreamTokens, VideoFeatures
from heads.train import train_head
from heads.training.config import TrainConfig
from pipeline.backbones import choice
from pipeline.backbones.load import BackboneConfig, config_from_fingerprints, load_backbones
from pipeline.backbones.text import TextBackbone
from pipeline.config import ExtractConfig
from pipeline.decoding.decoders.base import DecodeProblem
from pipeline.decoding.pool import PoolSettings
from pipeline.dry_run import dry_run
from pipeline.flow import Flow
from pipeline.reporting.report import ExtractReport
from pipeline.run import extract
from pipeline.sources.shards import Shard
from pipeline.sources.transcripts import with_transcripts
from pipeline.sources.tree import SUBTITLES, discover
from pipeline.verify import compare_video, verdicts
from tests.conftest import every_kill
from tests.pipeline.backbones.kinds.test_logmel import rewritten
from tests.pipeline.trees import contents, run
from tests.videos import write_truncated, write_video
from tests.words import recognised, srt, write_encoder, write_with_words

pytestmark = pytest.mark.usefixtures("forked_workers")

SECRET = "zebra"
BESIDE = {
    "Fight/a_0.srt": srt(
        [(0.1, 0.5, f"<i>{SECRET} one</i>"), (0.6, 0.9, "two"), (0.95, 0.9, "back")]
    ).encode(),
    "Fight/b_0.mp4.json": recognised([(0.0, 0.4, f"{SECRET} three")]).encode(),
    "NonFight/c_0.txt": f"{SECRET} déjà vu".encode("cp1252"),
    "NonFight/d_0.srt": f"{SECRET} without times".encode(),
}
TRACKED, BARE = "NonFight/e_0.mkv", "NonFight/f_0.mp4"
WHY = {
    "NonFight/d_0.mp4": "transcript could not be read: d_0.srt: it has no line of times, as .srt files do",
    BARE: "no transcript",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny", longest=64)


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("words") / "data"
    for n, name in enumerate(
        ("Fight/a_0.mp4", "Fight/b_0.mp4", "NonFight/c_0.mp4", "NonFight/d_0.mp4", BARE)
    ):
        write_video(root / name, seconds=1, seed=n)
    write_with_words(root / TRACKED, [[(0.2, 0.8, f"{SECRET} four")]], codec="subrip", seconds=1)
    write_truncated(root / "Fight" / "broken.mp4")
    for name, data in BESIDE.items():
        (root / name).write_bytes(data)
    return root


def both(folder: Path, *more: str) -> BackboneConfig:
    return BackboneConfig.of(("motion", f"text=transformers:{folder}", *more), device="cpu", precision="fp32")


def said(config: ExtractConfig) -> tuple[str, ExtractReport]:
    """What an extraction prints, its summary included, and its report."""
    out = io.StringIO()
    report = extract(config, console=Console(file=out, width=200))
    return "\n".join([out.getvalue(), *report.lines(), json.dumps(report.as_dict())]), report


def absent(path: Path) -> dict[str, str]:
    with open_cache(path) as cache:
        assert not check_cache(cache)
        return {str(i): str(why) for i, why in zip(cache.videos.id, cache.absent("text"), strict=True) if why}


def test_words_are_stored_and_what_is_absent_has_its_reason(src: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    text, report = said(ExtractConfig(src, out, both(folder), pool=PoolSettings(workers=1), max_rejects=1.0))
    assert report.adds_up and (report.found, report.stored, report.rejected) == (7, 6, 1)
    assert report.absent == {"text: no transcript": 1, "text: transcript could not be read": 1}
    assert absent(out) == WHY
    assert "words: 4 of 7 videos have a transcript in a file" in text
    assert "2 files hold subtitles, for streams that read words: Fight/a_0.srt, NonFight/d_0.srt" in text
    assert report.transcripts == 4 and not report.skipped  # .json and .txt too were read
    pictures = run(src, tmp_path / "m.zarr", backbones=BackboneConfig.of(("motion",), device="cpu"))
    assert pictures.transcripts == 0 and len(pictures.skipped) == 4
    assert ("Fight/a_0.srt", SUBTITLES) in pictures.skipped
    assert report.notes["Fight/a_0.mp4"].startswith(
        "words: 1 cues with times that are negative, run backwards"
    )
    assert report.notes["NonFight/c_0.mp4"].startswith("words: the encoding of c_0.txt is guessed: cp1252")
    with open_cache(out) as cache:
        spans = {
            str(i): cache.tokens("text", n).spans.round(3).tolist() for n, i in enumerate(cache.videos.id)
        }
    assert spans["Fight/a_0.mp4"] == [pytest.approx([0.1, 0.9])]
    assert spans["NonFight/c_0.mp4"] == [[0.0, 1.0]] and spans[TRACKED] == [pytest.approx([0.2, 0.8])]
    # the text itself is nowhere
    assert SECRET not in text and not kept_text_path(out).exists()
    assert not [path for path in out.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_verify_reads_the_same_by_other_means(src: Path, folder: Path, tmp_path: Path) -> None:
    run(src, tmp_path / "c.zarr", backbones=both(folder), dtype="float32")
    read, _ = with_transcripts(discover(src).sources, [], None)
    given = {source.id: source.transcript for source in read}

    def lied(video: VideoFeatures) -> VideoFeatures:
        tokens = dict(video.tokens)
        if video.row.id == TRACKED:
            return VideoFeatures(video.row, {"motion": tokens["motion"]}, {"text": "no transcript"})
        if video.row.id == "Fight/a_0.mp4":
            tokens["text"] = StreamTokens(tokens["text"].values, tokens["text"].spans + np.float32(0.05))
        return replace(video, tokens=tokens)

    path = rewritten(tmp_path / "c.zarr", tmp_path / "lies.zarr", lied)
    with open_cache(tmp_path / "c.zarr") as cache, open_cache(path) as lies:
        prints = {name: info.fingerprint for name, info in cache.streams.items()}
        backbones = load_backbones(
            config_from_fingerprints(prints, device="cpu", files={"text": str(folder)})
        )
        assert isinstance(backbones["text"], TextBackbone)
        found = []
        for index in range(len(cache)):
            name = cache.videos.row(index).id
            more: dict[str, Any] = {"rng": np.random.default_rng(0), "transcript": given[name]}
            found += compare_video(cache, index, src / name, backbones, **more).comparisons
            why = {
                TRACKED: r"text: it is said to be absent \(no transcript\), 1 were due",
                "Fight/a_0.mp4": "lies elsewhere",
            }
            if name in why:
                index = lies.videos.id.tolist().index(name)
                with pytest.raises(DecodeProblem, match=why[name]):
                    compare_video(lies, index, src / name, backbones, **more)
        words = next(verdict for verdict in verdicts(cache, found) if verdict.stream == "text")
        assert words.ok and words.n_tokens == 4


def test_words_added_later_are_as_if_they_had_been_there(src: Path, folder: Path, tmp_path: Path) -> None:
    whole = run(src, tmp_path / "whole.zarr", backbones=both(folder))
    run(src, tmp_path / "later.zarr", backbones=BackboneConfig.of(("motion",), device="cpu"))
    added = run(src, tmp_path / "later.zarr", backbones=both(folder), keep_text=True)
    assert added.added_streams == {"text": 6} and added.absent == whole.absent
    assert contents(tmp_path / "later.zarr") == contents(tmp_path / "whole.zarr")
    assert absent(tmp_path / "later.zarr") == absent(tmp_path / "whole.zarr")
    assert len(read_words(tmp_path / "later.zarr")) == 4


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_an_interrupted_run_goes_on_to_the_same(
    src: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    loaded = load_backbones(both(folder))
    monkeypatch.setattr("pipeline.run.load_backbones", lambda *_, **__: loaded)
    run(src, tmp_path / f"whole.{suffix}", backbones=both(folder), keep_text=True)

    def cut(flow: Flow) -> None:
        if flow._stored or flow._rejected:
            flow._commit()
            raise KeyboardInterrupt

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(Flow, "_commit_if_due", cut)
            with pytest.raises(KeyboardInterrupt):
                run(src, tmp_path / f"cut.{suffix}", backbones=both(folder), keep_text=True)
    assert run(src, tmp_path / f"cut.{suffix}", backbones=both(folder), keep_text=True).adds_up
    assert contents(tmp_path / f"cut.{suffix}") == contents(tmp_path / f"whole.{suffix}")
    assert absent(tmp_path / f"cut.{suffix}") == absent(tmp_path / f"whole.{suffix}")
    kept = [
        sorted(read_words(tmp_path / f"{name}.{suffix}"), key=lambda k: k.id) for name in ("cut", "whole")
    ]
    assert kept[0] == kept[1] and len(kept[0]) == 4
    assert [one.came_from for one in kept[0]] == [
        "a_0.srt",
        "b_0.mp4.json",
        "c_0.txt",
        "subtitle track 0 (srt)",
    ]


def test_a_transcript_that_comes_later_is_read_and_shards_know_all_names(
    src: Path, folder: Path, tmp_path: Path
) -> None:
    given = tmp_path / "t"
    (given / "Fight").mkdir(parents=True)
    (given / "Fight" / "a_0.vtt").write_text(
        "WEBVTT\n\n00:00.000 --> 00:01.000\nother words\n", encoding="utf-8"
    )
    config = both(folder)
    run(src, tmp_path / "c.zarr", backbones=config)
    (given / "f_0.txt").write_text("by now", encoding="utf-8")
    text, report = said(
        ExtractConfig(
            src, tmp_path / "c.zarr", config, pool=PoolSettings(workers=1), max_rejects=1.0, transcripts=given
        )
    )
    assert "1 stored videos had no transcript and have one by now: they are extracted again" in text
    assert "1 stored videos had other words in their transcripts: they are extracted again" in text
    assert BARE not in absent(tmp_path / "c.zarr") and report.adds_up and report.stored_now == 2
    text, _ = said(
        ExtractConfig(
            src, tmp_path / "c.zarr", config, pool=PoolSettings(workers=1), max_rejects=1.0, keep_text=True
        )
    )
    assert "warning: --keep-text: the words of 4 stored videos were read without it and are not kept" in text
    for index in (1, 2):
        part = replace(config)
        text, report = said(
            ExtractConfig(
                src,
                tmp_path / f"{index}.zarr",
                part,
                pool=PoolSettings(workers=1),
                max_rejects=1.0,
                transcripts=given,
                shard=Shard(index, 2),
            )
        )
        assert "transcripts: 2 of 7 videos matched" in text and "0 transcripts without a video" in text


def test_a_transcript_that_changes_is_read_again(src: Path, folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(src, tmp_path / "data")
    manifest = tmp_path / "m.csv"
    manifest.write_text("id,text\nb_0.mp4,one\n", encoding="utf-8")
    config = ExtractConfig(
        data,
        tmp_path / "c.zarr",
        both(folder),
        pool=PoolSettings(workers=1),
        max_rejects=1.0,
        transcripts=manifest,
    )
    said(config)
    noted = tmp_path / "c.zarr.transcripts.jsonl"
    convert(tmp_path / "c.zarr", tmp_path / "copy.h5")
    assert SECRET not in noted.read_text("utf-8")
    noted.write_text(noted.read_text("utf-8") + '{"id": "cut', encoding="utf-8")
    text, report = said(config)
    assert "other words" not in text and report.stored_now == 0
    (data / "Fight" / "a_0.srt").write_text(srt([(0.1, 0.3, "quite another")]), encoding="utf-8")
    (data / "NonFight" / "c_0.txt").touch()
    manifest.write_text("id,text\nb_0.mp4,two\n", encoding="utf-8")
    text, report = said(config)
    assert "2 stored videos had other words in their transcripts: they are extracted again" in text
    assert report.redone == 2 and report.adds_up
    copied, _ = said(replace(config, out=tmp_path / "copy.h5"))  # as if the copy were continued
    assert "2 stored videos had other words in their transcripts" in copied
    with open_cache(tmp_path / "c.zarr") as cache:
        row = list(cache.videos.id).index("Fight/a_0.mp4")
        assert cache.tokens("text", row).spans.round(3).tolist() == [pytest.approx([0.1, 0.3])]
    text, report = said(config)
    assert "other words" not in text and report.stored_now == 0


def test_a_dry_run_joins_transcripts_as_the_run_does(src: Path, folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "t"
    given.mkdir()
    (given / "a_0.txt").write_text(SECRET, encoding="utf-8")
    (given / "z-9.txt").write_text(SECRET, encoding="utf-8")
    config = ExtractConfig(
        src, tmp_path / "c.zarr", both(folder), pool=PoolSettings(workers=1), transcripts=given
    )
    printed = io.StringIO()
    report = dry_run(config, console=Console(file=printed, width=200))
    assert "transcripts: 1 of 7 videos matched" in printed.getvalue() and report.transcripts == 4
    with mock.patch.object(
        BackboneConfig, "settled", autospec=True, side_effect=BackboneConfig.settled
    ) as settled:
        heard = BackboneConfig.of(("audio=logmel", f"text=transformers:{folder}"))
        dry_run(replace(config, backbones=heard), console=Console(file=io.StringIO()))
    assert settled.call_count == 1  # for what sound files are to it, and for the words
    assert "1 transcripts without a video" in printed.getvalue() and SECRET not in printed.getvalue()
    (given / "a_0.txt").unlink()
    with pytest.raises(InputError, match="no transcript joins any video"):
        dry_run(config, console=Console(file=printed))
    with pytest.raises(InputError, match="--transcripts: no stream of this run reads words"):
        dry_run(replace(config, backbones=BackboneConfig.of(("motion",))), console=Console(file=printed))


def test_what_does_not_fit_together_is_refused(src: Path, folder: Path, tmp_path: Path) -> None:
    motion = BackboneConfig.of(("motion",), device="cpu")
    with pytest.raises(InputError, match="--transcripts: no stream of this run reads words"):
        run(src, tmp_path / "a.zarr", backbones=motion, transcripts=src)
    with pytest.raises(InputError, match="--keep-text: no stream of this run reads words"):
        run(src, tmp_path / "a.zarr", backbones=motion, keep_text=True)
    tracked = BackboneConfig.of((f"text=transformers:{folder},track=0",), device="cpu", precision="fp32")
    with pytest.raises(InputError, match="--transcripts: no stream of this run reads files of words"):
        run(src, tmp_path / "a.zarr", backbones=tracked, transcripts=src)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a-0.srt").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="near miss: transcript 'a-0' and video 'Fight/a_0.mp4'"):
        run(src, tmp_path / "a.zarr", backbones=both(folder), transcripts=tmp_path / "t")
    assert not (tmp_path / "a.zarr").exists()
    report = run(src, tmp_path / "b.zarr", backbones=tracked, required=("text",))
    assert report.adds_up and report.stored == 1
    reason, detail = report.rejects[BARE]
    assert reason == "missing-stream" and detail.startswith("text: no transcript")


def test_predict_reads_what_lies_beside_a_video_and_what_is_named(
    src: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text_only = BackboneConfig.of((f"text=transformers:{folder}",), device="cpu", precision="fp32")
    for n in range(12):
        video = tmp_path / "data" / ("Fight" if n % 2 else "NonFight") / f"v{n}_0.mp4"
        write_video(video, seconds=0.5, seed=n)
        video.with_suffix(".txt").write_text("kick hit punch" if n % 2 else "ooo aaa eee", encoding="utf-8")
    run(tmp_path / "data", tmp_path / "c.zarr", backbones=text_only)
    with open_cache(tmp_path / "c.zarr") as cache:
        train_head(cache, TrainConfig().updated({"model": "logistic", "n_resamples": 0}), cv=2).save(
            tmp_path / "head"
        )
    new = tmp_path / "new"
    for name in ("x", "y", "z"):
        write_video(new / f"{name}.mp4", seconds=0.5)
    (new / "x.srt").write_text(srt([(0, 0.4, "kick hit punch")]), encoding="utf-8")
    named = tmp_path / "m.csv"
    named.write_text("id,text\ny,ooo aaa eee\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        words = [
            new,
            "--head",
            tmp_path / "head",
            "--out",
            tmp_path / "s.csv",
            "--weights-file",
            f"text={folder}",
        ]
        words += ["--transcripts", named, "--workers", "1", "--device", "cpu", "--max-rejects", "1"]
        patch.setattr(sys, "argv", ["onepass", "predict", *map(str, words)])
        onepass.main()
    out = capsys.readouterr().out
    assert not ended.value.code and "1 of 3 videos matched" in out and "kick" not in out
    with (tmp_path / "s.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert float(rows["x.mp4"]["probability"]) > 0.5 > float(rows["y.mp4"]["probability"])
    assert not rows["z.mp4"]["probability"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [pytest.param("zarr", marks=every_kill), "h5"])
def test_a_killed_run_goes_on_to_the_same(src: Path, folder: Path, tmp_path: Path, suffix: str) -> None:
    data = tmp_path / "data"
    for n in range(24):
        video = write_video(data / ("Fight" if n % 2 else "NonFight") / f"v{n}_0.mp4", seconds=0.5, seed=n)
        if n % 3:
            video.with_suffix(".srt").write_text(
                srt([(0, 0.3, f"words of {n}"), (0.3, 0.5, "and")]), encoding="utf-8"
            )
    config = both(folder)
    run(data, tmp_path / f"whole.{suffix}", backbones=config, keep_text=True)
    code = (
        "import sys; from pathlib import Path; from tests.pipeline.test_words import both; from tests.pipeline.trees import run\n"
        "run(Path(sys.argv[1]), Path(sys.argv[2]), backbones=both(Path(sys.argv[3])), keep_text=True, commit_videos=2)"
    )
    out = tmp_path / f"cut.{suffix}"
    record = (out if suffix == "zarr" else out.with_name(f"{out.name}.staging")) / "zarr.json"
    seen = 0
    for _ in range(3):
        before = record.stat().st_mtime_ns if record.exists() else 0
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(data), str(out), str(folder)],
            env={**os.environ, "PYTHONPATH": str(Path(onepass.__file__).parent)},
        )
        until = time.monotonic() + 120
        while child.poll() is None and time.monotonic() < until:
            if record.exists() and record.stat().st_mtime_ns != before:
                break
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        seen += child.wait() == -signal.SIGKILL
    assert seen, "every run ended before it was killed"
    assert run(data, out, backbones=config, keep_text=True).adds_up
    assert contents(out) == contents(tmp_path / f"whole.{suffix}")
    assert absent(out) == absent(tmp_path / f"whole.{suffix}") and len(absent(out)) == 8
    words = [sorted(read_words(path), key=lambda k: k.id) for path in (out, tmp_path / f"whole.{suffix}")]
    assert words[0] == words[1] and len(words[0]) == 16


def test_the_snippets_of_the_docs_run(
    src: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each command of docs/words.md, in a folder with `videos` and `transcripts`; `text` is the tiny encoder."""
    page = (Path(onepass.__file__).parent / "docs" / "words.md").read_text(encoding="utf-8")
    commands = [
        line.split() for line in page.splitlines() if line.startswith(("    extract ", "    onepass "))
    ]
    shutil.copytree(src, tmp_path / "videos")
    (tmp_path / "transcripts").mkdir()
    (tmp_path / "transcripts" / "f_0.txt").write_text(SECRET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(choice.RECIPES, "text", f"transformers:{folder}")  # type: ignore[arg-type]
    for command in commands:
        words = (
            command
            if command[0] == "onepass"
            else ["onepass", *command, "--max-rejects", "0.2", "--workers", "1"]
        )
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            onepass.main()
        assert not ended.value.code, (command, capsys.readouterr().err)
    assert len(commands) == 3 and SECRET in (tmp_path / "exported" / "words.csv").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    capsys.readouterr()
    exec(compile(snippet, "docs/words.md", "exec"), {})
    assert "NonFight/f_0.mp4 f_0.txt 1 cues" in capsys.readouterr().out
