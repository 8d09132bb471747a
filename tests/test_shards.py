"""Shards through the commands: each extracts its own, the merge is what one run would have made."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cache.errors import CacheError, InputError
from cache.merge import merge
from cache.reader import open_cache
from pipeline import run as run_module
from pipeline.cli.merge import merge_command
from pipeline.cli.plan import plan_command
from pipeline.counts import FlowCounts
from pipeline.sources.shards import Shard, parse_shard
from tests.pipeline.tiny import TinyBackbone, tiny_backbones
from tests.pipeline.trees import BAD, GOOD, contents, make_tree, run
from tests.videos import write_video

pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(config: Any, **_: Any) -> Mapping[str, TinyBackbone]:
        return tiny_backbones(*config.names)

    monkeypatch.setattr(run_module, "load_backbones", load)


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("shards") / "data")


@pytest.mark.parametrize("planned", [False, True])
def test_shards_merged_are_one_run(
    planned: bool, src: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(src, tmp_path / "whole.zarr")
    plan = None
    if planned:
        plan = tmp_path / "plan.json"
        plan_command(src, shards=3, out=plan, workers=1)
        assert json.loads(plan.read_text())["shards"] == 3
    parts = []
    for index in (1, 2, 3):
        parts.append(tmp_path / f"part-{index}.{'h5' if index == 2 else 'zarr'}")
        report = run(src, parts[-1], shard=parse_shard(f"{index}/3", plan))
        assert report.adds_up and report.found < len(GOOD) + len(BAD)
    capsys.readouterr()
    merge_command(parts, out=tmp_path / "all.zarr", src=src)
    printed = capsys.readouterr().out
    assert f"3 parts, {len(GOOD)} videos + {len(BAD)} rejects = 8 in {src}: adds up" in printed
    assert contents(tmp_path / "all.zarr") == contents(tmp_path / "whole.zarr")
    again = run(src, tmp_path / "all.zarr")  # the merged cache is continued like any other
    assert (again.stored_now, again.stored_before) == (0, len(GOOD))


def test_a_merged_cache_goes_on_as_the_whole_one_does(src: Path, tmp_path: Path) -> None:
    """By id: the order of rows is that in which videos ended, and differs."""
    data, whole, merged = (tmp_path / name for name in ("data", "whole.zarr", "all.h5"))
    shutil.copytree(src, data)
    run(data, whole)
    parts = [tmp_path / f"{index}.zarr" for index in (1, 2)]
    for index, part in enumerate(parts, start=1):
        run(data, part, shard=Shard(index, 2))
    merge(parts, merged)
    write_video(data / "train/Fight/a_2.mp4", seconds=0.5, seed=77)
    write_video(data / GOOD[0], seconds=0.9, seed=78)
    (data / GOOD[1]).write_bytes(b"no video any more")
    for out in (whole, merged):
        report = run(data, out)
        assert (report.stored_now, report.replaced, report.rejected_now) == (2, 1, 1)
    assert contents(merged) == contents(whole)


def test_a_shard_that_was_cut_short_is_not_merged(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.flow.Flow.run", lambda _, work, **__: FlowCounts(not_reached=len(work)))
    run(src, tmp_path / "1.zarr", shard=Shard(1, 1))
    monkeypatch.undo()
    with pytest.raises(CacheError, match=r"shard 1/1\) is not finished: 0 of 8 inputs have ended"):
        merge([tmp_path / "1.zarr"], tmp_path / "all.zarr")
    monkeypatch.setattr(run_module, "load_backbones", lambda config, **_: tiny_backbones(*config.names))
    run(src, tmp_path / "1.zarr", shard=Shard(1, 1))
    merge([tmp_path / "1.zarr"], tmp_path / "all.zarr")
    with open_cache(tmp_path / "all.zarr") as cache:
        assert len(cache) == len(GOOD)


def test_a_cache_keeps_to_its_share(src: Path, tmp_path: Path) -> None:
    run(src, tmp_path / "1.zarr", shard=Shard(1, 2))
    with pytest.raises(InputError, match=r"1\.zarr holds shard 1/2: give each shard an --out of its own"):
        run(src, tmp_path / "1.zarr", shard=Shard(2, 2))
    with pytest.raises(InputError, match="holds shard 1/2"):
        run(src, tmp_path / "1.zarr")
    run(src, tmp_path / "whole.zarr")
    with pytest.raises(InputError, match="holds a source that was not divided"):
        run(src, tmp_path / "whole.zarr", shard=Shard(1, 2))
    with pytest.raises(InputError, match="--taper 2.0: between 0 and 1"):
        plan_command(src, shards=2, out=tmp_path / "plan.json", taper=2.0)
    with pytest.raises(InputError, match="--duplicates reject: a shard does not see"):
        run(src, tmp_path / "2.zarr", shard=Shard(2, 2), duplicates="reject")


@pytest.mark.slow
def test_the_xargs_line_of_the_docs_runs(src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word, with an `extract` of one stream on the path and the merge behind it."""
    repository = Path(__file__).parents[1]
    page = (repository / "docs" / "scale.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^    (seq .*xargs.*)$", page, re.MULTILINE)
    command = tmp_path / "bin" / "extract"
    command.parent.mkdir()
    command.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'from pipeline.cli.extract import main; main()' \"$@\" "
        "--streams motion --workers 1 --max-rejects 1\n",
        encoding="utf-8",
    )
    command.chmod(0o755)
    (tmp_path / "RWF-2000").symlink_to(src)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["sh", "-c", line],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(repository)},
        check=True,
    )
    merge_command(sorted((tmp_path / "parts").glob("*.zarr")), out=tmp_path / "all.zarr", src=src)
    monkeypatch.undo()
    run(src, tmp_path / "whole.zarr", streams=("motion",))
    assert contents(tmp_path / "all.zarr") == contents(tmp_path / "whole.zarr")
