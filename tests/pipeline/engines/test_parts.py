"""The parts of a placed run: divided once, looked at as they grow."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from cache.errors import InputError
from cache.process.terminal import make_console
from pipeline.cli.extract import extract_command
from pipeline.engines import parts as parts_module
from pipeline.engines.on_ray import Ended, LimitReached, RayEngine, _require_retry
from pipeline.engines.parts import PartsFolder, PartsTable
from pipeline.sources.shards import Shard, hashed_shard
from tests.cache.builders import make_reject, make_video, open_writer

IDS = [f"v{number}.mp4" for number in range(40)]


def test_a_source_is_divided_once(tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    first = PartsFolder.of_run(out, shards=0, default=4, plan="")
    assert first.of == 4 and first.is_seen() and first.path == tmp_path / "c.zarr.parts"
    assert PartsFolder.of_run(out, shards=0, default=9, plan="") == first  # a larger cluster changes nothing
    assert PartsFolder.of_run(out, shards=4, default=9, plan="") == first
    with pytest.raises(InputError, match="was begun with 4 shards: go on with those"):
        PartsFolder.of_run(out, shards=5, default=9, plan="")
    with pytest.raises(InputError, match="of another plan"):
        PartsFolder.of_run(out, shards=0, default=9, plan="feed")
    parts = first.parts(IDS, None)
    assert [part.name for part in parts] == ["1/4", "2/4", "3/4", "4/4"]
    assert [part.found for part in parts] == [sum(hashed_shard(i, 4) == n for i in IDS) for n in (1, 2, 3, 4)]
    planned = first.parts(IDS, Shard(1, 4, dict.fromkeys(IDS, 2)))
    assert [part.found for part in planned] == [0, 40, 0, 0]
    (first.path / "run.json").write_text(json.dumps({"shards": 4, "token": "other", "plan": ""}))
    assert not first.is_seen()  # another folder of the same name, on a machine of its own
    (first.path / "run.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        PartsFolder.of_run(out, shards=0, default=9, plan="")


def test_how_far_parts_are_is_read_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "LOG_SECONDS", 0.0)
    printed = io.StringIO()
    one, two = PartsFolder.of_run(tmp_path / "c.zarr", shards=2, default=1, plan="").parts(IDS, None)
    one.attempts, two.attempts = 2, 1
    with PartsTable([one, two], make_console(file=printed, width=200)) as table:
        assert "0 done, 0 running, 2 waiting of 2; 0/40 inputs ended, 1 shards begun again" in table.line()
        with open_writer(one.path) as writer:
            writer.commit([make_video("a"), make_video("b")], [make_reject("c")])
            table.show(now=True)
            assert (one.state, one.ended, two.state) == ("running", 3, "waiting") and one.where()
        one.look()
        assert one.state == "waiting"  # nobody writes it now
        table.show()  # too soon
    assert (
        printed.getvalue().splitlines()[0].startswith("shards 0 done, 1 running, 1 waiting of 2; 3/40 inputs")
    )
    assert len(printed.getvalue().splitlines()) == 1


def test_what_ended_a_shard_decides_whether_it_is_begun_again(tmp_path: Path) -> None:
    (part,) = PartsFolder.of_run(tmp_path / "c.zarr", shards=1, default=1, plan="").parts(IDS, None)
    lost = Ended("n1", trouble=LimitReached("the node died"), passing=True)
    part.attempts = 2
    _require_retry(part, lost, retries=2)
    assert part.why == "the node died"
    part.attempts = 3
    with pytest.raises(
        LimitReached, match=r"shard 1/1 ended 3 times, the last time with: the node died .*goes on"
    ):
        _require_retry(part, lost, retries=2)
    with pytest.raises(InputError, match=r"shard 1/1 on n1: no such folder \(its log: .*000001\.log\)"):
        _require_retry(part, Ended("n1", trouble=InputError("no such folder")), retries=9)


def test_what_does_not_go_with_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ({"shard": "1/2"}, {"dry_run": True}):
        with pytest.raises(InputError, match="--engine ray makes all shards itself"):
            extract_command(tmp_path, out=tmp_path / "c.zarr", engine="ray", **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--engine dask: choose from ray"):
        extract_command(tmp_path, out=tmp_path / "c.zarr", engine="dask")
    with pytest.raises(InputError, match="place shards with --engine ray"):
        extract_command(tmp_path, out=tmp_path / "c.zarr", shards=2)
    with pytest.raises(InputError, match="--retries -1"):
        RayEngine(retries=-1)
    monkeypatch.setattr("pipeline.engines.on_ray.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"not installed; pip install 'onepass\[ray\]'"):
        extract_command(tmp_path, out=tmp_path / "c.zarr", engine="ray")
