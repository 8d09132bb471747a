"""Extraction into object storage and everything that reads from there, through the commands."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cache.cli import convert_command, inspect_command
from cache.errors import CacheError, CacheLocked, CacheNotFound, FingerprintMismatch, InputError
from cache.objects.mirror import Mirror
from cache.objects.record import RECORD_NAME, CommitRecord
from cache.objects.store import ObjectTrouble
from cache.reader import open_cache
from heads.cli.audit import audit_command
from pipeline import run as run_module
from pipeline.cli import extract as cli
from pipeline.cli.merge import merge_command
from pipeline.flow import Flow
from pipeline.sources.shards import parse_shard
from tests.objects import BUCKET, Server
from tests.objects import serve as serve
from tests.pipeline.tiny import TinyBackbone, tiny_backbones
from tests.pipeline.trees import BAD, GOOD, contents, make_tree, run
from tests.videos import write_video

pytestmark = pytest.mark.usefixtures("forked_workers")
REPOSITORY = Path(__file__).parents[1]
SMALL_COMMITS = """
import functools
from pipeline import config
from pipeline.cli.extract import main
config.ExtractConfig = functools.partial(config.ExtractConfig, commit_videos=4)
main()
"""
"""The command, committing so often that a short run has many moments between commits."""


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("remote") / "data")


@pytest.fixture(scope="module")
def bucket(serve: Server) -> Server:
    return serve


@pytest.fixture
def url(bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    def load(config: Any, **_: Any) -> Mapping[str, TinyBackbone]:
        return tiny_backbones(*config.names)

    monkeypatch.setattr(run_module, "load_backbones", load)
    monkeypatch.setenv("ONEPASS_OBJECTS_DIR", str(tmp_path / "local"))
    bucket.objects.clear()
    return f"s3://{BUCKET}/v1/part.zarr"


def record(bucket: Server, url: str) -> CommitRecord:
    key = f"{url.split('/', 3)[3]}/{RECORD_NAME}"
    return CommitRecord.from_bytes(bucket.objects[key][0], where=url)


def invoke(command: Any, *words: object) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_a_run_into_a_bucket_is_the_local_run(
    src: Path, url: str, bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(src, tmp_path / "here.zarr")
    report = run(src, Path(url), publish_seconds=0, commit_videos=2)
    assert (report.out, report.stored, report.rejected) == (url, len(GOOD), len(BAD)) and report.adds_up
    assert record(bucket, url).sequence > 2
    whole = contents(tmp_path / "here.zarr")
    assert contents(Path(url)) == whole
    monkeypatch.setenv("ONEPASS_OBJECTS_DIR", str(tmp_path / "elsewhere"))
    again = run(src, Path(url))
    assert (again.stored_now, again.stored_before) == (0, len(GOOD)) and contents(Path(url)) == whole
    with pytest.raises(FingerprintMismatch, match=rf"^{url} also holds "):
        run(src, Path(url), streams=("clip",))
    code, said = invoke(inspect_command, url, "--json")
    facts = json.loads(said)
    assert (code, facts["paths"], facts["n_videos"]) == (0, [url], len(GOOD))
    assert f"cache      {url}: 5 videos" in invoke(audit_command, url)[1]
    assert "local" not in said and "elsewhere" not in said


def test_from_a_bucket_into_a_bucket(src: Path, url: str, bucket: Server, tmp_path: Path) -> None:
    bucket.put_tree(src, "data")
    report = run(f"s3://{BUCKET}/data", Path(url), streams=("clip",))
    assert (report.stored, report.rejected) == (len(GOOD), len(BAD))
    run(src, tmp_path / "here.zarr", streams=("clip",))
    found, whole = contents(Path(url)), contents(tmp_path / "here.zarr")
    assert {i: tokens for i, (_, tokens) in found["videos"].items()} == {
        i: tokens for i, (_, tokens) in whole["videos"].items()
    }


def test_parts_are_merged_and_converted_to_and_from_addresses(
    src: Path, url: str, bucket: Server, tmp_path: Path
) -> None:
    run(src, tmp_path / "whole.zarr")
    parts = [url.replace("part", f"part-{index}") for index in (1, 2)]
    for index, part in enumerate(parts, 1):
        run(src, Path(part), shard=parse_shard(f"{index}/2", None))
    out = url.replace("part", "all")
    code, said = invoke(merge_command, *parts, "--out", out, "--src", src)
    assert code == 0 and f"{out}: 2 parts, 5 videos + 3 rejects = 8 in {src}: adds up" in said
    whole = contents(tmp_path / "whole.zarr")
    assert contents(Path(out)) == whole
    with pytest.raises(CacheError, match=rf"^{out} exists; remove it"):
        invoke(merge_command, *parts, "--out", out)
    invoke(convert_command, out, tmp_path / "copy.h5")
    bucket.faults["v1/again.h5/commit.json"] += ["", "503"]  # one bad answer is borne
    code, said = invoke(convert_command, tmp_path / "copy.h5", url.replace("part.zarr", "again.h5"))
    assert code == 0 and said.startswith(f"s3://{BUCKET}/v1/again.h5: 5 videos")
    assert contents(Path(url.replace("part.zarr", "again.h5"))) == contents(tmp_path / "copy.h5") == whole


def test_what_could_not_be_published_whole_is_made_again(
    src: Path, url: str, bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a conversion that failed stands in the way of the same command, or is published by another one."""
    monkeypatch.setattr("cache.objects.mirror._TRIES", 2)
    monkeypatch.setattr("cache.objects.store.TRIES", 2)
    run(src, tmp_path / "whole.zarr")
    bucket.faults["v1/part.zarr/commit.json"] += ["", *["503"] * 40]
    with pytest.raises(ObjectTrouble, match="nothing was published; run the same command again"):
        invoke(convert_command, tmp_path / "whole.zarr", url)
    bucket.faults.clear()
    with pytest.raises(CacheNotFound):
        open_cache(Path(url))
    with pytest.raises(CacheNotFound):
        invoke(convert_command, tmp_path / "none.zarr", url)
    with pytest.raises(CacheNotFound):
        open_cache(Path(url))
    invoke(convert_command, tmp_path / "whole.zarr", url)
    assert contents(Path(url)) == contents(tmp_path / "whole.zarr")


def test_a_second_writer_ends_with_its_line(
    src: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one command on two machines: one ends whole, the other says who won, and the same command mends it."""
    commit = Mirror.publish
    monkeypatch.setenv("ONEPASS_OBJECTS_DIR", str(tmp_path / "loser"))

    def overtaken(self: Mirror) -> None:
        monkeypatch.setattr(Mirror, "publish", commit)
        monkeypatch.setenv("ONEPASS_OBJECTS_DIR", str(tmp_path / "winner"))
        run(src, Path(url))
        self.publish()

    monkeypatch.setattr(Mirror, "publish", overtaken)
    with pytest.raises(
        CacheLocked, match=rf"^{url}: another writer on .* published record 1 .* \(5 videos\)"
    ):
        run(src, Path(url), publish_seconds=0, commit_videos=1)
    whole = contents(Path(url))
    assert len(whole["videos"]) == len(GOOD)
    monkeypatch.setenv("ONEPASS_OBJECTS_DIR", str(tmp_path / "loser"))
    mended = run(src, Path(url))
    assert (mended.stored_now, mended.stored_before) == (0, len(GOOD)) and contents(Path(url)) == whole


def test_interrupted_it_publishes_what_is_whole(
    src: Path, url: str, bucket: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def stopping() -> Iterator[threading.Event]:
        stop = threading.Event()
        refuse = Flow._refuse

        def stop_at_the_first(self: Flow, refused: Any) -> None:
            refuse(self, refused)
            stop.set()

        monkeypatch.setattr(Flow, "_refuse", stop_at_the_first)
        yield stop

    monkeypatch.setattr(run_module, "stop_on_signal", stopping)
    report = run(src, Path(url))
    found = record(bucket, url)
    assert report.interrupted and report.not_reached and found.sequence == 1
    assert (found.n_videos, found.n_rejects) == (report.stored, report.rejected) and found.n_rejects


def test_what_does_not_go_with_an_address_is_refused(src: Path, url: str) -> None:
    for words, said in (
        (["--engine", "ray"], f"--out {url}: is in object storage; give a local cache"),
        (["--keep-text"], "--keep-text: words are kept beside a local cache only"),
        (["--publish-seconds", "-1"], "--publish-seconds -1: must not be negative"),
    ):
        with pytest.raises(InputError, match=said.replace(".", r"\.")):
            invoke(cli.extract_command, "--src", src, "--out", url, *words)


@pytest.mark.slow
def test_killed_at_many_moments_it_ends_as_the_uninterrupted_run(
    url: str, bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` of the real command, half of the time with a fresh machine to go on; ONEPASS_EVERY_CRASH_POINT=1: 20 times."""
    data = tmp_path / "data"
    first = write_video(data / "Fight/000.mp4", seconds=1, fps=10)
    for number in range(1, 60):
        path = data / ("Fight" if number % 2 else "NonFight") / f"{number:03}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(first.read_bytes() + bytes([number]))
    command = [sys.executable, "-c", SMALL_COMMITS, "--src", str(data), "--stream", "motion=motion"]
    command += ["--workers", "1", "--publish-seconds", "0"]

    def finish(out: object) -> None:
        subprocess.run([*command, "--out", str(out)], check=True, cwd=REPOSITORY, capture_output=True)

    finish(tmp_path / "here.zarr")
    whole = contents(tmp_path / "here.zarr")
    rng = random.Random(1)
    killed, seen = 0, 0
    wanted = 20 if os.environ.get("ONEPASS_EVERY_CRASH_POINT") else 2
    machine = 0
    for number in itertools.count():
        machine += number % 2
        monkeypatch.setenv("ONEPASS_OBJECTS_DIR", str(tmp_path / f"local{machine}"))
        process = subprocess.Popen(
            [*command, "--out", url],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        before = sum(bucket.asked.values())
        after = rng.randrange(1, 120)  # requests: the moments that matter lie among them
        while process.poll() is None and sum(bucket.asked.values()) < before + after:
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
        if killed and bucket.objects.keys() & {f"v1/part.zarr/{RECORD_NAME}"}:
            held = contents(Path(url))["videos"]
            assert len(held) == record(bucket, url).n_videos >= seen
            assert all(whole["videos"][video_id] == video for video_id, video in held.items())
            seen = len(held)
        print(f"{number}: {killed} killed, {seen} videos published, {after} requests")
        if killed == wanted:
            break
        if seen == len(whole["videos"]):
            bucket.objects.clear()
            seen, machine = 0, machine + 1
    finish(url)
    assert contents(Path(url)) == whole
    with open_cache(url) as cache:
        assert len(cache) == 60
